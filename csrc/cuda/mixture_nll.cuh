// Loss and gradients of mixture_nll in one pass.
//
// Memory story. With M components, C dimensions and S scales the floor is reading M (1 + C + S) + C values a position
// (and its mask) and writing M (1 + C + S). Both happen once: a block of 256 threads takes a tile of positions, keeps
// its standardised residuals z, M C values a position, in shared memory, and computes the gradients from them. A tile
// is 8 to 256 positions, as many as leave a multiprocessor room for several blocks; where even 8 do not fit, rows lie
// in a workspace in device memory, which the second-level cache holds for as long as it can. What nobody observed is
// not read: neither a tile, nor a piece of 16 bytes. The mean's divisor is known before any gradient is written, from
// a pass over mask and weight alone; it and all sums are in double, in an order that the shapes alone determine.
#pragma once

#include "../math/mixture.h"
#include "tiles.cuh"

namespace mdn {

constexpr int mixture_threads = 256;

struct MixtureCall {
  // Views of (B, channels, points). With an index, logits, loc and scale are read at its points; all else, the
  // gradients included, has a point for each entry of the index.
  View logits, loc, scale, target, mask, weight;  // mask and weight may be absent: data is null
  View grad_logits, grad_loc, grad_scale, grad_target;
  void* nll;  // (B, points), contiguous; null where the loss is reduced
  void* loss;
  bool parameter_gradients, target_gradient, mean;
  const int64_t* index;   // (B, points), contiguous, or null
  const void* dim_scale;  // [dims] of the arithmetic type, or null
  int64_t batch, points;
  int components, dims, scales;
  Family family;
  ScaleActivation activation;
  double min_scale;
  // Of the launch: filled in by plan_mixture, workspaces by who has allocated them.
  Divisor by_logits, by_loc, by_scale, by_dims, by_scales, by_mask, by_group;
  int positions, stride;     // of a tile, and from one of its rows to the next
  int64_t tiles_in_image;
  double known_divisor;      // what the loss is divided by, where `divisor` is null
  double* divisor;           // the same where mask, weight or index decide it
  double* sums;              // [tiles]
  unsigned char* workspace;  // a block's rows each, where they do not fit into shared memory; else null
};

// What of a block's memory begins where, in bytes.
struct MixtureLayout {
  int rows, kappa, seen, end;           // in shared memory or in the workspace
  int chosen, observed, total, shared;  // always in shared memory; `shared` is all that a block has
};

struct MixturePlan {
  int64_t tiles;
  int blocks;
  bool shared_rows;
  MixtureLayout layout;
  int64_t workspace_bytes;
};

constexpr int up_to(int multiple, int64_t value) {
  return static_cast<int>((value + multiple - 1) / multiple * multiple);
}

// Rows of one number a position; each begins where the one before ends.
struct MixtureRows {
  int z, target, inverse, term, part, logits, evidence, count, constant, weight, end;
  MDN_ON_BOTH MixtureRows(int m, int c, int s) {
    z = 0;                    // [M * C] standardised residuals, 0 where not observed
    target = z + m * c;       // [C]
    inverse = target + c;     // [M * S] 1 / sigma; in the end times the component's share
    term = inverse + m * s;   // [M * S] d sigma / d raw; in the end times what the scale's residuals pull
    part = term + m * s;      // [M * S] what the scale's dimensions add to log phi
    logits = part + m * s;    // [M] in the end their gradients
    evidence = logits + m;    // [M] log alpha + log phi; in the end the posterior share times the position's factor
    count = evidence + m;     // [S] observed dimensions of each scale
    constant = count + s;     // [S] sum over these of log kappa and the density's constant
    weight = constant + s;    // [1]
    end = weight + 1;
  }
};

inline int64_t groups_of(const MixtureCall& call) { return call.mask.data ? call.mask.channels : 1; }

inline int words_of(int positions) { return (positions + 31) / 32; }

// The layout of a block for tiles of `positions`; sizes of more than 2^31 bytes are not to be had, as the end says.
inline MixtureLayout mixture_layout(const MixtureCall& call, int positions, int stride, bool shared_rows) {
  const int64_t element = call.loc.dtype == DType::float64 ? 8 : 4;
  const int64_t rows = MixtureRows(call.components, call.dims, call.scales).end;
  MixtureLayout layout;
  layout.rows = 0;
  layout.kappa = up_to(16, rows * stride * element);
  layout.seen = up_to(16, layout.kappa + 2 * element * call.dims);
  layout.end = up_to(16, layout.seen + groups_of(call) * words_of(positions) * 4);
  layout.chosen = shared_rows ? layout.end : 0;
  layout.observed = layout.chosen + positions * 8;
  layout.total = up_to(16, layout.observed + words_of(positions) * 4);
  layout.shared = layout.total + mixture_threads / 32 * 8;
  return layout;
}

// How a call is cut into tiles. Fills in what of the call belongs to the launch but for the workspaces.
inline MixturePlan plan_mixture(MixtureCall& call) {
  const bool transposed = call.loc.walk == Walk::channels || call.loc.walk == Walk::channels_packed;
  const auto stride_of = [&](int positions) { return transposed ? positions + 1 : positions; };  // banks stay apart
  const auto fits = [&](int positions, int64_t bytes) {
    const int64_t rows = MixtureRows(call.components, call.dims, call.scales).end;
    return rows * stride_of(positions) * 8 < (int64_t(1) << 30) &&
           mixture_layout(call, positions, stride_of(positions), true).shared <= bytes;
  };
  MixturePlan plan = {};
  plan.shared_rows = true;
  call.positions = 256;
  while (call.positions > 32 && !fits(call.positions, 24 << 10)) call.positions /= 2;
  while (call.positions > 8 && !fits(call.positions, 48 << 10)) call.positions /= 2;
  if (!fits(call.positions, 96 << 10)) {  // what a block may have on every GPU since sm_80
    plan.shared_rows = false;
    call.positions = 32;
  }
  // A row of a tile fills a sector; beyond that, few positions are shared among more blocks.
  const int least = call.loc.dtype == DType::float32 || call.loc.dtype == DType::float64 ? 8 : 16;
  const auto tiles_of = [&](int positions) { return call.batch * ((call.points + positions - 1) / positions); };
  while (call.positions > least && (tiles_of(call.positions) < 264 || call.positions / 2 >= call.points)) {
    call.positions /= 2;
  }
  call.stride = stride_of(call.positions);
  call.tiles_in_image = (call.points + call.positions - 1) / call.positions;
  plan.tiles = tiles_of(call.positions);
  plan.layout = mixture_layout(call, call.positions, call.stride, plan.shared_rows);
  const int64_t most_blocks = plan.shared_rows ? INT32_MAX : 264;
  plan.blocks = static_cast<int>(plan.tiles < most_blocks ? plan.tiles : most_blocks);
  plan.workspace_bytes = plan.shared_rows ? 0 : int64_t(plan.blocks) * plan.layout.end;
  call.known_divisor = call.mean && call.batch * call.points > 0 ? static_cast<double>(call.batch * call.points) : 1;
  call.by_logits = Divisor(call.components);
  call.by_loc = Divisor(call.components * call.dims);
  call.by_scale = Divisor(call.components * call.scales);
  call.by_dims = Divisor(call.dims);
  call.by_scales = Divisor(call.scales);
  call.by_mask = Divisor(static_cast<int>(groups_of(call)));
  call.by_group = Divisor(static_cast<int>(call.dims / groups_of(call)));
  return plan;
}

// Points a call to its workspaces: a double for each tile and one more, and plan.workspace_bytes.
inline void place_workspaces(MixtureCall& call, const MixturePlan& plan, double* sums, unsigned char* workspace) {
  // Of a mean over everything the divisor is known.
  const bool counted = call.mean && (call.mask.data != nullptr || call.weight.data != nullptr || call.index != nullptr);
  call.divisor = counted ? sums + plan.tiles : nullptr;
  call.sums = call.nll == nullptr ? sums : nullptr;
  call.workspace = workspace;
}

namespace device {

// Numbers that a block's threads share, in shared memory or in a workspace.
template <class T, bool shared>
class Cells;

template <class T>
class Cells<T, true> {
 public:
  MDN_ON_DEVICE Cells(unsigned char*, int first, int count) : cells_(dynamic_shared<T>(first, count)) {}
  MDN_ON_DEVICE T get(int i) const { return cells_[i]; }
  MDN_ON_DEVICE void set(int i, T value) const { cells_[i] = value; }
  MDN_ON_DEVICE void set_bits(int i, T bits) const { atomicOr(&cells_[i], bits); }

