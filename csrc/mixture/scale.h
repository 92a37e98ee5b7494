// sigma from raw scales. The same formulas stand a second time, on purpose, in mdnkernels/mixture/eager.py.
#pragma once

#include "core/functions.h"

namespace mdn {

enum class ScaleActivation { elu, softplus, exp, identity };

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
      return {(raw > 0 ? raw : V{}) + log1p(e) + min_scale, (raw > 0 ? 1 + V{} : e) * reciprocal(V(1 + e))};
    }
    case ScaleActivation::exp: {
      const V e = exp(raw);
      return {e + min_scale, e};
    }
    default:
      return {raw, 1 + V{}};
  }
}

// What a density asks of a scale.
template <class V>
struct LogScale {
  V inverse;  // 1 / sigma
  V log_sigma;
  V ratio;  // d log sigma / d raw
};

template <class V>
MDN_INLINE LogScale<V> log_scale(V sigma, V derivative) {
  const V inverse = 1 / sigma;
  return {inverse, log(sigma), derivative * inverse};
}

// The same of sigma = e^raw + e^least, which may overflow, as may its derivative, where the logarithm is far from it.
// least: log min_scale, -infinity for a floor of 0.
template <class V, class T>
MDN_INLINE LogScale<V> log_scale_of_exp(V raw, T least) {
  if (least == -T(__builtin_inf())) return {exp(V(-raw)), raw, 1 + V{}};
  const V apart = raw - least, e = exp(V(-absolute(apart)));
  const V log_sigma = (apart > 0 ? raw : least + V{}) + log1p(e);
  return {exp(V(-log_sigma)), log_sigma, (apart > 0 ? 1 + V{} : e) * reciprocal(V(1 + e))};
}

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
