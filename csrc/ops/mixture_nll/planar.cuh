// Loss and gradients of mixture_nll in planar maps, of one number a channel and position, whose positions lie side by
// side.
//
// Memory story. A lane has four neighbouring positions, 16 bytes of float32; a warp one component of its lanes'
// positions, and those beside it the others. A component's channels stream through registers once: they give log phi,
// and leave their standardised residuals in shared memory, 16 bytes for each lane and dimension, which only that lane
// reads again, for their gradients, when all components have met there and each knows its posterior. Beside M C
// residuals, shared memory holds 2 S + 2 numbers for each component and position. Four positions of which nothing is
// observed are not read.
//
// Correlated pairs go through the same: slopes dv / dz take the place of residuals, and beside them each entry of L
// leaves what its gradient is for a share of one.
#pragma once

#include "ops/mixture_nll/four_positions.cuh"

namespace mdn {
namespace device {

template <class Element, class Density>
class PlanarBlock {
  using T = float;
  static constexpr int width = 4, packs = warp_lanes;
  using Numbers = FourNumbers;
  static constexpr bool pairs = Density::block == 2;
  static constexpr uint32_t all_seen = 0x01010101;
  // Dimensions that are under way at once. What takes a logarithm or a division takes registers too.
  static constexpr int unrolled = Density::value_of_pull != 0 ? 2 : 1;

 public:
  MDN_ON_DEVICE PlanarBlock(const MixtureCall& call, const MixturePlan& plan, const MixtureNumbers<T>& numbers,
                            const Density& density)
      : call_(call),
        plan_(plan),
        numbers_(numbers),
        density_(density),
        row_(quotient(threadIdx.x / warp_lanes, plan.by_warps)),
        first_component_(static_cast<int>(threadIdx.x) / warp_lanes - row_ * plan.warps),
        lane_(threadIdx.x % warp_lanes),
        dims_(dynamic_shared<DimensionTerms<T>>(plan.dims, call.dims)),
        factor_(dynamic_shared<T>(plan.sums + 72, 1)),
        seen_(of_lane<uint32_t>(plan.seen, plan.masked ? static_cast<int>(plan.by_groups.divisor) : 0)),
        counts_(of_lane<uint32_t>(plan.counts, call.scales)),
        parts_(of_lane<Pack<T, width>>(plan.parts, 2 * call.components)),
        kept_(of_lane<Pack<T, width>>(plan.kept, 2 * call.components * call.scales)),
        residuals_(of_lane<Pack<T, width>>(plan.rows, call.components * call.dims)),
        entries_(of_lane<Pack<T, width>>(plan.tril, call.components * call.dimensions.entries)) {}

  // Returns this thread's part of the weighted sum of the losses.
  MDN_ON_DEVICE double run() {
    find_dimension_terms(call_, plan_, density_, dims_, packs);
    if (threadIdx.x < warp_lanes) {
      const double divisor = divisor_of(plan_);
      if (threadIdx.x == 0) factor_[0] = static_cast<T>(1 / divisor);
    }
    double sum = 0;
#pragma unroll 1
    for (int tile = blockIdx.x; tile < plan_.tiles; tile += static_cast<int>(gridDim.x)) {
      batch_ = quotient(tile, plan_.by_image);
      first_ = int64_t(tile - static_cast<int>(batch_) * static_cast<int>(plan_.by_image.divisor)) * plan_.positions;
      point_ = first_ + (row_ * packs + lane_) * width;
      __syncthreads();
      sum += run_tile();
    }
    return sum;
  }

