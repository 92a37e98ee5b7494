// What a component says of a block's positions: log phi, and all that its gradients multiply the posterior share by.
//
// The slope of each residual is kept and not the residual, so that no gradient asks a second time for the family or for
// the correlation: they are products of what is kept here and one row a scale.
#pragma once

#include "mixture/correlation.h"
#include "ops/mixture_nll/cpu_differentiate.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {

// Constants of a call, at the beginning of a span.
template <class T>
void prepare_constants(const MixtureCall& call, Workspace<T>& work, T family_constant) {
  const int groups = call.mask.data ? call.groups : 1;
  for (int g = 0; g < groups; ++g) work.group_constant[g] = 0;
  for (int i = 0; i < groups * call.scales; ++i) work.group_count[i] = 0;
  for (int d = 0; d < call.dims; ++d) {
    const int group = call.mask.data ? d / (call.dims / call.groups) : 0;
    const double kappa = call.dim_scale ? call.dim_scale[d] : 1.0;
    work.inverse_kappa[d] = T(1 / kappa);
    work.group_constant[group] += call.dim_scale ? T(__builtin_log(kappa)) + family_constant : family_constant;
    work.group_count[group * call.scales + call.dimensions.scale_of(d)] += 1;
  }
}

// Everything about the densities that does not depend on the component.
template <class T>
void sum_constants(Block<T>& block, bool log_sigma) {
  using V = Vector<T>;
  const MixtureCall& call = block.call;
  Workspace<T>& work = block.work;
  const int groups = call.mask.data ? call.groups : 1, scales = call.scales, padded = block.padded;
  const auto sum = [&](T* to, const T* of_group, int stride) {
    if (!block.masked) {
      T total = 0;
      for (int g = 0; g < groups; ++g) total += of_group[g * stride];
      for (int i = 0; i < padded; i += lanes<T>) store(to + i, broadcast(total));
      return;
    }
    for (int i = 0; i < padded; i += lanes<T>) store(to + i, V{});
    for (int g = 0; g < groups; ++g) {
      if (of_group[g * stride] == 0) continue;
      const V value = broadcast(of_group[g * stride]);
      const T* seen = work.observed[g];
      for (int i = 0; i < padded; i += lanes<T>) {
        store(to + i, V(load(to + i) + where_bits(load_bits(seen + i), value)));
      }
    }
  };
  if (log_sigma) {
    sum(work.constant[0], work.group_constant, 1);
  } else {
    for (int i = 0; i < padded; i += lanes<T>) store(work.constant[0] + i, V{});
  }
  for (int s = 0; s < scales; ++s) {
    bool as_before = s > 0;
    for (int g = 0; as_before && g < groups; ++g) {
      as_before = work.group_count[g * scales + s] == work.group_count[g * scales + s - 1];
    }
    if (as_before) {
      for (int i = 0; i < padded; i += lanes<T>) store(work.count[s] + i, load(work.count[s - 1] + i));
    } else {
      sum(work.count[s], work.group_count + s, scales);
    }
  }
}

