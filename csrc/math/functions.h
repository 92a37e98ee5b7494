// exp, log and log1p over a value type: a SIMD vector here, a float or double on a GPU thread.
//
// The float vectors' polynomials are minimax fits; their errors are measured by tests/ops/test_functions.py. NaN and
// infinities propagate, subnormal arguments and results are exact to rounding. double goes to libm lane by lane.
#pragma once

#include "simd.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {

using FloatVector = Vector<float>;
using DoubleVector = Vector<double>;

MDN_INLINE FloatVector bits_to_float(Mask<float> bits) { return reinterpret_cast<FloatVector>(bits); }

template <class V>
MDN_INLINE V minimum(V a, V b) {
  return a < b ? a : b;
}

// NaN in `a` gives NaN, NaN in `b` gives `a`.
template <class V>
MDN_INLINE V maximum(V a, V b) {
  return b > a ? b : a;
}

template <class V>
MDN_INLINE V absolute(V a) {
  return a < 0 ? -a : a;
}

// e^x: x = n ln 2 + r with |r| <= ln(2) / 2, a polynomial for e^r, and 2^n in two factors so that neither leaves the
// range of a float where the result is subnormal or infinite.
MDN_INLINE FloatVector exp(FloatVector x) {
  x = x > 89.0f ? 89.0f - FloatVector{} : x;  // a comparison with NaN is false, so NaN stays
  x = x < -104.0f ? -104.0f - FloatVector{} : x;
  const float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves no bits for a fraction
  const FloatVector n = (x * 1.44269504088896341f + round) - round;
  FloatVector r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  FloatVector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Mask<float> whole = __builtin_convertvector(n == n ? n : FloatVector{}, Mask<float>);
  const Mask<float> half = whole >> 1;
  return p * bits_to_float((half + 127) << 23) * bits_to_float((whole - half + 127) << 23);
}

// log x: x = m 2^e with m in [sqrt(1/2), sqrt(2)), and a polynomial in m - 1.
MDN_INLINE FloatVector log(FloatVector x) {
  const Mask<float> subnormal = x < 1.17549435e-38f;
  const FloatVector scaled = subnormal ? x * 8388608.0f : x;
  const Mask<float> bits = reinterpret_cast<Mask<float>>(scaled);
  Mask<float> exponent = ((bits - 0x3f3504f3) >> 23);  // 0x3f3504f3 is sqrt(1/2)
  const FloatVector f = bits_to_float(bits - (exponent << 23)) - 1.0f;
  exponent = subnormal ? exponent - 23 : exponent;
  const FloatVector e = __builtin_convertvector(exponent, FloatVector);
  FloatVector p = f * 7.0376836292e-2f + -1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f + -1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f + -1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f + -2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  const FloatVector square = f * f;
  FloatVector y = p * f * square;
  y = y + e * -2.12194440e-4f;
  y = y - square * 0.5f;
  FloatVector result = f + y;
  result = result + e * 0.693359375f;
  const FloatVector infinity = __builtin_inff() - FloatVector{};
  result = x == infinity ? x : result;
  result = x == 0.0f ? -infinity : result;
  return (x >= 0.0f) ? result : (x == x ? __builtin_nanf("") - FloatVector{} : x);
}

MDN_INLINE DoubleVector exp(DoubleVector x) {
  for (int lane = 0; lane < lanes<double>; ++lane) x[lane] = __builtin_exp(x[lane]);
  return x;
}

MDN_INLINE DoubleVector log(DoubleVector x) {
  for (int lane = 0; lane < lanes<double>; ++lane) x[lane] = __builtin_log(x[lane]);
  return x;
}

// log(1 + x) for x >= 0, exact to rounding where 1 + x rounds to 1 (Kahan): the rounding error of u = 1 + x cancels in
// log(u) / (u - 1).
template <class V>
MDN_INLINE V log1p(V x) {
  const V u = 1 + x;
  const V d = u - 1;
  return d == 0 ? x : log(u) * (x / (d == 0 ? 1 + V{} : d));
}

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
