// Loss and gradients of mixture_nll in any layout, from rows of numbers that all threads of a block see.
//
// Memory story. A block reads its tile once, in the order in which it lies in memory, into rows: in shared memory, or
// where a mixture is too large for that in a workspace in device memory, which the second-level cache holds for as long
// as it can. A lane has a position, a warp one of its components. What was read is replaced in place: by standardised
// residuals, then by gradients, which are written in the order of their tensors. Positions of which nothing is observed
// are not read.
#pragma once

#include "ops/mixture_nll/positions.cuh"

namespace mdn {
namespace device {

template <class T, class Family, bool shared>
class StagedBlock {
 public:
  MDN_ON_DEVICE StagedBlock(const MixtureCall& call, const MixturePlan& plan, const MixtureNumbers<T>& numbers,
                            const Family& family)
      : call_(call),
        plan_(plan),
        numbers_(numbers),
        family_(family),
        rows_(plan.staged),
        positions_(plan.positions),
        dims_(dynamic_shared<DimensionTerms<T>>(plan.dims, shared ? call.dims : 0)),
        factor_(dynamic_shared<T>(plan.sums + 72, 1)),
        chosen_(dynamic_shared<int64_t>(plan.kept, call.index != nullptr ? positions_ : 0)),
        seen_(plan.memory + int64_t(blockIdx.x) * plan.row_bytes, plan.seen,
              plan.masked ? static_cast<int>(plan.by_groups.divisor) * positions_ : 0),
        cells_(plan.memory + int64_t(blockIdx.x) * plan.row_bytes, plan.rows, rows_.end),
        packs_(plan.memory + int64_t(blockIdx.x) * plan.row_bytes, plan.rows, rows_.end / pack_width<T>) {}

  // Returns this thread's part of the weighted sum of the losses.
  MDN_ON_DEVICE double run() {
    if (shared) find_dimension_terms(call_, plan_, family_, dims_, positions_);
    if (threadIdx.x < warp_lanes) {
      const double divisor = divisor_of(plan_);
      if (threadIdx.x == 0) factor_[0] = static_cast<T>(1 / divisor);
    }
    double sum = 0;
#pragma unroll 1
    for (int tile = blockIdx.x; tile < plan_.tiles; tile += static_cast<int>(gridDim.x)) {
      __syncthreads();
      sum += run_tile(tile);
    }
    return sum;
  }

 private:
  MDN_ON_DEVICE double run_tile(int tile) {
    batch_ = quotient(tile, plan_.by_image);
    first_ = int64_t(tile - static_cast<int>(batch_) * static_cast<int>(plan_.by_image.divisor)) * positions_;
    count_ = static_cast<int>(min(int64_t(positions_), call_.points - first_));
    const bool any = look();
    if (any) {
      read_rows();
      __syncthreads();
      for_each_component([this](int m, int position) {
        if (call_.dimensions.block == 1) {
          weigh(m, position);
        } else {
          weigh_blocks(m, position);
        }
      });
      __syncthreads();
    }
    const double sum = combine();
    __syncthreads();
    if (call_.target_gradient) {
      for_each_target();
      __syncthreads();
    }
    if (call_.parameter_gradients) for_each_component([this](int m, int position) { find_gradients(m, position); });
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < plan_.output_count; ++i) write_rows(plan_.outputs[i]);
    return sum;
  }

  MDN_ON_DEVICE T get(int at) const { return cells_.get(at); }
  MDN_ON_DEVICE void set(int at, T value) const { cells_.set(at, value); }

  // The terms of a dimension, from shared memory, or found anew where a mixture is too large for it.
  MDN_ON_DEVICE DimensionTerms<T> dimension(int d) const {
    if constexpr (shared) {
      return dims_[d];
    } else {
      return dimension_terms<T>(call_, plan_, family_, d, positions_);
    }
  }