// The scales of all components, and what log phi has of them. Short loops, for the reason that cpu_combine.h gives.
template <ScaleActivation activation, bool masked, bool log_sigma, class T>
void read_scales(Block<T>& block) {
  using V = Vector<T>;
  constexpr int step = lanes<T>;
  const MixtureCall& call = block.call;
  const Workspace<T>& work = block.work;
  const T min_scale = T(call.min_scale), least = T(__builtin_log(call.min_scale));
  const T gradient_power = T(call.objective.power);
  const bool rescales = call.objective.rescales();
  const int padded = block.padded;
  T* logarithm = work.sum[0];
  for (int m = 0; m < call.evaluated; ++m) {
    T* evidence = work.evidence[m];
    const T* constant = work.constant[0];
    for (int i = 0; i < padded; i += step) store(evidence + i, V(-load(constant + i)));
    for (int s = 0; s < call.scales; ++s) {
      const int64_t ms = int64_t(m) * call.scales + s;
      const T *raw_row = block.scale[ms], *count = work.count[s];
      T *inverse = work.inverse[ms], *pull = work.pull[ms], *ratio = work.ratio[ms];
      const auto raw_at = [&](int i) {
        const V raw = load(raw_row + i);
        // A scale all of whose dimensions are unobserved leaves the density, whatever it holds.
        if (!masked) return raw;
        return load(count + i) != 0 ? raw : broadcast(activation == ScaleActivation::identity ? T(1) : T(0));
      };
      const auto keep = [&](int i, const LogScale<V>& scale) {
        store(inverse + i, scale.inverse);
        store(ratio + i, scale.ratio);
        store(pull + i, V{});
        if (log_sigma) store(evidence + i, V(load(evidence + i) - load(count + i) * scale.log_sigma));
        store(logarithm + i, scale.log_sigma);
      };
      if constexpr (activation == ScaleActivation::exp) {
        for (int i = 0; i < padded; i += step) keep(i, log_scale_of_exp<V, T>(raw_at(i), least));
      } else {
        for (int i = 0; i < padded; i += step) {
          const Scale<V> scale = activate<V, T>(activation, raw_at(i), min_scale);
          store(inverse + i, scale.sigma);
          store(ratio + i, scale.derivative);
        }
        for (int i = 0; i < padded; i += step) keep(i, log_scale(load(inverse + i), load(ratio + i)));
      }
      if (!rescales) continue;
      T* power = work.power[ms];
      for (int i = 0; i < padded; i += step) store(power + i, exp(V(gradient_power * load(logarithm + i))));
    }
  }
}

// Visits blocks of dimensions that share their scales: visit(first, stride, count), in dimensions and blocks.
template <class Visit>
MDN_INLINE void for_each_run(const Dimensions& dimensions, int size, Visit visit) {
  const int blocks = dimensions.count / size, scale_dims = dimensions.count / dimensions.scales;
  if (dimensions.interleaved) {
    int period = 1;
    while (period * size % dimensions.scales != 0) ++period;
    for (int b = 0; b < period; ++b) visit(b * size, period * size, blocks / period);
  } else if (scale_dims % size == 0) {
    for (int s = 0; s < dimensions.scales; ++s) visit(s * scale_dims, size, scale_dims / size);
  } else {
    for (int b = 0; b < blocks; ++b) visit(b * size, size, 1);
  }
}

// A truth that a template is chosen by.
template <bool truth>
struct Constant {
  static constexpr bool value = truth;
};

// How many rows before they are needed memory is asked for them. Rows lie far apart and are short, so the hardware's
// prefetchers lose them at each end.
constexpr int visits_ahead = 2;

