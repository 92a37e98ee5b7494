// The mixture's prediction at every position.
//
// Memory story. A block reads the logits of a tile of positions into shared memory (for "density" the scales too) and
// leaves one number a position, the choice; then only the chosen component's loc and scale are read. Neighbouring
// threads take neighbouring positions of a planar map one by one, not 16 bytes each: which component they want changes
// from cell to cell, and so each sector that holds a wanted value is read once. In a channels_last map they take the
// chosen component's run of channels. "mean" reads everything once, 16 bytes a thread in a planar map.
#include "core/cuda/dispatch.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/rows.cuh"
#include "mixture/scale.h"
#include "mixture/selection.h"
#include "ops/mixture_mode/call.h"

namespace mdn {

struct ModeCall {
  // Views of (B, channels, points). With an index, the inputs are read at its points.
  TileView logits, loc, scale;    // scale may be absent: no channels
  TileView mode_loc, mode_scale;  // of the inputs' dtype
  int64_t* component;             // (B, points), contiguous
  void* weight;                   // (B, points), contiguous, of the inputs' dtype
  const int64_t* index;           // (B, points), contiguous, or null; -1 is padding
  const uint32_t* allowed;        // a bit for each component, or null where all are allowed
  int64_t batch, points;
  int components, dims, scales;  // 1 scale where there is none
  Selection selection;
  ScaleActivation activation;
  double min_scale;
};

// How a call is launched.
struct ModePlan {
  Tiling tiling;
  Divisor by_logits, by_scale, by_dims, by_scales;
  // Where things begin, in bytes: rows in shared memory or in a block's part of the workspace, of `large` bytes, chosen
  // points and components always in shared memory.
  int rows, stride, large, chosen, component, shared;
  unsigned char* workspace;
};

// Bytes of what ChosenPoints keeps.
inline int64_t chosen_bytes(int positions) { return up_to(16, positions * 8 + words_of(positions) * 4); }

// Fills in all of a plan but its workspace.
inline ModePlan plan_mode(const ModeCall& call) {
  const int64_t element = call.loc.dtype == DType::float64 ? 8 : 4;
  ModePlan plan = {};
  plan.rows = call.components + (call.selection == Selection::density ? call.components * call.scales : 0);
  const auto large_of = [&](int positions) {
    return up_to(16, int64_t(plan.rows) * stride_of(call.logits, positions) * element);
  };
  plan.tiling = tiling_of(call.batch, call.points, sector_positions(call.loc.dtype),
                          [&](int positions) { return large_of(positions) + chosen_bytes(positions) + positions * 4; });
  const int positions = plan.tiling.positions;
  plan.stride = stride_of(call.logits, positions);
  plan.large = static_cast<int>(large_of(positions));
  plan.chosen = plan.tiling.shared ? plan.large : 0;
  plan.component = plan.chosen + static_cast<int>(chosen_bytes(positions));
  plan.shared = plan.component + positions * 4;
  plan.by_logits = Divisor(call.components);
  plan.by_scale = Divisor(call.components * call.scales);
  plan.by_dims = Divisor(call.dims);
  plan.by_scales = Divisor(call.scales);
  return plan;
}

inline int64_t workspace_bytes(const ModePlan& plan) {
  return plan.tiling.shared ? 0 : int64_t(plan.tiling.blocks) * plan.large;
}

// Bits of the allowed components travel to the device as arguments of launches, so many words each: no copy from the
// host, which a CUDA graph would make of memory that is gone when it is replayed.
template <int count>
struct AllowedWords {
  uint32_t words[count];
};
constexpr int words_in_launch = 64;

namespace device {

template <int most>
__global__ void allow_components(const __grid_constant__ AllowedWords<most> from, uint32_t* to, int count) {
  const int word = threadIdx.x;
  if (word < count) store_global(to + word, from.words[word]);
}

// The points of a tile that the index names.
class ChosenPoints {
 public:
  // `first` is where they begin in shared memory.
  MDN_ON_DEVICE ChosenPoints(const ModeCall& call, int positions, int first)
      : call_(call),
        points_(dynamic_shared<int64_t>(first, positions)),
        real_(dynamic_shared<uint32_t>(first + positions * 8, words_of(positions))) {}