 private:
  DynamicSharedArray<T> cells_;
};

template <class T>
class Cells<T, false> {
 public:
  MDN_ON_DEVICE Cells(unsigned char* memory, int first, int) : cells_(reinterpret_cast<T*>(memory + first)) {}
  MDN_ON_DEVICE T get(int i) const { return load_global_written(cells_ + i); }
  MDN_ON_DEVICE void set(int i, T value) const { store_global(cells_ + i, value); }
  MDN_ON_DEVICE void set_bits(int i, T bits) const { atomicOr(cells_ + i, bits); }

 private:
  T* cells_;
};

// The sum of one number a thread, in an order that does not change; the first thread has it.
MDN_ON_DEVICE double sum_of_block(double value, const DynamicSharedArray<double>& of_warps) {
  for (int step = warp_lanes / 2; step > 0; step /= 2) value += __shfl_down_sync(all_lanes, value, step);
  const int warp = threadIdx.x / warp_lanes, warps = blockDim.x / warp_lanes;
  if (threadIdx.x % warp_lanes == 0) of_warps[warp] = value;
  __syncthreads();
  double total = 0;
  if (threadIdx.x == 0) {
    for (int w = 0; w < warps; ++w) total += static_cast<double>(of_warps[w]);
  }
  return total;
}

// Which positions of a tile the index names and which of their dimensions were observed.
template <bool shared>
class Observation {
 public:
  MDN_ON_DEVICE Observation(const MixtureCall& call, const MixtureLayout& layout, unsigned char* memory)
      : call_(call),
        words_(words_in(call.positions)),
        groups_(static_cast<int>(call.by_mask.divisor)),
        seen_(memory, layout.seen, groups_ * words_),
        chosen_(dynamic_shared<int64_t>(layout.chosen, call.positions)),
        observed_(dynamic_shared<uint32_t>(layout.observed, words_)) {}