  // Which dimensions are observed: bytes, a row of positions for each group, and their numbers. Returns whether any is.
  MDN_ON_DEVICE bool look() {
    if (!plan_.masked) return true;
    const int groups = static_cast<int>(plan_.by_groups.divisor), threads = static_cast<int>(blockDim.x);
    if (call_.index != nullptr) {
      for (int i = threadIdx.x; i < count_; i += threads) {
        chosen_[i] = load_global(call_.index + batch_ * call_.points + first_ + i);
      }
    }
    const View& mask = call_.mask;
    const unsigned char* from = static_cast<const unsigned char*>(mask.data) + offset_of(mask, batch_, 0, first_);
    const int shift = __ffs(positions_) - 1, total = groups * positions_;
#pragma unroll 1
    for (int i = threadIdx.x; i < total; i += threads) {
      int position = i & (positions_ - 1), group = i >> shift;
      if (plan_.mask_along_channels) position = quotient(i, plan_.by_groups), group = i - position * groups;
      bool seen = position < count_ && takes_part(call_, batch_, first_ + position);
      if (seen && mask.data != nullptr) {
        seen = load_global(from + position * mask.point_stride + group * mask.channel_stride) != 0;
      }
      seen_.set(group * positions_ + position, seen);
    }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < call_.scales * positions_; i += threads) {
      const int position = i & (positions_ - 1), s = i >> shift;
      int number = 0, d = first_dimension(s);
#pragma unroll 1
      for (int k = 0; k < plan_.of_scale; ++k, d += plan_.step) {
        number += seen_.get(quotient(d, plan_.by_group_dims) * positions_ + position);
      }
      set(rows_.counts + i, static_cast<T>(number));
    }
    __syncthreads();
    bool any = false;
#pragma unroll 1
    for (int position = threadIdx.x; position < positions_; position += threads) {
      T number = 0;
#pragma unroll 1
      for (int s = 0; s < call_.scales; ++s) number += get(rows_.counts + s * positions_ + position);
      set(rows_.counts + call_.scales * positions_ + position, number);
      any |= number != 0;
    }
    return __syncthreads_or(any) != 0;
  }

  // The observed dimensions of a scale at a position, or of all scales: s = S.
  MDN_ON_DEVICE T count_of(int s, int position) const {
    if (plan_.masked) return get(rows_.counts + s * positions_ + position);
    return static_cast<T>(s == call_.scales ? call_.dims : plan_.of_scale);
  }
  MDN_ON_DEVICE bool is_observed(int position) const {
    return position < count_ && (!plan_.masked || get(rows_.counts + call_.scales * positions_ + position) != 0);
  }
  MDN_ON_DEVICE bool is_seen(const DimensionTerms<T>& dim, int position) const {
    return !plan_.masked || seen_.get(dim.seen + position) != 0;
  }
  MDN_ON_DEVICE int first_dimension(int s) const { return call_.dimensions.interleaved ? s : s * plan_.of_scale; }
  MDN_ON_DEVICE int scale_of(int d) const {
    return call_.dimensions.interleaved ? d - quotient(d, plan_.by_scales) * call_.scales
                                        : quotient(d, plan_.by_of_scale);
  }

  // Calls visit(m, position) for the components of every position that exists, each by one thread.
  template <class Visit>
  MDN_ON_DEVICE void for_each_component(Visit visit) const {
    const int warp = threadIdx.x / warp_lanes, row = quotient(warp, plan_.by_warps);
    const int rows = quotient(static_cast<int>(blockDim.x) / warp_lanes, plan_.by_warps);
    if (row >= rows) return;
#pragma unroll 1
    for (int position = row * warp_lanes + static_cast<int>(threadIdx.x) % warp_lanes; position < count_;
         position += rows * warp_lanes) {
#pragma unroll 1
      for (int m = warp - row * plan_.warps; m < call_.components; m += plan_.warps) visit(m, position);
    }
  }

  MDN_ON_DEVICE void read_rows() const {
#pragma unroll 1
    for (int i = 0; i < plan_.input_count; ++i) {
      const StagedTensor& tensor = plan_.inputs[i];
      switch (tensor.view.dtype) {
        case DType::float64:
          if constexpr (sizeof(T) == 8) read_rows_of<double>(tensor);
          break;
        case DType::bfloat16:
          read_rows_of<__nv_bfloat16>(tensor);
          break;
        case DType::float16:
          read_rows_of<__half>(tensor);
          break;
        default:
          read_rows_of<float>(tensor);
      }
    }
  }

