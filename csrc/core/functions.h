// exp, log and log1p over a value type: a SIMD vector here, a float or double on a GPU thread (scalar.h).
//
// The float vectors' polynomials are minimax fits; their errors are measured by tests/native/test_functions.py. NaN and
// infinities propagate, subnormal arguments and results are exact to rounding. double goes to libm lane by lane.
#pragma once

#if defined(__CUDACC__) || defined(MDN_CUDA_ON_CPU)
#include "core/scalar.h"
#else
#include "core/simd.h"
#endif

namespace mdn {
namespace MDN_SIMD_LEVEL {

template <class V>
MDN_INLINE V minimum(V a, V b) {
  return a < b ? a : b;
}

// The larger of two values. NaN in `a` gives NaN; NaN in `b` gives `a`.
template <class V>
MDN_INLINE V maximum(V a, V b) {
  return b > a ? b : a;
}

template <class V>
MDN_INLINE V absolute(V a) {
  return a < 0 ? -a : a;
}

template <class V>
MDN_INLINE V minus_absolute(V a) {
  return a < 0 ? a : -a;
}

// log(1 + x) for floats x in [0, 1], which is all that softplus asks of e^-|x|. There is no exponent to take apart and
// no division. The terms are added in pairs, not one after the other: what waits for e^-|x| is the longest chain of its
// kernels.
template <class V>
MDN_INLINE V log1p_of_share(V x) {
  const V x2 = x * x, x4 = x2 * x2;
  const V p01 = x * 3.3332842588e-1f + -4.9999997020e-1f;
  const V p23 = x * 1.9854106009e-1f + -2.4986526370e-1f;
  const V p45 = x * 1.1561845243e-1f + -1.5847565234e-1f;
  const V p67 = x * 2.5224054232e-2f + -6.6757723689e-2f;
  const V high = (x4 * -4.4662114233e-3f + (x2 * p67 + p45));
  const V p = x4 * high + (x2 * p23 + p01);
  return p * x2 + x;
}

#ifdef MDN_VECTOR_BYTES

using FloatVector = Vector<float>;
using DoubleVector = Vector<double>;

MDN_INLINE FloatVector bits_to_float(Mask<float> bits) { return reinterpret_cast<FloatVector>(bits); }

#if MDN_VECTOR_BYTES == 64
// minimum and maximum in one instruction each, which compilers do not find by themselves. (GCC 12 warns of its own
// unmasked intrinsics.)
constexpr uint16_t all_lanes = 0xffff;
MDN_INLINE FloatVector minimum(FloatVector a, FloatVector b) { return _mm512_maskz_min_ps(all_lanes, a, b); }
MDN_INLINE FloatVector maximum(FloatVector a, FloatVector b) { return _mm512_maskz_max_ps(all_lanes, b, a); }
#elif MDN_VECTOR_BYTES == 32
MDN_INLINE FloatVector minimum(FloatVector a, FloatVector b) { return _mm256_min_ps(a, b); }
MDN_INLINE FloatVector maximum(FloatVector a, FloatVector b) { return _mm256_max_ps(b, a); }
#endif

MDN_INLINE FloatVector absolute(FloatVector a) { return bits_to_float(reinterpret_cast<Mask<float>>(a) & 0x7fffffff); }

MDN_INLINE FloatVector minus_absolute(FloatVector a) {
  return bits_to_float(reinterpret_cast<Mask<float>>(a) | (Mask<float>{} + INT32_MIN));
}

// p 2^n for a whole n in [-150, 129]. The power is two factors, so that neither leaves the range of a float where the
// result is subnormal or infinite. NaN in either argument stays.
MDN_INLINE FloatVector scaled_by_power_of_two(FloatVector p, FloatVector n) {
#if MDN_VECTOR_BYTES == 64
  return _mm512_maskz_scalef_ps(all_lanes, p, n);
#else
  const Mask<float> whole = __builtin_convertvector(n == n ? n : FloatVector{}, Mask<float>);
  const Mask<float> half = whole >> 1;
  return p * bits_to_float((half + 127) << 23) * bits_to_float((whole - half + 127) << 23);
#endif
}

constexpr float log2_of_e = 1.44269504088896341f;
constexpr float whole_part = 12582912.0f;  // 1.5 * 2^23: adding it leaves no bits for a fraction

// e^(x - n ln 2) - 1, where that is within ln(2) / 2 of 0.
MDN_INLINE FloatVector exp_of_rest_minus_1(FloatVector x, FloatVector n) {
  FloatVector r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  // The terms are added in pairs, not one after the other: in most kernels everything waits for this.
  const FloatVector r2 = r * r;
  const FloatVector p01 = r * 1.6666665459e-1f + 5.0000001201e-1f;
  const FloatVector p23 = r * 8.3334519073e-3f + 4.1665795894e-2f;
  const FloatVector p45 = r * 1.9875691500e-4f + 1.3981999507e-3f;
  const FloatVector p = (p45 * r2 + p23) * r2 + p01;
  return p * r2 + r;
}

// e^x as 2^n e^r: x = n ln 2 + r with |r| <= ln(2) / 2, and e^r is a polynomial.
MDN_INLINE FloatVector exp(FloatVector x) {
  x = minimum(broadcast(89.0f), x);  // NaN stays
  x = maximum(x, broadcast(-104.0f));
  const FloatVector n = (x * log2_of_e + whole_part) - whole_part;
  return scaled_by_power_of_two(exp_of_rest_minus_1(x, n) + 1.0f, n);
}

// e^x for x <= 0, in fewer instructions: 1.2e-38 stands for all that is smaller.
MDN_INLINE FloatVector exp_to_normal(FloatVector x) {
  x = maximum(x, broadcast(-87.33f));  // NaN stays
  const FloatVector shifted = x * log2_of_e + whole_part;
  const FloatVector p = exp_of_rest_minus_1(x, shifted - whole_part) + 1.0f;
  // The last bits of `shifted` are n's.
  return bits_to_float(reinterpret_cast<Mask<float>>(p) + (reinterpret_cast<Mask<float>>(shifted) << 23));
}

// e^x - 1 for x <= 0, to rounding beside 0 too.
MDN_INLINE FloatVector exp_minus_1(FloatVector x) {
  x = maximum(x, broadcast(-87.33f));  // NaN stays
  const FloatVector shifted = x * log2_of_e + whole_part;
  // The last bits of `shifted` are n's.
  const FloatVector power = bits_to_float((reinterpret_cast<Mask<float>>(shifted) << 23) + 0x3f800000);
  return exp_of_rest_minus_1(x, shifted - whole_part) * power + (power - 1.0f);
}

#if MDN_VECTOR_BYTES == 64
// 1 / x for x from 1 to 2^100, within one ulp: a step of Newton's on the 14 bits that the CPU has at hand. Its division
// takes a vector of 64 bytes as long as ten of these instructions.
MDN_INLINE FloatVector reciprocal(FloatVector x) {
  const FloatVector guess = _mm512_maskz_rcp14_ps(all_lanes, x);
  return guess + guess * (1 - x * guess);
}
#else
MDN_INLINE FloatVector reciprocal(FloatVector x) { return 1 / x; }
#endif

// tanh(x / 2), to rounding beside 0 too: with e = e^-|x| - 1 it is -e / (2 + e), and nothing cancels.
MDN_INLINE FloatVector tanh_half(FloatVector x) {
  const FloatVector e = exp_minus_1(minus_absolute(x)), size = -e * reciprocal(2.0f + e);
  return bits_to_float(reinterpret_cast<Mask<float>>(size) | (reinterpret_cast<Mask<float>>(x) & INT32_MIN));
}

// log x as e ln 2 + log m: x = m 2^e with m in [sqrt(1/2), sqrt(2)), and log m is a polynomial in m - 1.
MDN_INLINE FloatVector log(FloatVector x) {
#if MDN_VECTOR_BYTES == 64
  // The exponent of 0 is -inf and that of inf is inf, each with a mantissa of 1; a negative number's mantissa is NaN.
  const FloatVector mantissa = _mm512_maskz_getmant_ps(all_lanes, x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_nan);
  const FloatVector exponent = _mm512_maskz_getexp_ps(all_lanes, x);
  const Mask<float> large = mantissa >= 1.41421356f;
  const FloatVector f = (large ? mantissa * 0.5f : mantissa) - 1.0f;
  const FloatVector e = large ? exponent + 1.0f : exponent;
  // Both parts of ln 2 are positive, so that infinite exponents stay what they are.
  const float high = 0.693145751953125f, low = 1.42860677e-6f;
#else
  const Mask<float> subnormal = x < 1.17549435e-38f;
  const FloatVector scaled = subnormal ? x * 8388608.0f : x;
  const Mask<float> bits = reinterpret_cast<Mask<float>>(scaled);
  Mask<float> exponent = ((bits - 0x3f3504f3) >> 23);  // 0x3f3504f3 is sqrt(1/2)
  const FloatVector f = bits_to_float(bits - (exponent << 23)) - 1.0f;
  exponent = subnormal ? exponent - 23 : exponent;
  const FloatVector e = __builtin_convertvector(exponent, FloatVector);
  const float high = 0.693359375f, low = -2.12194440e-4f;
#endif
  // The terms are added in pairs, not one after the other.
  const FloatVector f2 = f * f, f4 = f2 * f2;
  const FloatVector p01 = f * -2.4999993993e-1f + 3.3333331174e-1f;
  const FloatVector p23 = f * -1.6668057665e-1f + 2.0000714765e-1f;
  const FloatVector p45 = f * -1.2420140846e-1f + 1.4249322787e-1f;
  const FloatVector p67 = f * -1.1514610310e-1f + 1.1676998740e-1f;
  const FloatVector p = (f4 * 7.0376836292e-2f + (f2 * p67 + p45)) * f4 + (f2 * p23 + p01);
  FloatVector y = p * f * f2;
  y = y + e * low;
  y = y - f2 * 0.5f;
  FloatVector result = f + y;
  result = result + e * high;
#if MDN_VECTOR_BYTES == 64
  return result;
#else
  const FloatVector infinity = __builtin_inff() - FloatVector{};
  result = x == infinity ? x : result;
  result = x == 0.0f ? -infinity : result;
  return (x >= 0.0f) ? result : (x == x ? __builtin_nanf("") - FloatVector{} : x);
#endif
}

MDN_INLINE DoubleVector exp(DoubleVector x) {
  for (int lane = 0; lane < lanes<double>; ++lane) x[lane] = __builtin_exp(x[lane]);
  return x;
}

MDN_INLINE DoubleVector exp_minus_1(DoubleVector x) {
  for (int lane = 0; lane < lanes<double>; ++lane) x[lane] = __builtin_expm1(x[lane]);
  return x;
}

MDN_INLINE DoubleVector tanh_half(DoubleVector x) {
  for (int lane = 0; lane < lanes<double>; ++lane) x[lane] = __builtin_tanh(0.5 * x[lane]);
  return x;
}

MDN_INLINE DoubleVector log(DoubleVector x) {
  for (int lane = 0; lane < lanes<double>; ++lane) x[lane] = __builtin_log(x[lane]);
  return x;
}

MDN_INLINE FloatVector log1p(FloatVector x) { return log1p_of_share(x); }

// log(1 + x) for x >= 0 in any other type. It is exact to rounding where 1 + x rounds to 1 (Kahan): the rounding error
// of u = 1 + x cancels in log(u) / (u - 1).
template <class V>
MDN_INLINE V log1p(V x) {
  const V u = 1 + x;
  const V d = u - 1;
  return d == 0 ? x : log(u) * (x / (d == 0 ? 1 + V{} : d));
}

MDN_INLINE DoubleVector reciprocal(DoubleVector x) { return 1.0 / x; }

#else

MDN_INLINE float log1p(float x) { return log1p_of_share(x); }

#endif  // MDN_VECTOR_BYTES

// The same in any other type.
template <class V>
MDN_INLINE V exp_to_normal(V x) {
  return exp(x);
}

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