  // Reads index and mask. Returns whether anything in the tile is observed.
  MDN_ON_DEVICE bool look(const Tile& tile) {
    const int thread = threadIdx.x, threads = blockDim.x;
    if (call_.index != nullptr) {
      const int64_t* index = call_.index + tile.batch * call_.points + tile.first;
      for (int i = thread; i < tile.positions; i += threads) {
        chosen_[i] = i < tile.count ? load_global(index + i) : int64_t(-1);
      }
    }
    const bool along_channels = call_.mask.walk == Walk::channels;
    if (along_channels) {
      for (int i = thread; i < groups_ * words_; i += threads) seen_.set(i, 0);
    }
    __syncthreads();
    if (along_channels) {
      look_along_channels(tile);
    } else {
      look_along_points(tile);
    }
    __syncthreads();
    bool any = false;
    for (int word = thread; word < words_; word += threads) {
      uint32_t bits = 0;
      for (int g = 0; g < groups_; ++g) bits |= seen_.get(g * words_ + word);
      observed_[word] = bits;
      any |= bits != 0;
    }
    return __syncthreads_or(any) != 0;
  }

  // Whether dimension `dim` was observed at `position`: the lowest bit; at the positions that follow: those above.
  MDN_ON_DEVICE uint32_t seen(int dim, int position) const {
    return seen_.get(quotient(dim, call_.by_group) * words_ + (position >> 5)) >> (position & 31);
  }

  MDN_ON_DEVICE PositionSet<DynamicSharedArray<uint32_t>> observed() const { return {observed_}; }

  // Where the index points for a position that is observed.
  MDN_ON_DEVICE int64_t chosen(int position) const { return chosen_[position]; }

 private:
  static MDN_ON_DEVICE int words_in(int positions) { return (positions + 31) / 32; }

  MDN_ON_DEVICE bool here(const Tile& tile, int group, int position) const {
    if (position >= tile.count) return false;
    if (call_.index != nullptr && static_cast<int64_t>(chosen_[position]) < 0) return false;
    if (call_.mask.data == nullptr) return true;
    const unsigned char* mask = static_cast<const unsigned char*>(call_.mask.data);
    return load_global(mask + offset_of(call_.mask, tile, group, position)) != 0;
  }

  // A warp takes 32 positions of a group, or all positions of some groups.
  MDN_ON_DEVICE void look_along_points(const Tile& tile) {
    const int threads = blockDim.x, lane = threadIdx.x % warp_lanes;
    const int shift = __ffs(tile.positions) - 1, total = groups_ << shift;
    const int run = tile.positions < warp_lanes ? tile.positions : warp_lanes;
    for (int first = threadIdx.x - lane; first < total; first += threads) {
      const int at = first + lane, group = at >> shift, position = at & (tile.positions - 1);
      const uint32_t bits = __ballot_sync(all_lanes, at < total && here(tile, group, position));
      if (at < total && (lane & (run - 1)) == 0) {
        seen_.set(group * words_ + (position >> 5), bits >> lane & (0xffffffffu >> (warp_lanes - run)));
      }
    }
  }