  // Reads the index of a tile. Returns whether anything in it is no padding.
  MDN_ON_DEVICE bool look(const Tile& tile) const {
    const int threads = static_cast<int>(blockDim.x);
    bool any = false;
    for (int i = threadIdx.x; i < words_of(tile.positions) * 32; i += threads) {  // whole warps
      int64_t point = i < tile.count ? 0 : -1;
      if (call_.index != nullptr && i < tile.count) {
        point = load_global(call_.index + tile.batch * call_.points + tile.first + i);
        points_[i] = point;
      }
      const uint32_t bits = __ballot_sync(all_lanes, point >= 0);
      if (i % warp_lanes == 0) real_[i / warp_lanes] = bits;
      any |= bits != 0;
    }
    return __syncthreads_or(any) != 0;
  }

  MDN_ON_DEVICE PositionSet<DynamicSharedArray<uint32_t>> real() const { return {real_}; }

  // Where the index points for a position that is real.
  MDN_ON_DEVICE int64_t point(int position) const { return points_[position]; }

 private:
  const ModeCall& call_;
  const DynamicSharedArray<int64_t> points_;
  const DynamicSharedArray<uint32_t> real_;
};

// One block at work on its tile. A member function is one pass over the tile; barriers stand between.
template <class Element, bool shared>
class ModeBlock {
  using T = typename ArithmeticOf<Element>::Type;

 public:
  MDN_ON_DEVICE ModeBlock(const ModeCall& call, const ModePlan& plan, unsigned char* memory)
      : call_(call),
        plan_(plan),
        chosen_(call, plan.tiling.positions, plan.chosen),
        rows_(memory, 0, plan.rows, plan.stride),
        component_(dynamic_shared<int>(plan.component, plan.tiling.positions)) {}

  MDN_ON_DEVICE void run(int number) {
    tile_ = tile_of(plan_.tiling, call_.points, number);
    if (chosen_.look(tile_)) {
      read_rows();
      __syncthreads();
    }
    choose();
    __syncthreads();
    if (call_.selection == Selection::mean) {
      average();
    } else {
      pick();
    }
  }

 private:
  MDN_ON_DEVICE bool is_real(int position) const { return chosen_.real().has(position); }

  MDN_ON_DEVICE bool allowed(int m) const {
    return call_.allowed == nullptr || (load_global(call_.allowed + (m >> 5)) >> (m & 31) & 1) != 0;
  }

  MDN_ON_DEVICE int64_t point_of(const View& view, int position) const {
    return view.gathered ? chosen_.point(position) : tile_.first + position;
  }

  MDN_ON_DEVICE T sigma_of(T raw) const {
    return activate<T, T>(call_.activation, raw, static_cast<T>(call_.min_scale)).sigma;
  }

  // The logits, and behind them for "density" every sigma.
  MDN_ON_DEVICE void read_rows() {
    const auto real = chosen_.real();
    const auto logits_point = [this](int position) { return point_of(call_.logits, position); };
    read_tile<Element>(call_.logits, tile_, plan_.by_logits, real, logits_point,
                       [&](auto n, int m, int position, const auto& logits) {
                         constexpr int N = decltype(n)::value;
                         Values<T, N> values;
#pragma unroll
                         for (int j = 0; j < N; ++j) values[j] = logits[j];
                         rows_.template set<N>(m, position, values);
                       });
    if (call_.selection != Selection::density) return;
    const auto scale_point = [this](int position) { return point_of(call_.scale, position); };
    read_tile<Element>(call_.scale, tile_, plan_.by_scale, real, scale_point,
                       [&](auto n, int ms, int position, const auto& raw) {
                         constexpr int N = decltype(n)::value;
                         Values<T, N> sigma;
#pragma unroll
                         for (int j = 0; j < N; ++j) sigma[j] = sigma_of(raw[j]);
                         rows_.template set<N>(call_.components + ms, position, sigma);
                       });
  }

  // At its own mean a component's density is alpha / prod_d sigma_d, up to factors that all components share.
  MDN_ON_DEVICE T log_sigmas(int m, int position) const {
    T sum = 0;
    for (int s = 0; s < call_.scales; ++s) sum += log(rows_.get(call_.components + m * call_.scales + s, position));
    return static_cast<T>(call_.dims / call_.scales) * sum;
  }