 private:
  MDN_ON_DEVICE double run_tile() {
    if (plan_.masked) look();
    const bool exists = point_ < call_.points;
    bool observed = exists;
    if (plan_.masked) {
      __syncthreads();
      uint32_t any = 0;
#pragma unroll 1
      for (int s = 0; s < call_.scales; ++s) any |= counts_[s * packs];
      observed = exists && any != 0;
    }
    if (observed) {
#pragma unroll 1
      for (int m = first_component_; m < call_.components; m += plan_.warps) {
        if constexpr (!pairs) {
          with_loop([&](auto at_once, auto kappa) { weigh<decltype(at_once)::value, decltype(kappa)::value>(m); });
        } else if (plan_.scales_in_pairs) {
          weigh_pairs<2>(m);
        } else {
          weigh_pairs<1>(m);
        }
      }
    }
    __syncthreads();
    const double sum = combine();
    if (!call_.parameter_gradients && !call_.target_gradient) return sum;
    __syncthreads();
    if (call_.target_gradient) {
      // The residuals are those of other warps.
#pragma unroll 1
      for (int d = first_component_; exists && d < call_.dims; d += plan_.warps) write_target_gradient(d, observed);
    }
    if (call_.parameter_gradients && exists) {
#pragma unroll 1
      for (int m = first_component_; m < call_.components; m += plan_.warps) {
        if (!observed) {
          write_zeros(m);
        } else if (call_.dim_scale != nullptr || !is_finite(m)) {
          write_gradients<true>(m);
        } else {
          write_gradients<false>(m);
        }
        if constexpr (pairs) write_entry_gradients(m, observed);
      }
    }
    return sum;
  }

  // A row of packs for each of `rows`, from this lane's pack on.
  template <class P>
  MDN_ON_DEVICE DynamicSharedArray<P> of_lane(int first, int rows) const {
    return dynamic_shared<P>(first + row_ * plan_.row_bytes + lane_ * static_cast<int>(sizeof(P)),
                             rows > 0 ? rows * packs - lane_ : 0);
  }

  // What is observed, a byte for each position, and how many dimensions of each scale. The warps that have the same
  // positions share groups and scales.
  MDN_ON_DEVICE void look() const {
    const int warp = first_component_;
    uint32_t taking_part = point_ < call_.points ? all_seen : 0;
    if (call_.assigned != nullptr && taking_part != 0) {
#pragma unroll 1
      for (int j = 0; j < width; ++j) {
        if (!takes_part(call_, batch_, point_ + j)) taking_part &= ~(uint32_t(0xff) << (8 * j));
      }
    }
    const View& mask = call_.mask;
    if (mask.data == nullptr) {
      seen_[0] = taking_part;
    } else {
      const int groups = static_cast<int>(plan_.by_groups.divisor);
      const int64_t step = plan_.warps * mask.channel_stride;
      const unsigned char* from = static_cast<const unsigned char*>(mask.data) + offset_of(mask, batch_, warp, point_);
      if (taking_part == 0) {
#pragma unroll 1
        for (int group = warp; group < groups; group += plan_.warps) seen_[group * packs] = 0;
      } else if (plan_.mask_packed) {
#pragma unroll 4
        for (int group = warp; group < groups; group += plan_.warps) {
          seen_[group * packs] = ones_of(load_global(reinterpret_cast<const uint32_t*>(from))) & taking_part;
          from += step;
        }
      } else {
#pragma unroll 1
        for (int group = warp; group < groups; group += plan_.warps) {
          uint32_t seen = 0;
#pragma unroll 1
          for (int j = 0; j < width; ++j) seen |= uint32_t(load_global(from + j * mask.point_stride) != 0) << (8 * j);
          seen_[group * packs] = seen & taking_part;
          from += step;
        }
      }
    }
    __syncthreads();
    const int at_once = plan_.scales_in_pairs ? 2 : 1;
#pragma unroll 1
    for (int s = warp * at_once; s < call_.scales; s += plan_.warps * at_once) {
      uint32_t count = 0;
      int d = first_dimension(s);
#pragma unroll 4
      for (int k = 0; k < plan_.of_scale; ++k, d += plan_.step) {
        const DimensionTerms<T> dim = dims_[d];
        count += seen_[dim.seen];
      }
      counts_[s * packs] = count;
      if (at_once == 2) counts_[(s + 1) * packs] = count;
    }
  }

