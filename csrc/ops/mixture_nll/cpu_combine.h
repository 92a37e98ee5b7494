// The loss of each position, and each component's share in it.
#pragma once

#include "ops/mixture_nll/cpu_block.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {

// The mixing weights: alpha as multiples of their sum, and log alpha added to the evidence. Each loop here is short, so
// that a core works on several of its turns at once: one loop over all would wait for one function after the other.
template <class T>
void weigh_components(Block<T>& block) {
  using V = Vector<T>;
  const Workspace<T>& work = block.work;
  const int count = block.call.components, padded = block.padded;
  const T* anything = work.anything[0];
  const Rows<const T> logits = block.logits;
  T *tops = work.top[0], *sums = work.sum[0];
  for (int i = 0; i < padded; i += lanes<T>) {
    const Mask<T> seen = load_bits(anything + i);
    V top = where_bits(seen, load(logits[0] + i));
    for (int m = 1; m < count; ++m) top = maximum(top, where_bits(seen, load(logits[m] + i)));
    store(tops + i, top);
    V sum = V{};
    for (int m = 0; m < count; ++m) {
      const V e = exp(V(where_bits(seen, load(logits[m] + i)) - top));
      store(work.alpha[m] + i, e);
      sum += e;
    }
    store(sums + i, sum);
  }
  for (int i = 0; i < padded; i += lanes<T>) {
    const Mask<T> seen = load_bits(anything + i);
    const V top = load(tops + i), normaliser = log(load(sums + i));
    // log alpha = logit - top - normaliser. The sum is at least 1, so its logarithm is finite.
    const auto log_alpha = [&](int m) { return V(where_bits(seen, load(logits[m] + i)) - top - normaliser); };
    if (block.call.evaluated == count) {
      for (int m = 0; m < count; ++m) {
        store(work.evidence[m] + i, V(log_alpha(m) + load(work.evidence[m] + i)));
      }
      continue;
    }
    const V number = load(work.assigned[0] + i);
    V own = V{};
    for (int m = 0; m < count; ++m) own += where_bits(number == T(m), log_alpha(m));
    store(work.evidence[0] + i, V(own + load(work.evidence[0] + i)));
  }
}

// The loss of each position, without its weight, and each component's share in it.
template <Assign assign, class T>
void share_out(Block<T>& block) {
  using V = Vector<T>;
  const Workspace<T>& work = block.work;
  const int count = block.call.components, padded = block.padded;
  const V infinity = broadcast(T(__builtin_inf()));
  T *losses = work.nll[0], *totals = work.top[0];
  const Rows<T> evidences = work.evidence, shares = work.share;
  if constexpr (assign == Assign::likelihood) {
    const T temperature = T(block.call.objective.temperature), coldness = T(1 / block.call.objective.temperature);
    for (int i = 0; i < padded; i += lanes<T>) {
      V best = load(evidences[0] + i);
      for (int m = 1; m < count; ++m) best = maximum(load(evidences[m] + i), best);
      best = best == -infinity ? V{} : best;  // no density at all: the loss is inf, not inf - inf
      V total = V{};
      for (int m = 0; m < count; ++m) {
        const V e = exp(V((load(evidences[m] + i) - best) * coldness));
        store(shares[m] + i, e);
        total += e;
      }
      store(losses + i, best);
      store(totals + i, total);
    }
    for (int i = 0; i < padded; i += lanes<T>) {
      const V total = load(totals + i);
      store(losses + i, V(-(load(losses + i) + temperature * log(total))));
      const V inverse = reciprocal(total);  // of at least 1, or of no density at all
      for (int m = 0; m < count; ++m) store(shares[m] + i, V(load(shares[m] + i) * inverse));
    }
  } else if constexpr (assign == Assign::best) {
    for (int i = 0; i < padded; i += lanes<T>) {
      V best = load(evidences[0] + i);
      for (int m = 1; m < count; ++m) best = maximum(load(evidences[m] + i), best);
      store(losses + i, V(-best));
      Mask<T> open = best == best;
      for (int m = 0; m < count; ++m) {
        const Mask<T> wins = open & (load(evidences[m] + i) == best);
        store(shares[m] + i, where_bits(wins, broadcast(T(1))));
        open &= ~wins;
      }
    }
  } else {
    const bool all = block.call.evaluated == count;
    for (int i = 0; i < padded; i += lanes<T>) {
      V loss = V{};
      const V number = load(work.assigned[0] + i);
      for (int m = 0; m < count; ++m) {
        const Mask<T> taken = number == T(m);
        loss -= where_bits(taken, load(evidences[all ? m : 0] + i));
        store(shares[m] + i, where_bits(taken, broadcast(T(1))));
      }
      store(losses + i, loss);
    }
  }
}

// What gradients are multiplied by at each position: the reduction's factor and the weight; 0 where nothing is
// observed. Returns the weighted sum of the losses.
template <class T>
double weigh_losses(Block<T>& block) {
  using V = Vector<T>;
  const Workspace<T>& work = block.work;
  const T *anything = work.anything[0], *weight = block.weight;
  const V gradient_factor = broadcast(T(block.call.gradient_factor));
  T *nll = work.nll[0], *factors = work.factor[0];
  LaneSums<T> sum;
  for (int i = 0; i < block.padded; i += lanes<T>) {
    const Mask<T> seen = load_bits(anything + i);
    V loss = load(nll + i), factor = gradient_factor;
    if (weight) {
      loss *= load(weight + i);
      factor *= load(weight + i);
    }
    loss = where_bits(seen, loss);
    store(nll + i, loss);
    sum.add(loss);
    store(factors + i, where_bits(seen, factor));
  }
  return sum.total();
}

// The shares times the position's factor, and the outputs that are made of them alone.
template <class T>
void weigh_shares(Block<T>& block) {
  using V = Vector<T>;
  const MixtureCall& call = block.call;
  const Workspace<T>& work = block.work;
  const T *anything = work.anything[0], *factors = work.factor[0], *sums = work.sum[0];
  for (int m = 0; m < call.components; ++m) {
    T* share = work.share[m];
    const T* alpha = work.alpha[m];
    if (call.posterior.data) {
      block.write_row(block.posterior[m], block.posterior.data != work.logits_out.data,
                      [&](int i) { return where_bits(load_bits(anything + i), load(share + i)); });
    }
    if (!call.parameter_gradients && !call.target_gradient) continue;
    const auto weigh = [&](int i) {
      const Mask<T> seen = load_bits(anything + i);
      const V factor = load(factors + i), posterior = where_bits(seen, load(share + i));
      store(share + i, V(posterior * factor));
      return where_bits(seen, V((load(alpha + i) * reciprocal(load(sums + i)) - posterior) * factor));
    };
    if (call.parameter_gradients) {
      block.write_row(block.grad_logits[m], block.grad_logits.data != work.logits_out.data, weigh);
    } else {
      for (int i = 0; i < block.padded; i += lanes<T>) weigh(i);
    }
  }
  // Of the one component that is evaluated the share is 1, times the factor.
  if (call.evaluated == call.components) return;
  for (int i = 0; i < block.padded; i += lanes<T>) store(work.share[0] + i, load(factors + i));
}

// Returns the weighted sum of the losses.
template <class T>
double combine(Block<T>& block) {
  weigh_components(block);
  switch (block.call.objective.assign) {
    case Assign::best:
      share_out<Assign::best>(block);
      break;
    case Assign::given:
      share_out<Assign::given>(block);
      break;
    case Assign::likelihood:
      share_out<Assign::likelihood>(block);
      break;
  }
  const double sum = weigh_losses(block);
  weigh_shares(block);
  return sum;
}

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