// `count` blocks of one or two dimensions of a component, at once: they share what is loaded of their scales.
template <int size, int count, bool masked, bool shared, bool pending, class T, class Density>
MDN_INLINE void residuals(const Block<T>& block, const Density& density, int m, int first, int stride,
                          const T* loc_ahead, const T* target_ahead) {
  using V = Vector<T>;
  constexpr int rows = size * count;
  const MixtureCall& call = block.call;
  const Workspace<T>& work = block.work;
  const int64_t row = int64_t(m) * call.dims, scale_row = int64_t(m) * call.scales;
  const T *target[rows], *loc[rows], *seen[count], *entry[count], *inverse[size];
  T *slope[rows], *product[count], *pull[size], kappa[rows];
  // The block before: its gradients of the same rows.
  const T* weight[size];
  T *grad[rows], factor[rows];
  for (int k = 0; k < size; ++k) {
    const int scale = call.dimensions.scale_of(first + k);
    inverse[k] = work.inverse[scale_row + scale];
    pull[k] = work.pull[scale_row + scale];
    weight[k] = work.loc_weight[scale_row + scale];
  }
  for (int j = 0; j < count; ++j) {
    const int dim = first + j * stride;
    for (int k = 0; k < size; ++k) {
      target[j * size + k] = block.target[dim + k];
      loc[j * size + k] = block.loc[row + dim + k];
      slope[j * size + k] = work.slope[row + dim + k];
      kappa[j * size + k] = work.inverse_kappa[dim + k];
      grad[j * size + k] = pending ? block.pending.grad_loc[row + dim + k] : nullptr;
      factor[j * size + k] = block.loc_factor(dim + k);
    }
    seen[j] = masked ? work.observed[block.group_of(dim)] : nullptr;
    const int64_t lower = shared ? m : int64_t(m) * call.dimensions.entries + dim / size;
    entry[j] = size > 1 ? block.tril[lower] : nullptr;
    product[j] = size > 1 ? work.product[lower] : nullptr;
  }
  T* evidence = work.evidence[m];
  const int64_t loc_stride = size == 1 ? stride * block.loc.stride : block.loc.stride;
  const int64_t target_stride = size == 1 ? stride * block.target.stride : block.target.stride;
  const int padded = block.padded;
  for (int i = 0; i < padded; i += lanes<T>) {
    if (i * sizeof(T) % 64 == 0) {
      for (int j = 0; j < rows; ++j) __builtin_prefetch(loc_ahead + j * loc_stride + i);
      if (target_ahead != nullptr) {
        for (int j = 0; j < rows; ++j) __builtin_prefetch(target_ahead + j * target_stride + i);
      }
    }
    V value = V{}, sum[size] = {}, products = V{}, inverses[size];
    V argument = 1 + V{}, grouped[count];  // of one logarithm for all; their residuals
    Mask<T> ordinary = V{} == V{};
    for (int k = 0; k < size; ++k) inverses[k] = load(inverse[k] + i);
    if (pending) {
      for (int r = 0; r < rows; ++r) {
        store_past_cache(grad[r] + i, V(load(slope[r] + i) * (load(weight[r % size] + i) * factor[r])));
      }
    }
    for (int j = 0; j < count; ++j) {
      V z[size], scaled[size];
      for (int k = 0; k < size; ++k) {
        const int r = j * size + k;
        scaled[k] = inverses[k] * kappa[r];
        z[k] = (load(target[r] + i) - load(loc[r] + i)) * scaled[k];
        if (masked) z[k] = where_bits(load_bits(seen[j] + i), z[k]);
      }
      if constexpr (size == 1) {
        if constexpr (Density::has_argument && count > 1) {
          const V factor = density.argument(z[0]), rest = density.rest(z[0]);
          const V slope_of_z = density.ordinary_slope(z[0]);
          store(slope[j] + i, slope_of_z);
          sum[0] += z[0] * slope_of_z;
          argument *= masked ? (load_bits(seen[j] + i) != 0 ? factor : 1 + V{}) : factor;
          value += masked ? where_bits(load_bits(seen[j] + i), rest) : rest;
          ordinary &= density.ordinary(z[0]);
          grouped[j] = z[0];
        } else {
          const V slope_of_z = density.slope(z[0], scaled[0]);
          V pull_of_z = density.pull(z[0], scaled[0]);
          if (masked && !Density::log_sigma) pull_of_z = where_bits(load_bits(seen[j] + i), pull_of_z);
          store(slope[j] + i, slope_of_z);
          sum[0] += pull_of_z;
          if constexpr (Density::value_of_pull == 0) {
            V value_of_z = density.value(z[0], scaled[0]);
            if (masked) value_of_z = where_bits(load_bits(seen[j] + i), value_of_z);
            value += value_of_z;
          }
        }
      } else {
        V l = load(entry[j] + i);
        if (masked) l = where_bits(load_bits(seen[j] + i), l);
        const V w = z[1] + l * z[0];
        const V g = density.slope(w, w), h = density.slope(z[0], z[0]) + l * g;
        store(slope[j * size] + i, h);
        store(slope[j * size + 1] + i, g);
        sum[0] += z[0] * h;
        sum[1] += z[1] * g;
        V value_of_w = density.value(z[0], z[0]) + density.value(w, w);
        if (masked) value_of_w = where_bits(load_bits(seen[j] + i), value_of_w);
        value += value_of_w;
        if (shared) {
          products += g * z[0];
        } else {
          store(product[j] + i, V(g * z[0]));
        }
      }
    }
    if constexpr (Density::has_argument && size == 1 && count > 1) {
      value += density.weight_of_log() * log(argument);
      if (any<T>(~ordinary)) {  // a square, or the product, may overflow
        value = sum[0] = V{};
        for (int j = 0; j < count; ++j) {
          store(slope[j] + i, density.slope(grouped[j], grouped[j]));
          sum[0] += density.pull(grouped[j], grouped[j]);
          const V value_of_z = density.value(grouped[j], grouped[j]);
          value += masked ? where_bits(load_bits(seen[j] + i), value_of_z) : value_of_z;
        }
      }
    }
    for (int k = 0; k < size; ++k) store(pull[k] + i, V(load(pull[k] + i) + sum[k]));
    if (size > 1 || Density::value_of_pull == 0) store(evidence + i, V(load(evidence + i) - value));
    if (size > 1 && shared) store(product[0] + i, V(load(product[0] + i) + products));
  }
}

