// The formulas of the mixture's negative log-likelihood, over a value type V. DESIGN: docs/architecture.md; the same
// formulas stand a second time, on purpose, in mdnkernels/ops/mixture_nll/eager.py, the oracle of the tests.
#pragma once

#include "core/functions.h"

namespace mdn {

enum class Family { gaussian, laplace };
enum class ScaleActivation { elu, softplus, exp, identity };
enum class Selection { weight, density, mean };

namespace MDN_SIMD_LEVEL {

template <class V>
struct Scale {
  V sigma;
  V derivative;  // d sigma / d raw
};

// sigma = act(raw) + min_scale. ELU(x) + 1 is e^x for x <= 0, which keeps small sigmas that 1 + expm1(x) would round
// away.
template <class V, class T>
MDN_INLINE Scale<V> activate(ScaleActivation activation, V raw, T min_scale) {
  switch (activation) {
    case ScaleActivation::elu: {
      const V e = exp(raw > 0 ? V{} : raw);
      return {(raw > 0 ? raw + 1 : e) + min_scale, e};
    }
    case ScaleActivation::softplus: {
      const V e = exp(-absolute(raw));
      return {(raw > 0 ? raw : V{}) + log1p(e) + min_scale, (raw > 0 ? 1 + V{} : e) / (1 + e)};
    }
    case ScaleActivation::exp: {
      const V e = exp(raw);
      return {e + min_scale, e};
    }
    default:
      return {raw, 1 + V{}};
  }
}

// What one dimension adds to -log phi, without its constant: z^2 / 2 or |z|. The sum over the dimensions of a scale
// also gives that scale's gradient, for d(-log phi) / d sigma = (n - z d(term) / dz) / sigma, with z d(term) / dz = 2
// z^2 / 2 or |z|.
template <Family family, class V>
MDN_INLINE V energy_of(V z) {
  return family == Family::gaussian ? z * z : absolute(z);
}

template <Family family, class T>
constexpr T energy_factor = family == Family::gaussian ? T(0.5) : T(1);

// The constant of one dimension's -log phi: log(2 pi) / 2 or log 2.
template <Family family, class T>
constexpr T log_normaliser = family == Family::gaussian ? T(0.91893853320467274178) : T(0.69314718055994530942);

// d(-log phi) / dz: z or sign(z).
template <Family family, class V>
MDN_INLINE V slope(V z) {
  if (family == Family::gaussian) return z;
  return z > 0 ? 1 + V{} : (z < 0 ? -1 + V{} : z);
}

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
