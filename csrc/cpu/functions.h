// The elementary functions of math/functions.h on arrays, so that tests can measure their errors at every SIMD level.
#pragma once

#include <stdint.h>

namespace mdn {

struct FunctionKernel {
  // `count` is a multiple of 16.
  void (*exp)(const float* from, float* to, int64_t count);
  void (*log)(const float* from, float* to, int64_t count);
  void (*log1p)(const float* from, float* to, int64_t count);
};

namespace baseline {
extern const FunctionKernel function_kernel;
}
namespace avx2 {
extern const FunctionKernel function_kernel;
}
namespace avx512 {
extern const FunctionKernel function_kernel;
}

}  // namespace mdn