  MDN_ON_DEVICE void look_along_channels(const Tile& tile) {
    const int total = groups_ * tile.count;
    for (int at = threadIdx.x; at < total; at += static_cast<int>(blockDim.x)) {
      const int position = quotient(at, call_.by_mask), group = at - position * groups_;
      if (here(tile, group, position)) seen_.set_bits(group * words_ + (position >> 5), uint32_t(1) << (position & 31));
    }
  }

  const MixtureCall& call_;
  const int words_, groups_;
  const Cells<uint32_t, shared> seen_;
  const DynamicSharedArray<int64_t> chosen_;
  const DynamicSharedArray<uint32_t> observed_;
};

// A number of a companion of the parameters: of their type, or float32 beside half precision.
MDN_ON_DEVICE double load_number(const View& view, int64_t offset) {
  switch (view.dtype) {
    case DType::float64:
      return load_global(static_cast<const double*>(view.data) + offset);
    case DType::bfloat16:
      return to_number(load_global(static_cast<const __nv_bfloat16*>(view.data) + offset));
    case DType::float16:
      return to_number(load_global(static_cast<const __half*>(view.data) + offset));
    default:
      return load_global(static_cast<const float*>(view.data) + offset);
  }
}

MDN_ON_DEVICE Tile tile_of(const MixtureCall& call, int64_t number) {
  const int64_t batch = number / call.tiles_in_image;
  const int64_t first = (number - batch * call.tiles_in_image) * call.positions, left = call.points - first;
  return {batch, first, call.positions, static_cast<int>(left < call.positions ? left : call.positions)};
}

// The weight (or count) of each tile's positions with something observed, into `sums`.
template <bool shared>
__global__ void __launch_bounds__(mixture_threads)
    observed_weight(const __grid_constant__ MixtureCall call, const __grid_constant__ MixtureLayout layout, int64_t tiles) {
  unsigned char* memory = shared ? nullptr : call.workspace + int64_t(blockIdx.x) * layout.end;
  Observation<shared> observation(call, layout, memory);
  const DynamicSharedArray<double> of_warps = dynamic_shared<double>(layout.total, mixture_threads / warp_lanes);
  for (int64_t number = blockIdx.x; number < tiles; number += gridDim.x) {
    const Tile tile = tile_of(call, number);
    observation.look(tile);
    double sum = 0;
    for (int i = threadIdx.x; i < tile.count; i += mixture_threads) {
      if (!observation.observed().any(i, 1)) continue;
      sum += call.weight.data != nullptr ? load_number(call.weight, offset_of(call.weight, tile, 0, i)) : 1;
    }
    sum = sum_of_block(sum, of_warps);
    if (threadIdx.x == 0) store_global(call.sums + number, sum);
    __syncthreads();
  }
}

// One block: the sum of `count` numbers, as a divisor that is not 0, or divided by one as the loss.
template <class T>
__global__ void __launch_bounds__(mixture_threads)
    finish_sums(const double* sums, int64_t count, double* new_divisor, const double* divisor, double known_divisor,
                T* loss) {
  const DynamicSharedArray<double> of_warps = dynamic_shared<double>(0, mixture_threads / warp_lanes);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += mixture_threads) sum += load_global(sums + i);
  sum = sum_of_block(sum, of_warps);
  if (threadIdx.x != 0) return;
  if (new_divisor != nullptr) {
    store_global(new_divisor, sum == 0 ? 1 : sum);
  } else {
    store_global(loss, static_cast<T>(sum / (divisor != nullptr ? load_global(divisor) : known_divisor)));
  }
}

// One block at work on one tile after the other. A member function is one pass over the tile; barriers stand between.
template <class Element, Family family, bool shared>
class MixtureBlock {
  using T = typename ArithmeticOf<Element>::Type;

 public:
  MDN_ON_DEVICE MixtureBlock(const MixtureCall& call, const MixtureLayout& layout, unsigned char* memory)
      : call_(call),
        rows_(call.components, call.dims, call.scales),
        observation_(call, layout, memory),
        cells_(memory, layout.rows, rows_.end * call.stride),
        packs_(memory, layout.rows, rows_.end * call.stride / pack_width<T>),
        kappa_(memory, layout.kappa, 2 * call.dims) {}

