// Loss and gradients of one position whose mixture is so small that a lane has all of it in registers: sizes are known
// at compile time, families, activations and objectives are uniform branches.
#pragma once

#include "ops/mixture_nll/positions.cuh"

namespace mdn {
namespace device {

// A position's parameters and target, and in the end their gradients. Each dimension has a scale. `pairs`: the two
// dimensions of a component are correlated.
template <class T, int M, int C, bool pairs>
struct SmallMixture {
  static_assert(!pairs || C == 2, "one entry of L");
  T logits[M], loc[M * C], scale[M * C], target[C], tril[M];

  // The gradients of what is not observed.
  MDN_ON_DEVICE void clear() {
#pragma unroll
    for (int m = 0; m < M; ++m) logits[m] = tril[m] = 0;
#pragma unroll
    for (int i = 0; i < M * C; ++i) loc[i] = scale[i] = 0;
#pragma unroll
    for (int d = 0; d < C; ++d) target[d] = 0;
  }
};

// What all positions have in common.
template <class T, int C>
struct SmallTerms {
  T factor;         // of the gradients: one over what the loss is divided by
  T constant;       // of a position's loss
  T inverse[C];     // 1 / kappa
  T loc_factor[C];  // of the gradient of loc beside share / sigma
};

// The terms of a call. `factor`: a number that all threads of the block share.
template <int C, class T, class Array>
MDN_ON_DEVICE SmallTerms<T, C> small_terms(const MixtureCall& call, const MixturePlan& plan, const AnyFamily<T>& family,
                                           const Array& factor) {
  if (threadIdx.x < warp_lanes) {
    const double divisor = divisor_of(plan);
    if (threadIdx.x == 0) factor[0] = static_cast<T>(1 / divisor);
  }
  __syncthreads();
  SmallTerms<T, C> terms;
  terms.factor = factor[0];
  terms.constant = T(C) * family.constant;
#pragma unroll
  for (int d = 0; d < C; ++d) terms.inverse[d] = 1, terms.loc_factor[d] = -1;
  if (call.dim_scale != nullptr) {
#pragma unroll
    for (int d = 0; d < C; ++d) {
      const T kappa = load_global(static_cast<const T*>(call.dim_scale) + d);
      terms.inverse[d] = 1 / kappa;
      terms.loc_factor[d] = call.objective.natural ? -kappa : -1 / kappa;
      if (family.log_sigma) terms.constant += log(kappa);
    }
  }
  return terms;
}

// Returns the loss of a position, times its weight, and leaves gradients in the place of parameters and target; in that
// of the logits the posterior where this is wanted. `assigned`: its component, where the caller gives it.
template <class T, int M, int C, bool pairs>
MDN_ON_DEVICE T differentiate(const MixtureCall& call, const MixtureNumbers<T>& numbers, const AnyFamily<T>& family,
                              const SmallTerms<T, C>& terms, int64_t assigned, T weight,
                              SmallMixture<T, M, C, pairs>& mixture) {
  const T counted = family.log_sigma ? T(1) : T(0);
  LogScale<T> scales[M * C];
  find_scale_terms(call.activation, mixture.scale, numbers, true, scales);
  T parts[M] = {}, inverse[M * C];
#pragma unroll
  for (int i = 0; i < M * C; ++i) {
    inverse[i] = scales[i].inverse;
    mixture.scale[i] = scales[i].ratio;
    parts[i / C] -= counted * scales[i].log_sigma;
  }
  if (numbers.power != 0) {
#pragma unroll
    for (int i = 0; i < M * C; ++i) {
      mixture.scale[i] *= exp(numbers.power * scales[i].log_sigma) * numbers.scale_factor;
    }
  }
  // In the place of loc stand then the slopes dv / dz, in that of an entry of L its gradient for a share of one.
  family.families.visit(family.number, [&](const auto& type) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
      T* const slopes = mixture.loc + m * C;
      T z[C], own[C];
#pragma unroll
      for (int d = 0; d < C; ++d) {
        own[d] = inverse[m * C + d] * terms.inverse[d];
        z[d] = (mixture.target[d] - slopes[d]) * own[d];
      }
      if constexpr (pairs) {
        const T entry = mixture.tril[m], w = z[1] + entry * z[0], slope = type.slope(w, w);
        parts[m] -= type.value(z[0], z[0]) + type.value(w, w);
        slopes[0] = type.slope(z[0], z[0]) + entry * slope;
        slopes[1] = slope;
        mixture.tril[m] = slope * z[0];
#pragma unroll
        for (int d = 0; d < C; ++d) mixture.scale[m * C + d] *= counted - z[d] * slopes[d];
      } else {
#pragma unroll
        for (int d = 0; d < C; ++d) {
          parts[m] -= type.value(z[d], own[d]);
          slopes[d] = type.slope(z[d], own[d]);
          mixture.scale[m * C + d] *= counted - type.pull(z[d], own[d]);
        }
      }
    }
    return T(0);
  });
  struct Components {
    const T *logits, *parts;
    MDN_ON_DEVICE T logit(int m) const { return logits[m]; }
    MDN_ON_DEVICE T part(int m) const { return parts[m]; }
  };
  const Components components = {mixture.logits, parts};
  const T factor = terms.factor * weight;
  T of_target[C] = {};
  const auto use = [&](int m, T r, T gradient) {
    // A component without a share has no gradients, whatever it holds.
    const T share = r * factor;
    const bool sharing = share != 0;
    mixture.logits[m] = call.posterior.data != nullptr ? r : gradient * factor;
    if constexpr (pairs) mixture.tril[m] = sharing ? share * mixture.tril[m] : T(0);
#pragma unroll
    for (int d = 0; d < C; ++d) {
      const int i = m * C + d;
      const T pull = sharing ? share * inverse[i] * mixture.loc[i] : T(0);
      of_target[d] += pull;
      mixture.loc[i] = pull * terms.loc_factor[d];
      mixture.scale[i] = sharing ? share * mixture.scale[i] : T(0);
    }
  };
  const T loss = Posterior<T, M, Components>(call, numbers, components).find(assigned, use) + terms.constant;
  if (numbers.power != 0) {
#pragma unroll
    for (int i = 0; i < M * C; ++i) mixture.loc[i] *= numbers.loc_factor * exp(-numbers.power * log(inverse[i]));
  }
#pragma unroll
  for (int d = 0; d < C; ++d) mixture.target[d] = of_target[d] * terms.inverse[d];
  return loss * weight;
}

}  // namespace device
}  // namespace mdn
