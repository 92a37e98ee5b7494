// The formulas of the penalty-reduced focal loss, over a value type V; they stand a second time, on purpose, in
// mdnkernels/ops/heatmap_focal_loss/eager.py, the oracle of the tests.
#pragma once

#include "core/functions.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {

template <class V>
struct FocalTerm {
  V loss;
  V slope;  // d loss / d logit
};

// (1 - target)^beta for a target in [0, 1], with 0^0 = 1; NaN stays NaN.
template <bool usual, class V, class T>
MDN_INLINE V focal_weight(V target, T beta) {
  const V rest = 1 - target;
  if (usual) return (rest * rest) * (rest * rest);
  if (beta == 0) return rest * 0 + 1;
  return rest == 0 ? V{} : exp(V(log(rest) * beta));
}

// What both of a cell's cases take of its logit: e^-|logit| and log(1 + e^-|logit|). `usual`: alpha = 2, whose s^2
// below is 0 long before e^-|logit| is no normal number any more.
template <bool usual, class V>
MDN_INLINE V focal_exp(V logit) {
  return usual ? exp_to_normal(minus_absolute(logit)) : exp(minus_absolute(logit));
}

// Both of the loss's cases: with y = logit, at a positive y = -logit and weight 1,
//   weight s^alpha softplus(y),  s = sigmoid(y),  d/dy = weight s^alpha (alpha (1 - s) softplus(y) + s).
// e = e^-|y|, log_rest = log(1 + e) and one reciprocal give s, 1 - s and softplus without cancellation, however large
// |y| is. `usual`: alpha = 2, which needs no power.
template <bool usual, class V, class T>
MDN_INLINE FocalTerm<V> focal_case(V y, V e, V log_rest, V weight, T alpha) {
  const V inverse = reciprocal(V(1 + e));
  const V small = e * inverse;
  const V softplus = maximum(y, V{}) + log_rest;
  const V s = y > 0 ? inverse : small;
  const V rest = y > 0 ? small : inverse;
  const V power = usual ? s * s : exp(V((minimum(V{}, y) - log_rest) * alpha));
  const V focus = power * weight;
  return {focus * softplus, focus * (alpha * rest * softplus + s)};
}

// One cell's loss and slope where its target is not 1.
template <bool usual, class V, class T>
MDN_INLINE FocalTerm<V> focal_background(V logit, V e, V log_rest, V target, T alpha, T beta) {
  return focal_case<usual>(logit, e, log_rest, focal_weight<usual>(target, beta), alpha);
}

// One cell's loss and slope. `usual`: alpha = 2 and beta = 4, which need no powers.
template <bool usual, class V, class T>
MDN_INLINE FocalTerm<V> focal_term(V logit, V e, V log_rest, V target, T alpha, T beta) {
  const auto positive = target == 1;
  const V weight = positive ? 1 + V{} : focal_weight<usual>(target, beta);
  const FocalTerm<V> term = focal_case<usual>(V(positive ? -logit : logit), e, log_rest, weight, alpha);
  return {term.loss, positive ? -term.slope : term.slope};
}

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