  // visit(Count<scales at once>{}, Count<dim_scale or not>{}) with how a component's dimensions are taken. Two scales
  // whose dimensions are observed together go together.
  template <class Visit>
  MDN_ON_DEVICE void with_loop(Visit visit) const {
    if (call_.dim_scale != nullptr) {
      visit(Count<1>{}, Count<1>{});
    } else if (Density::value_of_pull != 0 && plan_.scales_in_pairs) {
      visit(Count<2>{}, Count<0>{});
    } else {
      visit(Count<1>{}, Count<0>{});
    }
  }
  MDN_ON_DEVICE int first_dimension(int s) const { return call_.dimensions.interleaved ? s : s * plan_.of_scale; }

  // A target of float32 may stand beside parameters of half precision.
  MDN_ON_DEVICE bool wide_target() const { return sizeof(Element) == 2 && call_.target.dtype == DType::float32; }
  MDN_ON_DEVICE Numbers load_target(const unsigned char* from) const {
    if (wide_target()) return load_four(reinterpret_cast<const float*>(from));
    return load_four(reinterpret_cast<const Element*>(from));
  }
  MDN_ON_DEVICE const unsigned char* target(int d) const {
    const int64_t at = batch_ * call_.target.batch_stride + d * call_.target.channel_stride + point_;
    return static_cast<const unsigned char*>(call_.target.data) + at * target_bytes();
  }
  MDN_ON_DEVICE int target_bytes() const { return wide_target() ? 4 : static_cast<int>(sizeof(Element)); }
  // The number of channels times the stride of a planar map fits into 32 bits: plan_planar refuses others.
  MDN_ON_DEVICE static uint32_t stride(const View& view) { return static_cast<uint32_t>(view.channel_stride); }
  MDN_ON_DEVICE const Element* parameters(const View& view) const {
    return static_cast<const Element*>(view.data) + batch_ * view.batch_stride + point_;
  }
  MDN_ON_DEVICE T* gradients(const View& view) const {
    return static_cast<T*>(view.data) + batch_ * view.batch_stride + point_;
  }
  MDN_ON_DEVICE uint32_t seen(int d) const {
    if (!plan_.masked) return all_seen;
    const DimensionTerms<T> dim = dims_[d];
    return seen_[dim.seen];
  }

  MDN_ON_DEVICE int kept_at(int m, int s) const { return (m * call_.scales + s) * 2 * packs; }
  MDN_ON_DEVICE int scale_of(int d) const {
    return call_.dimensions.interleaved ? d - quotient(d, plan_.by_scales) * call_.scales
                                        : quotient(d, plan_.by_of_scale);
  }

  // 1 / (sigma kappa).
  template <bool kappa>
  MDN_ON_DEVICE Numbers inverse_of(const Numbers& inverse_sigma, int d) const {
    if constexpr (!kappa) return inverse_sigma;
    const DimensionTerms<T> dim = dims_[d];
    Numbers inverse;
#pragma unroll
    for (int j = 0; j < width; ++j) inverse[j] = inverse_sigma[j] * dim.inverse_kappa;
    return inverse;
  }

  // log phi of a component, up to the constant, and what its gradients need of its scales.
  template <int at_once, bool kappa>
  MDN_ON_DEVICE void weigh(int m) const {
    Numbers part = {};
    const Element *loc_base = parameters(call_.loc), *scale_base = parameters(call_.scale);
#pragma unroll 1
    for (int s = 0; s < call_.scales; s += at_once) {
      Numbers inverse[at_once], value = {}, pull[at_once] = {};
#pragma unroll
      for (int i = 0; i < at_once; ++i) inverse[i] = read_scale(m, s + i, scale_base, part);
      int d = first_dimension(s);
      const unsigned char *loc_at[at_once], *target_at[at_once];
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        loc_at[i] = reinterpret_cast<const unsigned char*>(loc_base + (m * call_.dims + d + i) * stride(call_.loc));
        target_at[i] = target(d + i);
      }
#pragma unroll unrolled
      for (int k = 0; k < plan_.of_scale; ++k) {
        const uint32_t here = seen(d);
#pragma unroll
        for (int i = 0; i < at_once; ++i) {
          const Numbers own = inverse_of<kappa>(inverse[i], d + i);
          const Numbers z = standardised(load_target(target_at[i]),
                                         load_four(reinterpret_cast<const Element*>(loc_at[i])), own, here);
          loc_at[i] += plan_.loc_step;
          target_at[i] += plan_.target_step;
          residuals_[(m * call_.dims + d + i) * packs] = packed(z);
#pragma unroll
          for (int j = 0; j < width; ++j) {
            if constexpr (Density::value_of_pull != 0) {
              pull[i][j] += density_.pull(z[j], own[j]);
            } else {
              pull[i][j] += has(here, j) ? density_.pull(z[j], own[j]) : T(0);
              value[j] += has(here, j) ? density_.value(z[j], own[j]) : T(0);
            }
          }
        }
        d += plan_.step;
      }
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        keep_pull(m, s + i, pull[i]);
        if constexpr (Density::value_of_pull != 0) {
#pragma unroll
          for (int j = 0; j < width; ++j) part[j] -= Density::value_of_pull * pull[i][j];
        }
      }
      if constexpr (Density::value_of_pull == 0) {
#pragma unroll
        for (int j = 0; j < width; ++j) part[j] -= value[j];
      }
    }
    keep_part(m, part);
  }