  // The first of the largest scores; NaN is larger than all else, as in torch.argmax. Logits are scores too: alpha has
  // their order, but where it underflows it no longer tells components apart. For "mean" the logits' rows then hold
  // each component's share: alpha of the allowed ones alone, from their logits for the same reason.
  MDN_ON_DEVICE void choose() {
    const int count = call_.components;
    for_each_position(tile_, 1, [&](int, int position) {
      if (!is_real(position)) {
        component_[position] = -1;
        write_choice(position, -1, T(0));
        if (call_.selection == Selection::mean) {
          for (int m = 0; m < count; ++m) rows_.set(m, position, T(0));
        }
        return;
      }
      T top = rows_.get(0, position);
      for (int m = 1; m < count; ++m) top = maximum(top, rows_.get(m, position));
      T sum = 0;
      for (int m = 0; m < count; ++m) sum += exp(rows_.get(m, position) - top);
      const T normaliser = call_.selection == Selection::density ? log(sum) : T(0);
      T best = 0;
      int component = -1;
      for (int m = 0; m < count; ++m) {
        if (!allowed(m)) continue;
        T score = rows_.get(m, position);
        if (call_.selection == Selection::density) score = score - top - normaliser - log_sigmas(m, position);
        if (component < 0 || score > best || (score != score && best == best)) {
          best = score;
          component = m;
        }
      }
      component_[position] = component;
      write_choice(position, component, exp(rows_.get(component, position) - top) / sum);
      if (call_.selection != Selection::mean) return;
      T total = 0;
      for (int m = 0; m < count; ++m) {
        const T share = allowed(m) ? exp(rows_.get(m, position) - best) : T(0);
        rows_.set(m, position, share);
        total += share;
      }
      for (int m = 0; m < count; ++m) rows_.set(m, position, rows_.get(m, position) / total);
    });
  }

  MDN_ON_DEVICE void write_choice(int position, int component, T weight) const {
    if (position >= tile_.count) return;
    const int64_t at = tile_.batch * call_.points + tile_.first + position;
    store_global(call_.component + at, static_cast<int64_t>(component));
    Element element;
    to_element(weight, element);
    store_global(static_cast<Element*>(call_.weight) + at, element);
  }

  MDN_ON_DEVICE T read_one(const View& view, int channel, int position) const {
    const Element* data = static_cast<const Element*>(view.data);
    return to_number(load_global(data + tile_.batch * view.batch_stride + point_of(view, position) * view.point_stride +
                                 channel * view.channel_stride));
  }

  MDN_ON_DEVICE void pick() const {
    write_tile<Element, Packs::none>(call_.mode_loc, tile_, plan_.by_dims, [this](auto, int d, int position) {
      const int m = component_[position];
      return Values<T, 1>{{m < 0 ? T(0) : read_one(call_.loc, m * call_.dims + d, position)}};
    });
    if (call_.scale.channels == 0) return;
    write_tile<Element, Packs::none>(call_.mode_scale, tile_, plan_.by_scales, [this](auto, int s, int position) {
      const int m = component_[position];
      if (m < 0) return Values<T, 1>{};
      const int ms = m * call_.scales + s;
      if (call_.selection == Selection::density) return Values<T, 1>{{rows_.get(call_.components + ms, position)}};
      return Values<T, 1>{{sigma_of(read_one(call_.scale, ms, position))}};
    });
  }

  // One channel of N positions, zeros where they are not real.
  template <int N>
  MDN_ON_DEVICE Values<T, N> read_some(const TileView& view, int channel, int position) const {
    Values<T, N> values;
    if (N > 1 && view.walk == Walk::points_packed && position + N <= tile_.count) {
      const Element* data = static_cast<const Element*>(view.data);
      const Pack<Element, N> pack =
          load_global(reinterpret_cast<const Pack<Element, N>*>(data + offset_of(view, tile_, channel, position)));
#pragma unroll
      for (int j = 0; j < N; ++j) values[j] = to_number(pack[j]);
    } else {
#pragma unroll
      for (int j = 0; j < N; ++j) values[j] = is_real(position + j) ? read_one(view, channel, position + j) : T(0);
    }
    return values;
  }

  // sum_m share_m mu_m and sum_m share_m sigma_m.
  MDN_ON_DEVICE void average() const {
    average_channels(call_.loc, call_.mode_loc, plan_.by_dims, [](T value) { return value; });
    if (call_.scale.channels == 0) return;
    average_channels(call_.scale, call_.mode_scale, plan_.by_scales, [this](T raw) { return sigma_of(raw); });
  }