// All blocks of one or two dimensions. Of as many as share what they load all components are visited before the next,
// so that the target is read from memory once.
template <int size, bool masked, bool shared, bool pending, class T, class Density>
void standardise_blocks(const Block<T>& block, const Density& density) {
  constexpr int at_once = size == 1 ? 4 : 2;
  const MixtureCall& call = block.call;
  const bool in_place = block.loc.data != block.work.loc_in.data;
  const bool target_in_place = block.target.data != block.work.target_in.data;
  const int components = call.evaluated;
  for_each_run(call.dimensions, size, [&](int first, int stride, int blocks) {
    int b = 0;
    const auto ahead = [&](int m) {
      int far = m + visits_ahead, group = b;
      while (far >= components) far -= components, group += at_once;
      // Behind the last come the first rows of the block that follows.
      const int64_t over = group + at_once <= blocks ? 0 : block.padded;
      const int dim = over == 0 ? first + group * stride : 0;
      return block.loc[int64_t(far) * call.dims + dim] + (in_place ? over : 0);
    };
    for (; b + at_once <= blocks; b += at_once) {
      const bool more = target_in_place && b + 2 * at_once <= blocks;
      for (int m = 0; m < components; ++m) {
        residuals<size, at_once, masked, shared, pending>(
            block, density, m, first + b * stride, stride, ahead(m),
            more && m == 0 ? block.target[first + (b + at_once) * stride] : nullptr);
      }
    }
    for (; b < blocks; ++b) {
      for (int m = 0; m < components; ++m) {
        const int dim = first + b * stride;
        residuals<size, 1, masked, shared, pending>(
            block, density, m, dim, stride, block.loc[int64_t(m) * call.dims + dim], static_cast<const T*>(nullptr));
      }
    }
  });
}