  // What depends on dimensions alone: log kappa with the density's constant, and 1 / kappa.
  MDN_ON_DEVICE void prepare() {
    const T* dim_scale = static_cast<const T*>(call_.dim_scale);
    for (int d = threadIdx.x; d < call_.dims; d += mixture_threads) {
      const T kappa = dim_scale != nullptr ? load_global(dim_scale + d) : T(1);
      kappa_.set(d, (dim_scale != nullptr ? log(kappa) : T(0)) + log_normaliser<family, T>);
      kappa_.set(call_.dims + d, 1 / kappa);
    }
  }

  // Loss and gradients of a tile. Returns this thread's part of the weighted sum of its losses.
  MDN_ON_DEVICE double run(const Tile& tile) {
    tile_ = tile;
    const bool any = observation_.look(tile);
    double sum = 0;
    if (any) {
      count_observed();
      __syncthreads();
      read_scales();
      read_logits_and_targets();
      __syncthreads();
      read_residuals();
      __syncthreads();
      sum_energies();
      __syncthreads();
      sum = combine();
      __syncthreads();
      if (call_.parameter_gradients || call_.target_gradient) {
        weigh_pulls();
        __syncthreads();
        write_gradients();
      }
    } else {
      write_zeros();
    }
    return sum;
  }

 private:
  template <int N>
  MDN_ON_DEVICE Values<T, N> get(int row, int position) const {
    Values<T, N> values;
    const int at = row * call_.stride + position;
    if (N > 1 && call_.stride == call_.positions) {
      constexpr int width = pack_width<T>;
#pragma unroll
      for (int k = 0; k < N / width; ++k) {
        const Pack<T, width> pack = packs_.get(at / width + k);
#pragma unroll
        for (int j = 0; j < width; ++j) values[k * width + j] = pack[j];
      }
    } else {
#pragma unroll
      for (int j = 0; j < N; ++j) values[j] = cells_.get(at + j);
    }
    return values;
  }

  template <int N>
  MDN_ON_DEVICE void set(int row, int position, const Values<T, N>& values) const {
    const int at = row * call_.stride + position;
    if (N > 1 && call_.stride == call_.positions) {
      constexpr int width = pack_width<T>;
#pragma unroll
      for (int k = 0; k < N / width; ++k) {
        Pack<T, width> pack;
#pragma unroll
        for (int j = 0; j < width; ++j) pack[j] = values[k * width + j];
        packs_.set(at / width + k, pack);
      }
    } else {
#pragma unroll
      for (int j = 0; j < N; ++j) cells_.set(at + j, values[j]);
    }
  }

  MDN_ON_DEVICE T get(int row, int position) const { return cells_.get(row * call_.stride + position); }
  MDN_ON_DEVICE void set(int row, int position, T value) const { cells_.set(row * call_.stride + position, value); }

  MDN_ON_DEVICE T log_constant(int dim) const { return kappa_.get(dim); }
  MDN_ON_DEVICE T inverse_kappa(int dim) const { return kappa_.get(call_.dims + dim); }
  MDN_ON_DEVICE bool is_observed(int position) const { return observation_.observed().any(position, 1); }

  // visit(row, position) for `rows` rows of the tile, shared among the threads.
  template <class Visit>
  MDN_ON_DEVICE void for_each(int rows, Visit visit) const {
    const int shift = __ffs(tile_.positions) - 1, total = rows << shift;
    for (int at = threadIdx.x; at < total; at += mixture_threads) visit(at >> shift, at & (tile_.positions - 1));
  }

  // A tensor of the parameters, which an index may gather.
  template <class Use>
  MDN_ON_DEVICE void read_parameter(const View& view, const Divisor& channels, Use use) {
    const auto observed = observation_.observed();
    const bool gathered = view.gathered;
    const auto point_of = [this, gathered](int position) {
      return gathered ? observation_.chosen(position) : tile_.first + position;
    };
    read_tile<Element>(view, tile_, channels, observed, point_of, use);
  }

  // Everything about the densities that does not depend on the component.
  MDN_ON_DEVICE void count_observed() {
    for_each(call_.scales, [this](int s, int position) {
      int count = 0;
      T constant = 0;
      for (int d = s; d < call_.dims; d += call_.scales) {
        if ((observation_.seen(d, position) & 1) == 0) continue;
        ++count;
        constant += log_constant(d);
      }
      set(rows_.count + s, position, T(count));
      set(rows_.constant + s, position, constant);
    });
  }