  // The same of correlated pairs, whose dimensions have the scales s and s + 1, or share one.
  template <int at_once>
  MDN_ON_DEVICE void weigh_pairs(int m) const {
    const bool shared = call_.dimensions.shared_entries;
    const int entry_base = m * call_.dimensions.entries, step = at_once == 2 ? plan_.step : 2;
    Numbers part = {}, of_shared = {};
#pragma unroll 1
    for (int s = 0; s < call_.scales; s += at_once) {
      Numbers inverse[at_once], pull[at_once] = {};
#pragma unroll
      for (int i = 0; i < at_once; ++i) inverse[i] = read_scale(m, s + i, parameters(call_.scale), part);
      const int first = first_dimension(s), end = first + plan_.of_scale * plan_.step;
#pragma unroll 1
      for (int d = first; d < end; d += step) {
        const uint32_t here = seen(d);
        const int entry_at = entry_base + (shared ? 0 : d / 2);
        const Numbers entry = read(call_.tril, entry_at);
        Numbers z[2], slopes[2], of_entry;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          z[i] = standardised(read(call_.target, d + i), read(call_.loc, m * call_.dims + d + i),
                              inverse[at_once == 2 ? i : 0], here);
        }
        take_pair(density_, z, entry, here, slopes, of_entry, part);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          residuals_[(m * call_.dims + d + i) * packs] = packed(slopes[i]);
#pragma unroll
          for (int j = 0; j < width; ++j) pull[at_once == 2 ? i : 0][j] += z[i][j] * slopes[i][j];
        }
        if (shared) {
#pragma unroll
          for (int j = 0; j < width; ++j) of_shared[j] += of_entry[j];
        } else {
          entries_[entry_at * packs] = packed(of_entry);
        }
      }
#pragma unroll
      for (int i = 0; i < at_once; ++i) keep_pull(m, s + i, pull[i]);
    }
    if (shared) entries_[entry_base * packs] = packed(of_shared);
    keep_part(m, part);
  }

  // A channel's numbers. is_planar refuses a view whose channels are 2^32 bytes or more apart.
  MDN_ON_DEVICE Numbers read(const View& view, int channel) const {
    constexpr uint32_t bytes = sizeof(Element);
    const uint64_t first = reinterpret_cast<uint64_t>(parameters(view));
    return load_four(reinterpret_cast<const Element*>(first + uint64_t(bytes * stride(view)) * uint32_t(channel)));
  }

  // Turns what read_scale kept for the gradient of a raw scale into that gradient, for a share of one.
  MDN_ON_DEVICE void keep_pull(int m, int s, const Numbers& pull) const {
    const Pack<T, width> relative = kept_[kept_at(m, s) + packs];
    const Numbers count = Density::log_sigma ? count_of(s) : Numbers{};
    Numbers of_raw;
#pragma unroll
    for (int j = 0; j < width; ++j) of_raw[j] = relative[j] * (count[j] - pull[j]);
    kept_[kept_at(m, s) + packs] = packed(of_raw);
  }

  MDN_ON_DEVICE void keep_part(int m, const Numbers& part) const {
    parts_[2 * m * packs] = packed(part);
    parts_[(2 * m + 1) * packs] = packed(load_four(parameters(call_.logits) + m * stride(call_.logits)));
  }

  // Observed dimensions of a scale.
  MDN_ON_DEVICE Numbers count_of(int s) const {
    const uint32_t counts = plan_.masked ? static_cast<uint32_t>(counts_[s * packs]) : 0;
    Numbers count;
#pragma unroll
    for (int j = 0; j < width; ++j) {
      count[j] = plan_.masked ? static_cast<T>(counts >> (8 * j) & 0xff) : static_cast<T>(plan_.of_scale);
    }
    return count;
  }

  // Returns 1 / sigma, and takes the logarithms off log phi.
  MDN_ON_DEVICE Numbers read_scale(int m, int s, const Element* base, Numbers& part) const {
    const Numbers raw = load_four(base + ((m * call_.scales + s) * stride(call_.scale))), count = count_of(s);
    // A scale all of whose dimensions are unobserved leaves the density, whatever it holds.
    const T unseen = call_.activation == ScaleActivation::identity ? T(1) : T(0);
    Numbers inverse, relative;
    T of_seen[width];
    LogScale<T> terms[width];
#pragma unroll
    for (int j = 0; j < width; ++j) of_seen[j] = count[j] == 0 ? unseen : raw[j];
    find_scale_terms(call_.activation, of_seen, numbers_, numbers_.few, terms);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      inverse[j] = terms[j].inverse;
      relative[j] = terms[j].ratio;
      if (numbers_.power != 0) {
        relative[j] *= exp(numbers_.power * terms[j].log_sigma) * numbers_.scale_factor;
        if (call_.objective.natural) relative[j] /= maximum(count[j], T(1));
      }
      if constexpr (Density::log_sigma) part[j] -= count[j] * terms[j].log_sigma;
    }
    kept_[kept_at(m, s)] = packed(inverse);
    kept_[kept_at(m, s) + packs] = packed(relative);
    return inverse;
  }

  struct Row {
    const DynamicSharedArray<T>& parts;
    int position;
    MDN_ON_DEVICE T part(int m) const { return parts[2 * m * width * packs + position]; }
    MDN_ON_DEVICE T logit(int m) const { return parts[(2 * m + 1) * width * packs + position]; }
  };

  // The loss of each position, each component's posterior share, and the logits' gradients.
  MDN_ON_DEVICE double combine() const {
    double sum = 0;
    with_components(call_.components, [&](auto m) { sum = combine_components<decltype(m)::value>(); });
    return sum;
  }

  template <int M>
  MDN_ON_DEVICE double combine_components() const {
    double sum = 0;
#pragma unroll 1
    for (int position = threadIdx.x; position < plan_.positions; position += static_cast<int>(blockDim.x)) {
      const int64_t point = first_ + position;
      if (point >= call_.points) break;
      const int row = position / (width * packs), in_row = position % (width * packs);
      const auto parts = dynamic_shared<T>(plan_.parts + row * plan_.row_bytes, 2 * call_.components * width * packs);
      T constant = 0;
      const int observed = observed_at(row, in_row, constant);
      const T weight = call_.weight.data != nullptr && observed != 0
                           ? static_cast<T>(load_number(call_.weight, offset_of(call_.weight, batch_, 0, point)))
                           : T(1);
      const T factor = weight * static_cast<T>(factor_[0]);
      T* grad_logits = static_cast<T*>(call_.grad_logits.data) + offset_of(call_.grad_logits, batch_, 0, point);
      T* posterior = static_cast<T*>(call_.posterior.data) + offset_of(call_.posterior, batch_, 0, point);
      const auto use = [&](int m, T r, T gradient) {
        parts[2 * m * width * packs + in_row] = r * factor;
        if (call_.parameter_gradients)
          store_global(grad_logits + m * call_.grad_logits.channel_stride, gradient * factor);
        if (call_.posterior.data != nullptr) store_global(posterior + m * call_.posterior.channel_stride, r);
      };
      T loss = 0;
      if (observed != 0) {
        const Row components = {parts, in_row};
        const int64_t assigned =
            call_.assigned != nullptr ? load_global(call_.assigned + batch_ * call_.points + point) : 0;
        loss = Posterior<T, M, Row>(call_, numbers_, components).find(assigned, use) + constant;
        if (call_.weight.data != nullptr) loss *= weight;
      } else {
#pragma unroll 1
        for (int m = 0; m < call_.components; ++m) use(m, T(0), T(0));
      }
      if (!call_.reduced) store_global(static_cast<T*>(call_.loss) + batch_ * call_.points + point, loss);
      sum += static_cast<double>(loss);
    }
    return sum;
  }

  // How many dimensions are observed at a position, and the constants of these.
  MDN_ON_DEVICE int observed_at(int row, int position, T& constant) const {
    int observed = call_.dims;
    if (plan_.masked) {
      const DynamicSharedArray<unsigned char> counts =
          dynamic_shared<unsigned char>(plan_.counts + row * plan_.row_bytes, call_.scales * width * packs);
      observed = 0;
#pragma unroll 1
      for (int s = 0; s < call_.scales; ++s) observed += counts[s * width * packs + position];
    }
    if (call_.dim_scale == nullptr) {
      constant = static_cast<T>(observed) * density_.constant;
    } else {
      const DynamicSharedArray<uint32_t> seen = dynamic_shared<uint32_t>(
          plan_.seen + row * plan_.row_bytes, plan_.masked ? static_cast<int>(plan_.by_groups.divisor) * packs : 0);
#pragma unroll 1
      for (int d = 0; d < call_.dims; ++d) {
        const DimensionTerms<T> dim = dims_[d];
        if (!plan_.masked || has(seen[dim.seen + position / width], position % width)) constant += dim.constant;
      }
    }
    return observed;
  }

  // dv / dz, from what stands in the place of a residual.
  MDN_ON_DEVICE T slope(T kept, T inverse) const {
    if constexpr (pairs) return kept;
    return density_.slope(kept, inverse);
  }

  // Whether all that a component's gradients are made of is finite, so that no share makes nothing of it.
  MDN_ON_DEVICE bool is_finite(int m) const {
    bool finite = true;
#pragma unroll 1
    for (int s = 0; s < call_.scales; ++s) {
      const Pack<T, width> of_raw = kept_[kept_at(m, s) + packs];
      const T sum = absolute(of_raw[0]) + absolute(of_raw[1]) + (absolute(of_raw[2]) + absolute(of_raw[3]));
      finite = finite && sum <= T(3e38);
    }
    return finite;
  }

  // The gradients of loc and scale of a component. `general`: with dim_scale, or of numbers that are not finite.
  template <bool general>
  MDN_ON_DEVICE void write_gradients(int m) const {
    const Pack<T, width> share = parts_[2 * m * packs];
    T *to = gradients(call_.grad_loc), *scale_to = gradients(call_.grad_scale);
#pragma unroll 1
    for (int s = 0; s < call_.scales; ++s) {
      const Pack<T, width> inverse = kept_[kept_at(m, s)], of_raw = kept_[kept_at(m, s) + packs];
      Numbers gradient, pull;
#pragma unroll
      for (int j = 0; j < width; ++j) {
        // A component without a share has no gradients, whatever it holds.
        gradient[j] = general && share[j] == 0 ? T(0) : share[j] * of_raw[j];
        pull[j] = -share[j] * inverse[j];
        if (numbers_.power != 0) pull[j] *= numbers_.loc_factor * exp(-numbers_.power * log(inverse[j]));
      }
      store_four(scale_to + ((m * call_.scales + s) * stride(call_.grad_scale)), gradient);
      int d = first_dimension(s);
      unsigned char* to_at = reinterpret_cast<unsigned char*>(to + (m * call_.dims + d) * stride(call_.grad_loc));
#pragma unroll 4
      for (int k = 0; k < plan_.of_scale; ++k) {
        const Pack<T, width> z = residuals_[(m * call_.dims + d) * packs];
#pragma unroll
        for (int j = 0; j < width; ++j) {
          if constexpr (general) {
            const DimensionTerms<T> dim = dims_[d];
            const T of_loc = slope(z[j], inverse[j] * dim.inverse_kappa) * (pull[j] * dim.loc_factor);
            gradient[j] = share[j] != 0 ? of_loc : T(0);
          } else {
            gradient[j] = slope(z[j], inverse[j]) * pull[j];
          }
        }
        store_four(reinterpret_cast<T*>(to_at), gradient);
        d += plan_.step;
        to_at += plan_.to_step;
      }
    }
  }

  MDN_ON_DEVICE void write_zeros(int m) const {
#pragma unroll 1
    for (int s = m * call_.scales; s < (m + 1) * call_.scales; ++s) {
      store_four(gradients(call_.grad_scale) + s * stride(call_.grad_scale), Numbers{});
    }
#pragma unroll 1
    for (int d = m * call_.dims; d < (m + 1) * call_.dims; ++d) {
      store_four(gradients(call_.grad_loc) + d * stride(call_.grad_loc), Numbers{});
    }
  }

  // The gradients of a component's entries of L.
  MDN_ON_DEVICE void write_entry_gradients(int m, bool observed) const {
    const int entries = call_.dimensions.entries;
#pragma unroll 4
    for (int i = m * entries; i < (m + 1) * entries; ++i) {
      Numbers gradient = {};
      if (observed) {
        const Pack<T, width> share = parts_[2 * m * packs], of_entry = entries_[i * packs];
#pragma unroll
        for (int j = 0; j < width; ++j) gradient[j] = share[j] != 0 ? share[j] * of_entry[j] : T(0);
      }
      store_four(gradients(call_.grad_tril) + i * stride(call_.grad_tril), gradient);
    }
  }

  // The gradient of the target, of one dimension.
  MDN_ON_DEVICE void write_target_gradient(int d, bool observed) const {
    Numbers gradient = {};
    if (observed) {
      const DimensionTerms<T> dim = dims_[d];
      const int s = scale_of(d);
#pragma unroll 1
      for (int m = 0; m < call_.components; ++m) {
        const Pack<T, width> share = parts_[2 * m * packs], inverse = kept_[kept_at(m, s)];
        const Pack<T, width> z = residuals_[(m * call_.dims + d) * packs];
#pragma unroll
        for (int j = 0; j < width; ++j) {
          const T own = inverse[j] * dim.inverse_kappa;
          if (share[j] != 0) gradient[j] += slope(z[j], own) * (share[j] * own);
        }
      }
    }
    store_four(gradients(call_.grad_target) + d * stride(call_.grad_target), gradient);
  }

  const MixtureCall& call_;
  const MixturePlan& plan_;
  const MixtureNumbers<T>& numbers_;
  const Density& density_;
  const int row_;  // of the groups of warps that have the same positions
  const int first_component_, lane_;
  int64_t batch_, first_;  // of the tile
  int64_t point_;          // the first of this lane's four positions
  const DynamicSharedArray<DimensionTerms<T>> dims_;
  const DynamicSharedArray<T> factor_;
  // From this lane's pack on: [groups], [scales] a byte for each position; [components][log phi, logits];
  // [components][scales][1 / sigma, gradient of the raw scale]; [components][dims]; [components][entries].
  const DynamicSharedArray<uint32_t> seen_, counts_;
  const DynamicSharedArray<Pack<T, width>> parts_, kept_, residuals_, entries_;
};

template <class Element, class Density>
__global__ void __launch_bounds__(256, 2)
    planar_nll(const __grid_constant__ MixtureCall call, const __grid_constant__ MixturePlan plan,
               const __grid_constant__ MixtureNumbers<float> numbers, const __grid_constant__ Density density) {
  PlanarBlock<Element, Density> block(call, plan, numbers, density);
  finish_loss<float>(call, plan, block.run());
}

}  // namespace device
}  // namespace mdn
