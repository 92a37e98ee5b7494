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

// The accurate functions of the device. The fast ones are never used, because every kernel promises float32's
// precision.
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

// log(1 + x) for x in [0, 1], which is all that softplus asks of e^-|x|: the polynomial of functions.h.
MDN_INLINE float log1p(float x) {
  const float x2 = x * x, x4 = x2 * x2;
  const float p01 = x * 3.3332842588e-1f + -4.9999997020e-1f;
  const float p23 = x * 1.9854106009e-1f + -2.4986526370e-1f;
  const float p45 = x * 1.1561845243e-1f + -1.5847565234e-1f;
  const float p67 = x * 2.5224054232e-2f + -6.6757723689e-2f;
  const float high = (x4 * -4.4662114233e-3f + (x2 * p67 + p45));
  const float p = x4 * high + (x2 * p23 + p01);
  return p * x2 + x;
}

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