  MDN_ON_DEVICE void read_scales() {
    const T min_scale = static_cast<T>(call_.min_scale);
    const T unseen_scale = call_.activation == ScaleActivation::identity ? T(1) : T(0);
    read_parameter(call_.scale, call_.by_scale, [&](auto n, int ms, int position, const auto& raw) {
      constexpr int N = decltype(n)::value;
      const int s = ms - quotient(ms, call_.by_scales) * call_.scales;
      const Values<T, N> count = get<N>(rows_.count + s, position);
      Values<T, N> inverse, derivative, part;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        // A scale all of whose dimensions are unobserved leaves the density, whatever it holds.
        const Scale<T> scale =
            activate<T, T>(call_.activation, count[j] != 0 ? static_cast<T>(raw[j]) : unseen_scale, min_scale);
        inverse[j] = 1 / scale.sigma;
        derivative[j] = scale.derivative;
        part[j] = -count[j] * log(scale.sigma);
      }
      set<N>(rows_.part + ms, position, part);
      set<N>(rows_.inverse + ms, position, inverse);
      set<N>(rows_.term + ms, position, derivative);
    });
  }

  MDN_ON_DEVICE void read_logits_and_targets() {
    read_parameter(call_.logits, call_.by_logits, [&](auto n, int m, int position, const auto& logits) {
      keep<decltype(n)::value>(rows_.logits + m, position, logits);
    });
    const auto keep_target = [&](auto n, int d, int position, const auto& target) {
      keep<decltype(n)::value>(rows_.target + d, position, target);
    };
    const auto observed = observation_.observed();
    const OwnPoints own = {tile_.first};
    if (call_.target.dtype == DType::float32) {
      read_tile<float>(call_.target, tile_, call_.by_dims, observed, own, keep_target);
    } else {
      read_tile<Element>(call_.target, tile_, call_.by_dims, observed, own, keep_target);
    }
    for_each(1, [this](int, int position) {
      const bool weighted = call_.weight.data != nullptr && is_observed(position);
      set(rows_.weight, position,
          weighted ? static_cast<T>(load_number(call_.weight, offset_of(call_.weight, tile_, 0, position))) : T(1));
    });
  }

  template <int N, class Numbers>
  MDN_ON_DEVICE void keep(int row, int position, const Numbers& numbers) const {
    Values<T, N> values;
#pragma unroll
    for (int j = 0; j < N; ++j) values[j] = static_cast<T>(numbers[j]);
    set<N>(row, position, values);
  }

