// The elementary functions of functions.h on arrays, so that tests can measure their errors at every SIMD level.
#pragma once

#include <stdint.h>

namespace mdn {

// The functions of `count` numbers, a multiple of 16.
template <class T>
struct Functions {
  void (*exp)(const T* from, T* to, int64_t count);
  void (*log)(const T* from, T* to, int64_t count);
  void (*log1p)(const T* from, T* to, int64_t count);
  void (*tanh_half)(const T* from, T* to, int64_t count);
};

struct FunctionKernel {
  Functions<float> of_float;
  Functions<double> of_double;
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
