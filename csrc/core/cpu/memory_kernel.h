// The interface between memory.cpp and memory_kernel.cpp, which is built once for each instruction set.
#pragma once

#include <stdint.h>

namespace mdn {

struct MemoryKernel {
  void (*zero)(void* data, int64_t bytes, bool past_cache);
};

namespace baseline {
extern const MemoryKernel memory_kernel;
}
namespace avx2 {
extern const MemoryKernel memory_kernel;
}
namespace avx512 {
extern const MemoryKernel memory_kernel;
}

}  // namespace mdn