  MDN_ON_DEVICE void read_residuals() {
    read_parameter(call_.loc, call_.by_loc, [&](auto n, int row, int position, const auto& loc) {
      constexpr int N = decltype(n)::value;
      const int m = quotient(row, call_.by_dims), d = row - m * call_.dims;
      const int s = d - quotient(d, call_.by_scales) * call_.scales;
      const uint32_t seen = observation_.seen(d, position);
      const T kappa = inverse_kappa(d);
      const Values<T, N> target = get<N>(rows_.target + d, position);
      const Values<T, N> inverse = get<N>(rows_.inverse + m * call_.scales + s, position);
      Values<T, N> z;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        z[j] = (seen >> j & 1) != 0 ? (target[j] - static_cast<T>(loc[j])) * (inverse[j] * kappa) : T(0);
      }
      set<N>(rows_.z + row, position, z);
    });
  }

  MDN_ON_DEVICE void sum_energies() {
    for_each(call_.components * call_.scales, [this](int ms, int position) {
      const int m = quotient(ms, call_.by_scales), s = ms - m * call_.scales;
      T energy = 0;
      for (int d = s; d < call_.dims; d += call_.scales) {
        energy += energy_of<family>(get(rows_.z + m * call_.dims + d, position));
      }
      const T part = get(rows_.part + ms, position) - get(rows_.constant + s, position);
      set(rows_.part + ms, position, part - energy_factor<family, T> * energy);
      const T derivative = get(rows_.term + ms, position);
      set(rows_.term + ms, position, (get(rows_.count + s, position) - energy) * derivative);
    });
  }

  // The loss of each position, each component's posterior share, and the logits' gradients.
  MDN_ON_DEVICE double combine() {
    const int count = call_.components;
    const T share = static_cast<T>(1 / (call_.divisor != nullptr ? load_global(call_.divisor) : call_.known_divisor));
    const T nothing = -static_cast<T>(INFINITY);
    double sum = 0;
    for_each(1, [&](int, int position) {
      T loss = 0;
      if (is_observed(position)) {
        T top = get(rows_.logits, position);
        for (int m = 1; m < count; ++m) top = maximum(top, get(rows_.logits + m, position));
        T total = 0;
        for (int m = 0; m < count; ++m) total += exp(get(rows_.logits + m, position) - top);
        const T normaliser = log(total), inverse_total = 1 / total;
        T best = nothing;
        for (int m = 0; m < count; ++m) {
          // The sum is at least 1, so its logarithm is finite.
          T evidence = get(rows_.logits + m, position) - top - normaliser;
          for (int s = 0; s < call_.scales; ++s) evidence += get(rows_.part + m * call_.scales + s, position);
          set(rows_.evidence + m, position, evidence);
          best = maximum(evidence, best);
        }
        if (best == nothing) best = 0;  // no density at all: the loss is inf, not inf - inf
        T likelihood = 0;
        for (int m = 0; m < count; ++m) likelihood += exp(get(rows_.evidence + m, position) - best);
        const T weight = get(rows_.weight, position);
        loss = -(best + log(likelihood));
        if (call_.weight.data != nullptr) loss *= weight;
        const T factor = share * weight;
        for (int m = 0; m < count; ++m) {
          const T posterior = exp(get(rows_.evidence + m, position) - best) / likelihood;
          const T alpha = exp(get(rows_.logits + m, position) - top) * inverse_total;
          set(rows_.evidence + m, position, posterior * factor);
          set(rows_.logits + m, position, (alpha - posterior) * factor);
        }
      } else {
        for (int m = 0; m < count; ++m) {
          set(rows_.evidence + m, position, T(0));
          set(rows_.logits + m, position, T(0));
        }
      }
      write_nll(position, loss);
      sum += static_cast<double>(loss);
    });
    return sum;
  }

  MDN_ON_DEVICE void write_nll(int position, T loss) const {
    if (call_.nll == nullptr || position >= tile_.count) return;
    store_global(static_cast<T*>(call_.nll) + tile_.batch * call_.points + tile_.first + position, loss);
  }

  // share / sigma: what all dimensions of a scale multiply.
  MDN_ON_DEVICE void weigh_pulls() {
    for_each(call_.components * call_.scales, [this](int ms, int position) {
      const T share = get(rows_.evidence + quotient(ms, call_.by_scales), position);
      set(rows_.inverse + ms, position, is_observed(position) ? share * get(rows_.inverse + ms, position) : T(0));
    });
  }

  MDN_ON_DEVICE void write_gradients() {
    if (call_.parameter_gradients) {
      write_tile<T, true>(call_.grad_logits, tile_, call_.by_logits, [this](auto n, int m, int position) {
        return get<decltype(n)::value>(rows_.logits + m, position);
      });
      write_tile<T, true>(call_.grad_scale, tile_, call_.by_scale, [this](auto n, int ms, int position) {
        constexpr int N = decltype(n)::value;
        Values<T, N> gradient = get<N>(rows_.inverse + ms, position);
        const Values<T, N> term = get<N>(rows_.term + ms, position);
#pragma unroll
        for (int j = 0; j < N; ++j) gradient[j] *= term[j];
        return gradient;
      });
      write_tile<T, true>(call_.grad_loc, tile_, call_.by_loc, [this](auto n, int row, int position) {
        constexpr int N = decltype(n)::value;
        const int m = quotient(row, call_.by_dims), d = row - m * call_.dims;
        return pulled<N>(m, d, position, -inverse_kappa(d), Values<T, N>{});
      });
    }
    if (call_.target_gradient) {
      write_tile<T, true>(call_.grad_target, tile_, call_.by_dims, [this](auto n, int d, int position) {
        constexpr int N = decltype(n)::value;
        const T kappa = inverse_kappa(d);
        Values<T, N> gradient = {};
        for (int m = 0; m < call_.components; ++m) gradient = pulled<N>(m, d, position, kappa, gradient);
        return gradient;
      });
    }
  }

  // start + slope(z) pull kappa.
  template <int N>
  MDN_ON_DEVICE Values<T, N> pulled(int m, int d, int position, T kappa, Values<T, N> start) const {
    const int s = d - quotient(d, call_.by_scales) * call_.scales;
    const Values<T, N> z = get<N>(rows_.z + m * call_.dims + d, position);
    const Values<T, N> pull = get<N>(rows_.inverse + m * call_.scales + s, position);
#pragma unroll
    for (int j = 0; j < N; ++j) start[j] += slope<family>(z[j]) * (pull[j] * kappa);
    return start;
  }

  MDN_ON_DEVICE void write_zeros() const {
    const auto zeros = [](auto n, int, int) { return Values<T, decltype(n)::value>{}; };
    if (call_.parameter_gradients) {
      write_tile<T, true>(call_.grad_logits, tile_, call_.by_logits, zeros);
      write_tile<T, true>(call_.grad_scale, tile_, call_.by_scale, zeros);
      write_tile<T, true>(call_.grad_loc, tile_, call_.by_loc, zeros);
    }
    if (call_.target_gradient) write_tile<T, true>(call_.grad_target, tile_, call_.by_dims, zeros);
    for_each(1, [this](int, int position) { write_nll(position, T(0)); });
  }

  const MixtureCall& call_;
  const MixtureRows rows_;
  Observation<shared> observation_;
  const Cells<T, shared> cells_;
  const Cells<Pack<T, pack_width<T>>, shared> packs_;  // the same memory
  const Cells<T, shared> kappa_;
  Tile tile_;
};