  template <class Function>
  MDN_ON_DEVICE void average_channels(const TileView& from, const TileView& to, const Divisor& channels,
                                      Function function) const {
    const int lines = static_cast<int>(channels.divisor);
    write_tile<Element, Packs::points>(to, tile_, channels, [&](auto n, int channel, int position) {
      constexpr int N = decltype(n)::value;
      Values<T, N> sum = {};
      for (int m = 0; m < call_.components; ++m) {
        if (!allowed(m)) continue;
        const Values<T, N> values = read_some<N>(from, m * lines + channel, position);
        const Values<T, N> share = rows_.template get<N>(m, position);
#pragma unroll
        for (int j = 0; j < N; ++j) sum[j] += share[j] * function(values[j]);
      }
      return sum;
    });
  }

  const ModeCall& call_;
  const ModePlan& plan_;
  const ChosenPoints chosen_;
  const TileRows<T, shared> rows_;
  const DynamicSharedArray<int> component_;
  Tile tile_;
};

template <class Element, bool shared>
__global__ void __launch_bounds__(tile_threads, sizeof(Element) == 8 || !shared ? 2 : 4)
    mixture_mode(const __grid_constant__ ModeCall call, const __grid_constant__ ModePlan plan) {
  unsigned char* memory = shared ? nullptr : plan.workspace + int64_t(blockIdx.x) * plan.large;
  ModeBlock<Element, shared> block(call, plan, memory);
  block.run(own_tile(plan.tiling));
}

}  // namespace device

// The launches of a planned call with its workspace: launch(kernel, blocks, threads, bytes of shared memory,
// arguments...).
template <class Launch>
void run_mixture_mode(ModeCall call, ModePlan plan, void* workspace, Launch launch) {
  plan.workspace = static_cast<unsigned char*>(workspace);
  respect_gaps(call.logits, call.logits, call.scale, call.mode_loc, call.mode_scale);
  with_element_type(call.loc.dtype, [&](auto type) {
    using Element = typename decltype(type)::Type;
    for_each_launch(plan.tiling, [&](int blocks) {
      launch(plan.tiling.shared ? device::mixture_mode<Element, true> : device::mixture_mode<Element, false>, blocks,
             tile_threads, plan.shared, call, plan);
    });
  });
}

inline int allowed_words(int components) { return (components + 31) / 32; }

// Writes the bits of `allowed` (component numbers) to `to`, allowed_words(components) words.
template <class Numbers, class Launch>
void run_allow_components(const Numbers& allowed, int components, uint32_t* to, Launch launch) {
  for (int first = 0; first < allowed_words(components); first += words_in_launch) {
    AllowedWords<words_in_launch> words = {};
    for (const int64_t m : allowed) {
      const int64_t word = m / 32 - first;
      if (word >= 0 && word < words_in_launch) words.words[word] |= uint32_t(1) << (m % 32);
    }
    const int left = allowed_words(components) - first;
    const int count = left < words_in_launch ? left : words_in_launch;
    launch(device::allow_components<words_in_launch>, 1, words_in_launch, 0, words, to + first, count);
  }
}

namespace {

struct ModeOnGpu : DeviceCall {
  using DeviceCall::DeviceCall;
  using Call = ModeCall;
  using Allowed = Tensor;
  Allowed allow(Call& call, const std::vector<int64_t>& components, const Tensor& like) const;
  void run(Call& call, const Tensor& like) const;
};

Tensor ModeOnGpu::allow(Call& call, const std::vector<int64_t>& components, const Tensor& like) const {
  const Tensor allowed = fresh(like, {allowed_words(call.components)}, ScalarType::Int);
  uint32_t* words = data_of<uint32_t>(allowed);
  run_allow_components(components, call.components, words, Launcher{*this, "mixture_mode"});
  call.allowed = words;
  return allowed;
}

void ModeOnGpu::run(Call& call, const Tensor& like) const {
  if (call.scales == 0) call.scales = 1;  // nothing is divided by 0
  const ModePlan plan = plan_mode(call);
  STD_TORCH_CHECK(plan.tiling.count <= most_tiles, "mixture_mode: ", call.batch, " x ", call.points,
                  " positions are too many for a GPU");
  const Tensor workspace = fresh(like, {workspace_bytes(plan)}, ScalarType::Byte);
  run_mixture_mode(call, plan, address_of(workspace), Launcher{*this, "mixture_mode"});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) { m.impl("mixture_mode", TORCH_BOX(&mixture_mode<ModeOnGpu>)); }

}  // namespace mdn