  template <class Element>
  MDN_ON_DEVICE void read_rows_of(const StagedTensor& tensor) const {
    constexpr int width = pack_width<Element>;
    const TileView& view = tensor.view;
    const int channels = static_cast<int>(tensor.channels.divisor), total = channels * count_;
    const int gap = tensor.stride - channels, threads = static_cast<int>(blockDim.x);
    const Element* from = static_cast<const Element*>(view.data) + batch_ * view.batch_stride;
    if (view.walk == Walk::channels_packed) {
      from += first_ * channels;
#pragma unroll 1
      for (int at = threadIdx.x * width; at < total; at += threads * width) {
        int row = 0;
        if (plan_.masked || gap != 0) {
          row = quotient(at, tensor.channels);
          bool any = false;
#pragma unroll 1
          for (int p = row; p < count_ && p * channels < at + width; ++p) any |= is_observed(p);
          if (!any) continue;
        }
        const int to = tensor.at + at + row * gap;
        if (at + width <= total) {
          const auto pack = load_global(reinterpret_cast<const Pack<Element, width>*>(from + at));
          if constexpr (width % pack_width<T> == 0) {
            if (shared && to % pack_width<T> == 0) {
#pragma unroll
              for (int k = 0; k < width / pack_width<T>; ++k) {
                Pack<T, pack_width<T>> numbers;
#pragma unroll
                for (int j = 0; j < pack_width<T>; ++j) numbers[j] = to_number(pack[k * pack_width<T> + j]);
                packs_.set(to / pack_width<T> + k, numbers);
              }
              continue;
            }
          }
#pragma unroll
          for (int j = 0; j < width; ++j) set(to + j, to_number(pack[j]));
        } else {
#pragma unroll 1
          for (int j = 0; at + j < total; ++j) set(to + j, to_number(load_global(from + at + j)));
        }
      }
      return;
    }
    const bool channels_first = view.walk == Walk::channels;
    const int shift = __ffs(positions_) - 1, all = channels * positions_;
#pragma unroll 4
    for (int i = threadIdx.x; i < all; i += threads) {
      int position = i & (positions_ - 1), channel = i >> shift;
      if (channels_first) position = quotient(i, tensor.channels), channel = i - position * channels;
      if (!is_observed(position)) continue;
      const int64_t point = view.gathered ? static_cast<int64_t>(chosen_[position]) : first_ + position;
      set(tensor.at + position * tensor.stride + channel,
          to_number(load_global(from + point * view.point_stride + channel * view.channel_stride)));
    }
  }

  // Numbers leave as they are computed: in T.
  MDN_ON_DEVICE void write_rows(const StagedTensor& tensor) const {
    constexpr int width = pack_width<T>;
    const TileView& view = tensor.view;
    const int channels = static_cast<int>(tensor.channels.divisor), total = channels * count_;
    const int gap = tensor.stride - channels, threads = static_cast<int>(blockDim.x);
    T* to = static_cast<T*>(view.data) + batch_ * view.batch_stride;
    if (view.walk == Walk::channels_packed) {
      to += first_ * channels;
#pragma unroll 1
      for (int at = threadIdx.x * width; at < total; at += threads * width) {
        const int from = tensor.at + at + (gap != 0 ? quotient(at, tensor.channels) * gap : 0);
        if (at + width <= total) {
          Pack<T, width> pack;
          if (shared && from % width == 0) {
            pack = packs_.get(from / width);
          } else {
#pragma unroll
            for (int j = 0; j < width; ++j) pack[j] = get(from + j);
          }
          store_global(reinterpret_cast<Pack<T, width>*>(to + at), pack);
        } else {
#pragma unroll 1
          for (int j = 0; at + j < total; ++j) store_global(to + at + j, get(from + j));
        }
      }
      return;
    }
    const bool channels_first = view.walk == Walk::channels;
    const int shift = __ffs(positions_) - 1, all = channels * positions_;
#pragma unroll 4
    for (int i = threadIdx.x; i < all; i += threads) {
      int position = i & (positions_ - 1), channel = i >> shift;
      if (channels_first) position = quotient(i, tensor.channels), channel = i - position * channels;
      if (position >= count_) continue;
      store_global(to + (first_ + position) * view.point_stride + channel * view.channel_stride,
                   get(tensor.at + position * tensor.stride + channel));
    }
  }