// Blocks that a multiprocessor should be able to hold at a time: what is worth it without a spilled register.
template <class Element, bool shared>
constexpr int resident_blocks = sizeof(Element) == 8 || !shared ? 2 : 4;

template <class Element, Family family, bool shared>
__global__ void __launch_bounds__(mixture_threads, resident_blocks<Element, shared>)
    mixture_nll(const __grid_constant__ MixtureCall call, const __grid_constant__ MixtureLayout layout, int64_t tiles) {
  unsigned char* memory = shared ? nullptr : call.workspace + int64_t(blockIdx.x) * layout.end;
  MixtureBlock<Element, family, shared> block(call, layout, memory);
  const DynamicSharedArray<double> of_warps = dynamic_shared<double>(layout.total, mixture_threads / warp_lanes);
  block.prepare();
  for (int64_t number = blockIdx.x; number < tiles; number += gridDim.x) {
    const double sum = sum_of_block(block.run(tile_of(call, number)), of_warps);
    if (threadIdx.x == 0 && call.sums != nullptr) store_global(call.sums + number, sum);
    __syncthreads();
  }
}

}  // namespace device

// The launches of a call whose views, plan and workspaces are made: launch(kernel, blocks, threads, shared bytes,
// arguments...).
template <class Element, Family family, bool shared, class Launch>
void run_mixture_as(const MixtureCall& call, const MixturePlan& plan, Launch launch) {
  using T = typename device::ArithmeticOf<Element>::Type;
  constexpr int sum_bytes = mixture_threads / 32 * 8;
  T* loss = static_cast<T*>(call.loss);
  const double* sums = call.sums;
  double* nowhere = nullptr;
  const double* divisor = call.divisor;
  if (call.divisor != nullptr) {
    if (plan.tiles > 0) {
      launch(device::observed_weight<shared>, plan.blocks, mixture_threads, plan.layout.shared, call, plan.layout,
             plan.tiles);
    }
    launch(device::finish_sums<T>, 1, mixture_threads, sum_bytes, sums, plan.tiles, call.divisor, divisor, 1.0, loss);
  }
  if (plan.tiles > 0) {
    launch(device::mixture_nll<Element, family, shared>, plan.blocks, mixture_threads, plan.layout.shared, call,
           plan.layout, plan.tiles);
  }
  if (call.sums != nullptr) {
    launch(device::finish_sums<T>, 1, mixture_threads, sum_bytes, sums, plan.tiles, nowhere, divisor,
           call.known_divisor, loss);
  }
}

template <class Element, class Launch>
void run_mixture_of(const MixtureCall& call, const MixturePlan& plan, Launch launch) {
  if (call.family == Family::gaussian) {
    if (plan.shared_rows) return run_mixture_as<Element, Family::gaussian, true>(call, plan, launch);
    return run_mixture_as<Element, Family::gaussian, false>(call, plan, launch);
  }
  if (plan.shared_rows) return run_mixture_as<Element, Family::laplace, true>(call, plan, launch);
  return run_mixture_as<Element, Family::laplace, false>(call, plan, launch);
}

template <class Launch>
void run_mixture(const MixtureCall& call, const MixturePlan& plan, Launch launch) {
  switch (call.loc.dtype) {
    case DType::float64:
      return run_mixture_of<double>(call, plan, launch);
    case DType::bfloat16:
      return run_mixture_of<__nv_bfloat16>(call, plan, launch);
    case DType::float16:
      return run_mixture_of<__half>(call, plan, launch);
    default:
      return run_mixture_of<float>(call, plan, launch);
  }
}

}  // namespace mdn