// Blocks of any number of dimensions, one vector of positions of one block at a time.
template <bool masked, class T, class Density>
void standardise_large_blocks(const Block<T>& block, const Density& density) {
  using V = Vector<T>;
  const MixtureCall& call = block.call;
  const Workspace<T>& work = block.work;
  const Dimensions& dimensions = call.dimensions;
  const int size = dimensions.block, entries = dimensions.entries_of_block(), padded = block.padded;
  const bool shared = dimensions.shared_entries;
  T *residual = work.block_residuals, *slopes = work.block_slopes;
  constexpr int step = lanes<T>;
  for (int m = 0; m < call.evaluated; ++m) {
    T* evidence = work.evidence[m];
    for (int first = 0; first < call.dims; first += size) {
      const int64_t lower = int64_t(m) * dimensions.entries + (shared ? 0 : int64_t(first / size) * entries);
      const T* seen = masked ? work.observed[block.group_of(first)] : nullptr;
      for (int i = 0; i < padded; i += step) {
        const Mask<T> bits = masked ? load_bits(seen + i) : Mask<T>{};
        for (int k = 0; k < size; ++k) {
          const int64_t row = int64_t(m) * call.dims + first + k;
          const V inverse = load(work.inverse[int64_t(m) * call.scales + dimensions.scale_of(first + k)] + i);
          V z = (load(block.target[first + k] + i) - load(block.loc[row] + i)) *
                (inverse * work.inverse_kappa[first + k]);
          if (masked) z = where_bits(bits, z);
          store(residual + k * step, z);
        }
        V value = V{};
        int64_t entry = lower;
        for (int k = 0; k < size; ++k) {
          V w = load(residual + k * step);
          for (int d = 0; d < k; ++d) {
            V l = load(block.tril[entry + d] + i);
            if (masked) l = where_bits(bits, l);
            w += l * load(residual + d * step);
          }
          const V g = density.slope(w, w);
          value += density.value(w, w);
          for (int d = 0; d < k; ++d) {
            V l = load(block.tril[entry + d] + i);
            if (masked) l = where_bits(bits, l);
            store(slopes + d * step, V(load(slopes + d * step) + l * g));
            T* product = work.product[entry + d] + i;
            const V before = shared && first > 0 ? load(product) : V{};
            store(product, V(before + g * load(residual + d * step)));
          }
          store(slopes + k * step, g);
          entry += k;
        }
        if (masked) value = where_bits(bits, value);
        store(evidence + i, V(load(evidence + i) - value));
        for (int k = 0; k < size; ++k) {
          const V h = load(slopes + k * step);
          T* pull = work.pull[int64_t(m) * call.scales + dimensions.scale_of(first + k)] + i;
          store(pull, V(load(pull) + load(residual + k * step) * h));
          store(work.slope[int64_t(m) * call.dims + first + k] + i, h);
        }
      }
    }
  }
}

template <bool masked, class T, class Density>
void standardise(Block<T>& block, const Density& density) {
  using V = Vector<T>;
  const MixtureCall& call = block.call;
  const Workspace<T>& work = block.work;
  if (Density::block == 0 || block.pending.padded != block.padded) write_pending(block);
  const bool pending = block.pending.padded != 0;
  if constexpr (Density::block == 1) {
    if (pending) {
      standardise_blocks<1, masked, true, true>(block, density);
    } else {
      standardise_blocks<1, masked, true, false>(block, density);
    }
    if constexpr (Density::value_of_pull != 0) {
      for (int m = 0; m < call.evaluated; ++m) {
        T* evidence = work.evidence[m];
        for (int s = 0; s < call.scales; ++s) {
          const T* pull = work.pull[int64_t(m) * call.scales + s];
          for (int i = 0; i < block.padded; i += lanes<T>) {
            store(evidence + i, V(load(evidence + i) - Density::value_of_pull * load(pull + i)));
          }
        }
      }
    }
  } else if constexpr (Density::block == 2) {
    const auto pairs = [&](auto shared) {
      if (pending) {
        standardise_blocks<2, masked, shared.value, true>(block, density);
      } else {
        standardise_blocks<2, masked, shared.value, false>(block, density);
      }
    };
    if (call.dimensions.shared_entries) {
      for (int m = 0; m < call.evaluated; ++m) {
        for (int i = 0; i < block.padded; i += lanes<T>) store(work.product[m] + i, V{});
      }
      pairs(Constant<true>{});
    } else {
      pairs(Constant<false>{});
    }
  } else {
    standardise_large_blocks<masked>(block, density);
  }
  block.pending.padded = 0;
}

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
