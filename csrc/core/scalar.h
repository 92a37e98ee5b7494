// The value type of a GPU thread: one float or double in place of a SIMD vector (simd.h), so that the formulas serve
// both. The host compiler builds the CUDA kernels with it too when they run on the CPU (tests/cuda_on_cpu).
#pragma once

#include <math.h>
#include <stdint.h>

#define MDN_SIMD_LEVEL device

#ifdef __CUDACC__
#define MDN_INLINE __host__ __device__ __forceinline__
#else
#define MDN_INLINE inline __attribute__((always_inline))
#endif

namespace mdn {
namespace MDN_SIMD_LEVEL {

template <class T>
using Vector = T;
template <class T>
using Mask = bool;

template <class T>
constexpr int lanes = 1;

template <class T>
MDN_INLINE T broadcast(T value) {
  return value;
}

// The accurate functions of the device. Where a kernel can prove that less is enough for float32's precision it takes
// the fast ones of core/cuda/device.cuh by their names.
MDN_INLINE float exp(float x) { return ::expf(x); }
MDN_INLINE double exp(double x) { return ::exp(x); }
MDN_INLINE float log(float x) { return ::logf(x); }
MDN_INLINE double log(double x) { return ::log(x); }
MDN_INLINE double log1p(double x) { return ::log1p(x); }
MDN_INLINE float tanh_half(float x) { return ::tanhf(0.5f * x); }
MDN_INLINE double tanh_half(double x) { return ::tanh(0.5 * x); }

// 1 / x within one ulp, in one instruction of a GPU: infinite for a subnormal x, and 0 where it would be subnormal.
MDN_INLINE float reciprocal(float x) {
#ifdef __CUDA_ARCH__
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
  return inverse;
#else
  return 1.0f / x;
#endif
}
MDN_INLINE double reciprocal(double x) { return 1.0 / x; }

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
