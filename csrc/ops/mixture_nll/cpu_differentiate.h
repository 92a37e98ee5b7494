// The gradients of a block: products of what cpu_standardise.h kept and the components' shares. Every output is written
// once, past the caches where it is computed in place.
#pragma once

#include "ops/mixture_nll/cpu_block.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {

// Whether something that is multiplied by the shares is not finite. A component without a share has no gradient, not
// even as 0 * inf.
template <class T>
bool overflows(const Block<T>& block, const T* pull) {
  Mask<T> finite = Vector<T>{} == Vector<T>{};
  const Vector<T> infinity = broadcast(T(__builtin_inf()));
  for (int i = 0; i < block.padded; i += lanes<T>) finite &= absolute(load(pull + i)) < infinity;
  return any<T>(~finite);
}

// The gradients of a scale, and what those of its dimensions multiply by: share / sigma, in the place of 1 / sigma, and
// that with the factors of loc's gradient.
template <bool guarded, class T>
void weigh_scale(Block<T>& block, int m, int s, bool log_sigma) {
  using V = Vector<T>;
  const MixtureCall& call = block.call;
  const Workspace<T>& work = block.work;
  const Objective& objective = call.objective;
  const int64_t ms = int64_t(m) * call.scales + s;
  const T *share_row = work.share[m], *count = work.count[s], *pull = work.pull[ms], *ratio = work.ratio[ms];
  const T* power = objective.rescales() ? work.power[ms] : nullptr;
  T *inverse = work.inverse[ms], *loc_weight = work.loc_weight[ms];
  const T loc_factor = T(objective.loc_factor), scale_factor = T(objective.scale_factor);
  const bool natural = objective.natural;
  const V dims_count = broadcast(log_sigma ? T(1) : T(0));
  const auto value_at = [&](int i) {
    const V share = load(share_row + i);
    const V n = load(count + i);
    V weight = share * load(inverse + i);
    V value = share * (n * dims_count - load(pull + i)) * load(ratio + i);
    if (guarded) {
      const Mask<T> taken = share != 0;
      weight = where_bits(taken, weight);
      value = where_bits(taken, value);
    }
    store(inverse + i, weight);
    if (power) {
      const V factor = load(power + i);
      value *= factor * scale_factor;
      if (natural) value /= n > 1 ? n : 1 + V{};
      weight *= factor * loc_factor;
    }
    store(loc_weight + i, weight);
    return value;
  };
  if (call.parameter_gradients) {
    block.write_row(block.grad_scale[ms], block.grad_scale.data != work.scale_out.data, value_at);
  } else {
    for (int i = 0; i < block.padded; i += lanes<T>) value_at(i);
  }
}

// The gradients of a component's loc.
template <bool guarded, class T>
void write_locs(const Block<T>& block, Rows<T> to, int padded, int m, bool streamed) {
  using V = Vector<T>;
  const MixtureCall& call = block.call;
  const T* share = block.work.share[m];
  for (int d = 0; d < call.dims; ++d) {
    const T* weight = block.work.loc_weight[int64_t(m) * call.scales + call.dimensions.scale_of(d)];
    const T* slope = block.work.slope[int64_t(m) * call.dims + d];
    T* row = to[int64_t(m) * call.dims + d];
    const T factor = block.loc_factor(d);
    const auto value_at = [&](int i) {
      const V gradient = load(slope + i) * (load(weight + i) * factor);
      return guarded ? where_bits(load(share + i) != 0, gradient) : gradient;
    };
    if (streamed) {
      for (int i = 0; i < padded; i += lanes<T>) store_past_cache(row + i, value_at(i));
    } else {
      for (int i = 0; i < padded; i += lanes<T>) store(row + i, value_at(i));
    }
  }
}

// Writes what is pending.
template <class T>
void write_pending(Block<T>& block) {
  if (block.pending.padded == 0) return;
  for (int m = 0; m < block.call.evaluated; ++m) {
    write_locs<false>(block, block.pending.grad_loc, block.pending.padded, m, true);
  }
  block.pending.padded = 0;
}

template <class T>
void differentiate_target(const Block<T>& block) {
  using V = Vector<T>;
  const MixtureCall& call = block.call;
  const Workspace<T>& work = block.work;
  const int components = call.evaluated;
  for (int d = 0; d < call.dims; ++d) {
    const int scale = call.dimensions.scale_of(d);
    const T inverse_kappa = work.inverse_kappa[d];
    T* to = block.grad_target[d];
    for (int i = 0; i < block.padded; i += lanes<T>) {
      V sum = V{};
      for (int m = 0; m < components; ++m) {
        const V weight = load(work.inverse[int64_t(m) * call.scales + scale] + i);
        const V gradient = load(work.slope[int64_t(m) * call.dims + d] + i) * weight;
        sum += where_bits(load(work.share[m] + i) != 0, gradient);
      }
      store(to + i, V(sum * inverse_kappa));
    }
  }
}

template <class T>
void differentiate_tril(const Block<T>& block) {
  using V = Vector<T>;
  const int64_t entries = block.call.dimensions.entries;
  const bool in_place = block.grad_tril.data != block.work.tril_out.data;
  for (int m = 0; m < block.call.evaluated; ++m) {
    const T* share = block.work.share[m];
    for (int64_t q = m * entries; q < (m + 1) * entries; ++q) {
      const T* product = block.work.product[q];
      block.write_row(block.grad_tril[q], in_place, [&](int i) {
        const V s = load(share + i);
        return where_bits(s != 0, V(s * load(product + i)));
      });
    }
  }
}

template <class T>
void differentiate(Block<T>& block, bool log_sigma) {
  const MixtureCall& call = block.call;
  bool guarded = false;
  for (int64_t ms = 0; ms < int64_t(call.evaluated) * call.scales; ++ms) {
    guarded |= overflows(block, block.work.pull[ms]) || overflows(block, block.work.inverse[ms]);
  }
  for (int m = 0; m < call.evaluated; ++m) {
    for (int s = 0; s < call.scales; ++s) {
      if (guarded) {
        weigh_scale<true>(block, m, s, log_sigma);
      } else {
        weigh_scale<false>(block, m, s, log_sigma);
      }
    }
  }
  if (call.target_gradient) differentiate_target(block);
  if (!call.parameter_gradients) return;
  if (call.grad_tril.data) differentiate_tril(block);
  const bool streamed = block.streamed(block.grad_loc, block.work.loc_out);
  if (streamed && !guarded && !block.compact) {
    block.pending = {block.grad_loc, block.padded};
    return;
  }
  for (int m = 0; m < call.evaluated; ++m) {
    if (guarded) {
      write_locs<true>(block, block.grad_loc, block.padded, m, streamed);
    } else {
      write_locs<false>(block, block.grad_loc, block.padded, m, streamed);
    }
  }
}

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
