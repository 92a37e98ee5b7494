// The loss of each position, and each component's share in it.
#pragma once

#include "ops/mixture_nll/cpu_block.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {

// Lane by lane the component that the caller assigned, as a number.
template <class T>
void read_assigned(const Block<T>& block, T* row) {
  const Positions& positions = block.positions;
  for (int i = 0; i < block.padded; ++i) {
    row[i] = i < positions.count
                 ? T(block.call.assigned[positions.batch[i] * block.call.points + positions.point[i]])
                 : T(-1);
  }
}

// Returns the weighted sum of the losses.
template <Assign assign, class T>
double combine(Block<T>& block) {
  using V = Vector<T>;
  const MixtureCall& call = block.call;
  const Workspace<T>& work = block.work;
  const int count = call.components, padded = block.padded;
  const T temperature = T(call.objective.temperature), coldness = T(1 / call.objective.temperature);
  const T gradient_factor = T(call.gradient_factor);
  const V infinity = broadcast(T(__builtin_inf()));
  const T *anything = work.anything[0], *weight = block.weight;
  const bool parameter_gradients = call.parameter_gradients;
  const Rows<const T> logits = block.logits;
  const Rows<T> alphas = work.alpha, evidences = work.evidence, shares = work.share;
  const Rows<T> grad_logits = block.grad_logits, posteriors = block.posterior;
  T *nll = work.nll[0], *assigned = work.constant[0];
  if (assign == Assign::given) read_assigned(block, assigned);
  LaneSums<T> sum_of_losses;
  for (int i = 0; i < padded; i += lanes<T>) {
    const Mask<T> seen = load_bits(anything + i);
    V top = where_bits(seen, load(logits[0] + i));
    for (int m = 1; m < count; ++m) top = maximum(top, where_bits(seen, load(logits[m] + i)));
    V sum = V{};
    for (int m = 0; m < count; ++m) {
      const V e = exp(V(where_bits(seen, load(logits[m] + i)) - top));
      store(alphas[m] + i, e);
      sum += e;
    }
    const V normaliser = log(sum), inverse_sum = 1 / sum;
    // From here on log alpha = logit - top - normaliser. The sum is at least 1, so its logarithm is finite.
    V best = -infinity;
    for (int m = 0; m < count; ++m) {
      const V evidence = where_bits(seen, load(logits[m] + i)) - top - normaliser + load(evidences[m] + i);
      store(evidences[m] + i, evidence);
      best = maximum(evidence, best);
    }
    V loss;
    if constexpr (assign == Assign::likelihood) {
      best = best == -infinity ? V{} : best;  // no density at all: the loss is inf, not inf - inf
      V total = V{};
      for (int m = 0; m < count; ++m) {
        const V e = exp(V((load(evidences[m] + i) - best) * coldness));
        store(shares[m] + i, e);
        total += e;
      }
      loss = -(best + temperature * log(total));
      const V inverse_total = 1 / total;
      for (int m = 0; m < count; ++m) store(shares[m] + i, V(load(shares[m] + i) * inverse_total));
    } else if constexpr (assign == Assign::best) {
      loss = -best;
      Mask<T> open = best == best;
      for (int m = 0; m < count; ++m) {
        const Mask<T> wins = open & (load(evidences[m] + i) == best);
        store(shares[m] + i, where_bits(wins, broadcast(T(1))));
        open &= ~wins;
      }
    } else {
      loss = V{};
      const V number = load(assigned + i);
      for (int m = 0; m < count; ++m) {
        const Mask<T> taken = number == T(m);
        loss -= where_bits(taken, load(evidences[m] + i));
        store(shares[m] + i, where_bits(taken, broadcast(T(1))));
      }
    }
    V factor = broadcast(gradient_factor);
    if (weight) {
      loss *= load(weight + i);
      factor *= load(weight + i);
    }
    loss = where_bits(seen, loss);
    store(nll + i, loss);
    sum_of_losses.add(loss);
    factor = where_bits(seen, factor);
    for (int m = 0; m < count; ++m) {
      const V posterior = where_bits(seen, load(shares[m] + i));
      if (posteriors.data) store(posteriors[m] + i, posterior);
      store(shares[m] + i, V(posterior * factor));
      if (parameter_gradients) {
        const V alpha = load(alphas[m] + i) * inverse_sum;
        store(grad_logits[m] + i, where_bits(seen, V((alpha - posterior) * factor)));
      }
    }
  }
  return sum_of_losses.total();
}

template <class T>
double combine(Block<T>& block) {
  switch (block.call.objective.assign) {
    case Assign::best:
      return combine<Assign::best>(block);
    case Assign::given:
      return combine<Assign::given>(block);
    default:
      return combine<Assign::likelihood>(block);
  }
}

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