  // 1 / sigma and what the gradient of a raw scale needs; returns what the scale adds to log phi.
  MDN_ON_DEVICE T read_scale(int m, int s, int position, T& inverse, T& relative) const {
    const int at = rows_.scale + position * rows_.scale_stride + m * call_.scales + s;
    const T count = count_of(s, position);
    // A scale all of whose dimensions are unobserved leaves the density, whatever it holds.
    const T unseen = call_.activation == ScaleActivation::identity ? T(1) : T(0);
    const LogScale<T> terms = scale_terms<T>(call_.activation, count == 0 ? unseen : get(at), numbers_, numbers_.few);
    inverse = terms.inverse;
    relative = terms.ratio;
    set(at, inverse);
    if (numbers_.power != 0) {
      relative *= exp(numbers_.power * terms.log_sigma) * numbers_.scale_factor;
      if (call_.objective.natural) relative /= maximum(count, T(1));
    }
    return family_.log_sigma ? -count * terms.log_sigma : T(0);
  }
  // The dimensions whose log sigma is in the density.
  MDN_ON_DEVICE T counted_scales(int s, int position) const { return family_.log_sigma ? count_of(s, position) : T(0); }

  // log phi of a component, up to the constant, its residuals, and what its gradients need of its scales.
  MDN_ON_DEVICE void weigh(int m, int position) const {
    if (!is_observed(position)) return;
    const int loc = rows_.loc + position * rows_.loc_stride + m * call_.dims;
    const int target = rows_.target + position * rows_.target_stride;
    T part = 0;
#pragma unroll 1
    for (int s = 0; s < call_.scales; ++s) {
      T inverse, relative;
      part += read_scale(m, s, position, inverse, relative);
      T value = 0, pull = 0;
      int d = first_dimension(s);
#pragma unroll 2
      for (int k = 0; k < plan_.of_scale; ++k, d += plan_.step) {
        const DimensionTerms<T> dim = dimension(d);
        const T own = inverse * dim.inverse_kappa;
        const bool seen = is_seen(dim, position);
        const T z = seen ? (get(target + d) - get(loc + d)) * own : T(0);
        set(loc + d, z);
        if constexpr (Family::value_of_pull != 0) {
          pull += family_.pull(z, own);
        } else if (seen) {
          pull += family_.pull(z, own);
          value += family_.value(z, own);
        }
      }
      part -= Family::value_of_pull == 0 ? value : Family::value_of_pull * pull;
      set(rows_.relative + (m * call_.scales + s) * positions_ + position,
          relative * (counted_scales(s, position) - pull));
    }
    set(rows_.parts + m * positions_ + position, part);
  }

  // The entries of L of one block of dimensions, row by row.
  MDN_ON_DEVICE int entries_of(int m, int block, int position) const {
    const Dimensions& dimensions = call_.dimensions;
    return rows_.tril + position * rows_.tril_stride + m * dimensions.entries +
           (dimensions.shared_entries ? 0 : block * plan_.entries);
  }

  // The same of correlated dimensions, with g and h of each.
  MDN_ON_DEVICE void weigh_blocks(int m, int position) const {
    if (!is_observed(position)) return;
    const int size = call_.dimensions.block, row = position * rows_.loc_stride + m * call_.dims;
    const int loc = rows_.loc + row, slopes = rows_.slopes + row, pulls = rows_.pulls + row;
    const int target = rows_.target + position * rows_.target_stride;
    const int inverses = rows_.scale + position * rows_.scale_stride + m * call_.scales;
    const int of_scales = m * call_.scales * positions_ + position;
    T part = 0;
#pragma unroll 1
    for (int s = 0; s < call_.scales; ++s) {
      T inverse, relative;
      part += read_scale(m, s, position, inverse, relative);
      set(rows_.relative + of_scales + s * positions_, relative);
      set(rows_.pulled + of_scales + s * positions_, T(0));
    }
#pragma unroll 1
    for (int first = 0, block = 0; first < call_.dims; first += size, ++block) {
      const bool seen = is_seen(dimension(first), position);
      const int entries = entries_of(m, block, position);
#pragma unroll 1
      for (int k = 0; k < size; ++k) {
        const int d = first + k;
        T slope = 0, z = 0;
        if (seen) {
          z = (get(target + d) - get(loc + d)) * (get(inverses + scale_of(d)) * dimension(d).inverse_kappa);
          T w = z;
#pragma unroll 1
          for (int i = 0; i < k; ++i) w += get(entries + k * (k - 1) / 2 + i) * get(loc + first + i);
          part -= family_.value(w, w);
          slope = family_.slope(w, w);
        }
        set(loc + d, z);
        set(slopes + d, slope);
      }
#pragma unroll 1
      for (int i = 0; i < size; ++i) {
        const int d = first + i;
        T pull = get(slopes + d);
        if (seen) {
#pragma unroll 1
          for (int k = i + 1; k < size; ++k) pull += get(entries + k * (k - 1) / 2 + i) * get(slopes + first + k);
        }
        set(pulls + d, pull);
        const int pulled = rows_.pulled + of_scales + scale_of(d) * positions_;
        set(pulled, get(pulled) + get(loc + d) * pull);
      }
    }
#pragma unroll 1
    for (int s = 0; s < call_.scales; ++s) {
      const int at = of_scales + s * positions_;
      set(rows_.relative + at, get(rows_.relative + at) * (counted_scales(s, position) - get(rows_.pulled + at)));
    }
    set(rows_.parts + m * positions_ + position, part);
  }

  struct Row {
    const StagedBlock& block;
    int position;
    MDN_ON_DEVICE T part(int m) const { return block.get(block.rows_.parts + m * block.positions_ + position); }
    MDN_ON_DEVICE T logit(int m) const {
      return block.get(block.rows_.logits + position * block.rows_.logits_stride + m);
    }
  };

  // The loss of each position, each component's posterior share, and the logits' gradients.
  MDN_ON_DEVICE double combine() const {
    double sum = 0;
#pragma unroll 1
    for (int position = threadIdx.x; position < count_; position += static_cast<int>(blockDim.x)) {
      const int64_t point = first_ + position;
      const bool observed = is_observed(position), weighted = call_.weight.data != nullptr && observed;
      const T weight =
          weighted ? static_cast<T>(load_number(call_.weight, offset_of(call_.weight, batch_, 0, point))) : T(1);
      const T factor = weight * static_cast<T>(factor_[0]);
      const bool posterior = call_.posterior.data != nullptr;
      const auto use = [&](int m, T r, T gradient) {
        set(rows_.parts + m * positions_ + position, r * factor);
        set(rows_.logits + position * rows_.logits_stride + m, posterior ? r : gradient * factor);
      };
      T loss = 0;
      if (observed) {
        const Row row = {*this, position};
        const int64_t assigned =
            call_.assigned != nullptr ? load_global(call_.assigned + batch_ * call_.points + point) : 0;
        loss = Posterior<T, 0, Row>(call_, numbers_, row).find(assigned, use) + constant_of(position);
        if (weighted) loss *= weight;
      } else {
#pragma unroll 1
        for (int m = 0; m < call_.components; ++m) use(m, T(0), T(0));
      }
      if (!call_.reduced) store_global(static_cast<T*>(call_.loss) + batch_ * call_.points + point, loss);
      sum += static_cast<double>(loss);
    }
    return sum;
  }

  // The constants of the dimensions that are observed.
  MDN_ON_DEVICE T constant_of(int position) const {
    if (call_.dim_scale == nullptr) return count_of(call_.scales, position) * family_.constant;
    T constant = 0;
#pragma unroll 1
    for (int d = 0; d < call_.dims; ++d) {
      const DimensionTerms<T> dim = dimension(d);
      if (is_seen(dim, position)) constant += dim.constant;
    }
    return constant;
  }

  // The gradient of the target, while residuals, or pulls, are there.
  MDN_ON_DEVICE void for_each_target() const {
    const int shift = __ffs(positions_) - 1;
#pragma unroll 1
    for (int i = threadIdx.x; i < call_.dims * positions_; i += static_cast<int>(blockDim.x)) {
      const int position = i & (positions_ - 1), d = i >> shift;
      if (position >= count_) continue;
      T gradient = 0;
      if (is_observed(position)) {
        const DimensionTerms<T> dim = dimension(d);
        const int s = scale_of(d), row = position * rows_.loc_stride + d;
#pragma unroll 1
        for (int m = 0; m < call_.components; ++m) {
          const T share = get(rows_.parts + m * positions_ + position);
          if (share == 0 || !is_seen(dim, position)) continue;
          const T own = get(rows_.scale + position * rows_.scale_stride + m * call_.scales + s) * dim.inverse_kappa;
          gradient += slope_of(row + m * call_.dims, own) * (share * own);
        }
      }
      set(rows_.target + position * rows_.target_stride + d, gradient);
    }
  }

  // dv / dz of the residual at `row` of those of loc.
  MDN_ON_DEVICE T slope_of(int row, T own) const {
    return call_.dimensions.block == 1 ? family_.slope(get(rows_.loc + row), own) : get(rows_.pulls + row);
  }

  // The gradients of loc, scale and tril of a component, in their places.
  MDN_ON_DEVICE void find_gradients(int m, int position) const {
    const bool observed = is_observed(position);
    const T share = observed ? get(rows_.parts + m * positions_ + position) : T(0);
    const bool sharing = share != 0;  // a component without a share has no gradients, whatever it holds
    const int row = position * rows_.loc_stride + m * call_.dims, loc = rows_.loc + row;
    if (call_.dimensions.block > 1) find_entry_gradients(m, position, share);
#pragma unroll 1
    for (int s = 0; s < call_.scales; ++s) {
      const int scale = rows_.scale + position * rows_.scale_stride + m * call_.scales + s;
      T pull = 0, inverse = 0, gradient = 0;
      if (sharing) {
        inverse = get(scale);
        pull = -share * inverse;
        if (numbers_.power != 0) pull *= numbers_.loc_factor * exp(-numbers_.power * log(inverse));
        gradient = share * get(rows_.relative + (m * call_.scales + s) * positions_ + position);
      }
      set(scale, gradient);
      int d = first_dimension(s);
#pragma unroll 2
      for (int k = 0; k < plan_.of_scale; ++k, d += plan_.step) {
        const DimensionTerms<T> dim = dimension(d);
        T of_loc = 0;
        if (sharing && is_seen(dim, position)) {
          of_loc = slope_of(row + d, inverse * dim.inverse_kappa) * (pull * dim.loc_factor);
        }
        set(loc + d, of_loc);
      }
    }
  }

  // The gradients of the entries of L, in their places: nothing reads the entries any more.
  MDN_ON_DEVICE void find_entry_gradients(int m, int position, T share) const {
    const int size = call_.dimensions.block, row = position * rows_.loc_stride + m * call_.dims;
    const bool summed = call_.dimensions.shared_entries;
#pragma unroll 1
    for (int first = 0, block = 0; first < (summed ? size : call_.dims); first += size, ++block) {
      const int entries = entries_of(m, block, position);
#pragma unroll 1
      for (int k = 1, entry = 0; k < size; ++k) {
#pragma unroll 1
        for (int i = 0; i < k; ++i, ++entry) {
          T sum = 0;
#pragma unroll 1
          for (int from = first; share != 0 && from < (summed ? call_.dims : first + 1); from += size) {
            sum += get(rows_.slopes + row + from + k) * get(rows_.loc + row + from + i);
          }
          set(entries + entry, share * sum);
        }
      }
    }
  }

  const MixtureCall& call_;
  const MixturePlan& plan_;
  const MixtureNumbers<T>& numbers_;
  const Family& family_;
  const StagedRows& rows_;
  const int positions_;  // of a tile
  int64_t batch_, first_;
  int count_;  // positions that the tile has
  const DynamicSharedArray<DimensionTerms<T>> dims_;
  const DynamicSharedArray<T> factor_;
  const DynamicSharedArray<int64_t> chosen_;
  const Cells<unsigned char, shared> seen_;
  const Cells<T, shared> cells_;
  const Cells<Pack<T, pack_width<T>>, shared> packs_;  // the same memory
};

template <class T, class Family, bool shared>
__global__ void __launch_bounds__(256, sizeof(T) == 8 || !shared ? 2 : 3)
    staged_nll(const __grid_constant__ MixtureCall call, const __grid_constant__ MixturePlan plan,
               const __grid_constant__ MixtureNumbers<T> numbers, const __grid_constant__ Family family) {
  StagedBlock<T, Family, shared> block(call, plan, numbers, family);
  finish_loss<T>(call, plan, block.run());
}

}  // namespace device
}  // namespace mdn
