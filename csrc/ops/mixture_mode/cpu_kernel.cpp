// The mixture's prediction at one block of positions. Built once for each instruction set.
//
// Memory story. The choice reads the logits (and for "density" the scales) of a block and leaves one number a position;
// then only the chosen component's loc and scale are read, moved as raw bits, and the modes are written past the
// caches. In a planar
// map the cells of one vector, a cache line, mostly share their component: then the vector is copied, and where they do
// not, each component that some lane chose is read and blended in. Where channels lie side by side each position is one
// run over its component's channels. "mean" reads everything once.
#include "ops/mixture_mode/cpu.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {
namespace {

// The arithmetic type and the unsigned integer of the same size, for each element type.
template <class Storage>
struct ElementOf {
  using Arithmetic = float;
  using Bits = uint16_t;
};
template <>
struct ElementOf<float> {
  using Arithmetic = float;
  using Bits = uint32_t;
};
template <>
struct ElementOf<double> {
  using Arithmetic = double;
  using Bits = uint64_t;
};

// With at most so many components all are read.
constexpr int64_t read_whole = 5;

// A vector of elements some of whose lanes chose `component`.
struct Blend {
  int64_t vector, component;
};

template <class T>
T* take(char*& memory, int64_t count) {
  T* result = reinterpret_cast<T*>(memory);
  memory += (count * int64_t(sizeof(T)) + 63) / 64 * 64;
  return result;
}

template <class Storage>
struct Workspace {
  using T = typename ElementOf<Storage>::Arithmetic;
  using Bits = typename ElementOf<Storage>::Bits;
  using Number = decltype(Mask<T>{}[0] + 0);

  Workspace(const ModeCall& call, void* memory) {
    char* next = static_cast<char*>(memory);
    const int64_t m = call.components, block = call.block;
    const auto rows = [&](int64_t count) { return Rows<T>{take<T>(next, count * block), block}; };
    const bool mean = call.selection == Selection::mean;
    const bool all_scales = call.selection != Selection::weight && call.scales > 0;
    alpha = rows(m);
    score = rows(call.selection == Selection::density ? m : 0);
    logits_in = rows(m);
    loc_in = rows(mean ? m * call.dims : 0);
    scale_in = rows(all_scales ? m * call.scales : 0);
    loc_out = rows(mean ? call.dims : 0);
    scale_out = rows(call.scales);
    weight = rows(1);
    component = take<Number>(next, block);
    chosen_bits = take<Bits>(next, block);
    scale_bits = take<Bits>(next, (mean ? 0 : call.scales) * block);
    lowest = take<int64_t>(next, block);
    blends = take<Blend>(next, block);
    mixed = take<Bits>(next, block);
    bytes = next - static_cast<char*>(memory);
  }

  Rows<T> alpha;  // [M] softmax of the logits; for "mean", in the end, the shares of those that may be chosen
  Rows<T> score;  // [M] log alpha - sum log sigma, for "density"
  Rows<T> logits_in, loc_in, scale_in, loc_out, scale_out, weight;
  Number* component;  // the chosen component
  Bits* chosen_bits;  // the same in as many bits as an element has
  Bits* scale_bits;   // [S] the chosen raw scales
  int64_t* lowest;    // the least component chosen within each vector of elements
  Blend* blends;      // and all others chosen there; at most one a lane
  Bits* mixed;        // one channel of the modes
  int64_t bytes;
};

// One block of one call. A member function is one pass over the block.
template <class Storage>
class Block {
  using T = typename ElementOf<Storage>::Arithmetic;
  using Bits = typename ElementOf<Storage>::Bits;
  using V = Vector<T>;
  static constexpr int step = lanes<T>;
  static constexpr int wide = lanes<Bits>;

 public:
  Block(const ModeCall& call, int64_t block, void* memory) : call_(call), work_(call, memory) {
    first_ = block * call.block;
    const int64_t total = call.batch * call.points;
    count_ = static_cast<int>(total - first_ < call.block ? total - first_ : call.block);
    positions_.count = count_;
    positions_.first_batch = first_ / call.points;
    positions_.first_point = first_ % call.points;
    positions_.one_batch = positions_.first_point + count_ <= call.points;
    if (positions_.one_batch) {
      for (int i = 0; i < count_; ++i) {
        batch_[i] = positions_.first_batch;
        point_[i] = positions_.first_point + i;
      }
    } else {
      int64_t b = positions_.first_batch, p = positions_.first_point;
      for (int i = 0; i < count_; ++i) {
        batch_[i] = b;
        point_[i] = p;
        if (++p == call.points) p = 0, ++b;
      }
    }
    positions_.batch = batch_;
    positions_.point = point_;
    positions_.chosen = call.index ? call.index + first_ : nullptr;
    padded_ = (count_ + step - 1) / step * step;
  }

  void run() {
    bool any_real = call_.index == nullptr;
    for (int i = 0; i < count_ && !any_real; ++i) any_real = real(i);
    if (!any_real) {  // nothing may be read: the map itself may be empty
      for (int i = 0; i < count_; ++i) write_padding(i);
      return;
    }
    weigh();
    if (call_.selection == Selection::density) score_densities();
    choose(call_.selection == Selection::density ? Rows<const T>{work_.score.data, work_.score.stride} : logits_);
    if (call_.selection == Selection::mean) {
      average();
    } else {
      pick();
    }
    for (int i = 0; i < count_; ++i) {
      call_.component[first_ + i] = static_cast<int64_t>(work_.component[i]);
      convert(work_.weight[0][i], static_cast<Storage*>(call_.weight)[first_ + i]);
    }
    if (call_.index) {
      for (int i = 0; i < count_; ++i) {
        if (!real(i)) write_padding(i);
      }
    }
    finish_stores();
  }

 private:
  bool real(int i) const { return !call_.index || positions_.chosen[i] >= 0; }
  bool allowed(int64_t m) const { return !call_.allowed || call_.allowed[m]; }

  void write_padding(int i) {
    const auto clear = [&](const View& view, int64_t channels) {
      Storage* to = static_cast<Storage*>(view.data) + batch_[i] * view.batch_stride + point_[i] * view.point_stride;
      for (int64_t c = 0; c < channels; ++c) convert(T(0), to[c * view.channel_stride]);
    };
    clear(call_.mode_loc, call_.dims);
    if (call_.scales > 0) clear(call_.mode_scale, call_.scales);
    call_.component[first_ + i] = -1;
    convert(T(0), static_cast<Storage*>(call_.weight)[first_ + i]);
  }

  // alpha, and for "density" log alpha as the start of the score.
  void weigh() {
    const Rows<const T> logits = logits_ = rows_of<T>(call_.logits, positions_, call_.components, work_.logits_in);
    for (int i = 0; i < padded_; i += step) {
      V top = load(logits[0] + i);
      for (int64_t m = 1; m < call_.components; ++m) top = maximum(top, load(logits[m] + i));
      V sum = V{};
      for (int64_t m = 0; m < call_.components; ++m) {
        const V e = exp(V(load(logits[m] + i) - top));
        store(work_.alpha[m] + i, e);
        sum += e;
      }
      for (int64_t m = 0; m < call_.components; ++m) {
        store(work_.alpha[m] + i, V(load(work_.alpha[m] + i) / sum));
      }
      if (call_.selection == Selection::density) {
        const V normaliser = log(sum);
        for (int64_t m = 0; m < call_.components; ++m) {
          store(work_.score[m] + i, V(load(logits[m] + i) - top - normaliser));
        }
      }
    }
  }

  // At its own mean a component's density is alpha / prod_d sigma_d, up to factors that all components share.
  void score_densities() {
    const int64_t scales = call_.scales;
    const Rows<const T> raw = rows_of<T>(call_.scale, positions_, call_.components * scales, work_.scale_in);
    const T repeats = static_cast<T>(call_.dims / scales);
    for (int64_t m = 0; m < call_.components; ++m) {
      if (!allowed(m)) continue;
      for (int i = 0; i < padded_; i += step) {
        V sum = V{};
        for (int64_t s = 0; s < scales; ++s) {
          sum += log(activate<V, T>(call_.activation, load(raw[m * scales + s] + i), T(call_.min_scale)).sigma);
        }
        store(work_.score[m] + i, V(load(work_.score[m] + i) - repeats * sum));
      }
    }
  }

  // The first of the largest scores; NaN is larger than all else, as in torch.argmax. Logits are scores too: alpha has
  // their order, but where it underflows it no longer tells components apart.
  void choose(Rows<const T> score) {
    int64_t first = 0;
    while (!allowed(first)) ++first;
    for (int i = 0; i < padded_; i += step) {
      V best = load(score[first] + i);
      V weight = load(work_.alpha[first] + i);
      Mask<T> component = Mask<T>{} + static_cast<typename Workspace<Storage>::Number>(first);
      for (int64_t m = first + 1; m < call_.components; ++m) {
        if (!allowed(m)) continue;
        const V value = load(score[m] + i);
        const Mask<T> better = (value > best) | ((value != value) & (best == best));
        best = better ? value : best;
        weight = better ? load(work_.alpha[m] + i) : weight;
        component = better ? Mask<T>{} + static_cast<typename Workspace<Storage>::Number>(m) : component;
      }
      store(work_.weight[0] + i, weight);
      __builtin_memcpy(work_.component + i, &component, sizeof component);
    }
  }

  // Where a channel's elements go: into an output at the block's positions, or into a scratch row.
  struct Target {
    Bits* data;
    int64_t batch_stride, channel_stride, point_stride;
    bool scratch;
  };

  Bits* at(const Target& target, int i) const {
    if (target.scratch) return target.data + i;
    return target.data + batch_[i] * target.batch_stride + point_[i] * target.point_stride;
  }

  void pick() {
    for (int i = 0; i < count_; ++i) work_.chosen_bits[i] = static_cast<Bits>(work_.component[i]);
    if (call_.components > read_whole) list_blends();
    const View& out = call_.mode_loc;
    pick_channels(call_.loc, call_.dims,
                  {static_cast<Bits*>(out.data), out.batch_stride, out.channel_stride, out.point_stride, false});
    if (call_.scales == 0) return;
    pick_channels(call_.scale, call_.scales, {work_.scale_bits, 0, call_.block, 1, true});
    const Rows<T> sigma = output_rows<T>(call_.mode_scale, positions_, work_.scale_out);
    for (int64_t s = 0; s < call_.scales; ++s) {
      const Storage* raw = reinterpret_cast<const Storage*>(work_.scale_bits + s * call_.block);
      T* row = sigma[s];
      for (int i = 0; i < count_; ++i) convert(raw[i], row[i]);
      for (int i = count_; i < padded_; ++i) row[i] = 0;
      for (int i = 0; i < padded_; i += step) {
        store(row + i, activate<V, T>(call_.activation, load(row + i), T(call_.min_scale)).sigma);
      }
    }
    write_rows<T>(call_.mode_scale, positions_, call_.scales, sigma, work_.scale_out);
  }

  // Which components each whole vector holds: found once, so that the passes over its channels need not ask.
  void list_blends() {
    blend_count_ = 0;
    for (int v = 0; v < count_ / wide; ++v) {
      const auto* component = work_.component + v * wide;
      int64_t low = component[0], high = low;
      for (int i = 1; i < wide; ++i) {
        low = component[i] < low ? component[i] : low;
        high = component[i] > high ? component[i] : high;
      }
      work_.lowest[v] = low;
      for (int64_t m = low + 1; m <= high; ++m) {
        if (any<Bits>(lanes_that_chose(m, v))) work_.blends[blend_count_++] = {v, m};
      }
    }
  }

  MDN_INLINE Mask<Bits> lanes_that_chose(int64_t m, int64_t v) const {
    return load(work_.chosen_bits + v * wide) == static_cast<Bits>(m) + Vector<Bits>{};
  }

  // The chosen component's `channels` channels of `from`.
  void pick_channels(const View& from, int64_t channels, const Target& to) {
    // Numbers of components must fit into an element's bits to be blended by vectors.
    const bool few = call_.components - 1 <= static_cast<int64_t>(static_cast<Bits>(-1) >> 1);
    if (side_by_side(from, positions_) && to.point_stride == 1 && few) {
      const Bits* base = static_cast<const Bits*>(from.data) + origin(from, positions_);
      const int vectors = count_ / wide;
      const int64_t next_component = channels * from.channel_stride;
      for (int64_t c = 0; c < channels; ++c) {
        const Bits* row = base + c * from.channel_stride;
        Bits* out = at(to, 0) + c * to.channel_stride;
        if (call_.components <= read_whole) {
          blend_row(row, next_component, vectors, out);
        } else {
          pick_row(row, next_component, vectors, out, from.channel_stride);
        }
      }
      pick_positions(from, channels, to, vectors * wide);
    } else {
      pick_positions(from, channels, to, 0);
    }
  }

  // One channel: `row` is component 0's, `stride` leads to the next component's. Every component is read whole, as fast
  // as memory streams, which beats leaving lines out while the components are few.
  void blend_row(const Bits* row, int64_t stride, int vectors, Bits* to) {
    const bool past_cache = aligned(to);
    for (int v = 0; v < vectors; ++v) {
      const Vector<Bits> chosen = load(work_.chosen_bits + v * wide);
      Vector<Bits> value = load(row + v * wide);
      for (int64_t m = 1; m < call_.components; ++m) {
        value = chosen == static_cast<Bits>(m) + Vector<Bits>{} ? load(row + m * stride + v * wide) : value;
      }
      if (past_cache) {
        store_past_cache(to + v * wide, value);
      } else {
        store(to + v * wide, value);
      }
    }
  }

  // The same reading the chosen lines alone, those of the next channel, `ahead`, asked for meanwhile. No branch depends
  // on the choice: who chose what changes from line to line, and is not foreseeable. The row is put together in the
  // first-level cache and then written past it.
  void pick_row(const Bits* row, int64_t stride, int vectors, Bits* to, int64_t ahead) {
    Bits* mixed = aligned(to) ? work_.mixed : to;
    for (int v = 0; v < vectors; ++v) {
      const Bits* line = row + work_.lowest[v] * stride + v * wide;
      __builtin_prefetch(line + ahead);
      store(mixed + v * wide, load(line));
    }
    for (int b = 0; b < blend_count_; ++b) {
      const auto [v, m] = work_.blends[b];
      __builtin_prefetch(row + m * stride + v * wide + ahead);
      const Vector<Bits> other = load(row + m * stride + v * wide), value = load(mixed + v * wide);
      store(mixed + v * wide, lanes_that_chose(m, v) ? other : value);
    }
    if (mixed == to) return;
    for (int v = 0; v < vectors; ++v) store_past_cache(to + v * wide, load(mixed + v * wide));
  }

  // Positions from `begin` on, one by one.
  void pick_positions(const View& from, int64_t channels, const Target& to, int begin) {
    for (; begin < count_; begin += tile_points) {
      const int count = count_ - begin < tile_points ? count_ - begin : tile_points;
      const Bits* source[tile_points];
      Bits* target[tile_points];
      for (int i = 0; i < count; ++i) {
        const int at_position = begin + i;
        const int64_t chosen = call_.index ? positions_.chosen[at_position] : point_[at_position];
        source[i] = static_cast<const Bits*>(from.data) + batch_[at_position] * from.batch_stride +
                    (chosen < 0 ? 0 : chosen) * from.point_stride +
                    work_.component[at_position] * channels * from.channel_stride;
        target[i] = at(to, at_position);
      }
      if (from.channel_stride == 1 && to.channel_stride == 1) {
        for (int i = 0; i < count; ++i) {
          for (int64_t c = 0; c < channels; ++c) target[i][c] = source[i][c];
        }
      } else {
        for (int64_t c = 0; c < channels; ++c) {
          for (int i = 0; i < count; ++i) target[i][c * to.channel_stride] = source[i][c * from.channel_stride];
        }
      }
    }
  }

  // alpha of the allowed components alone, from their logits: all of their alphas may have underflowed.
  void share_out() {
    for (int i = 0; i < padded_; i += step) {
      V top = broadcast<T>(-T(__builtin_inf())), total = V{};
      for (int64_t m = 0; m < call_.components; ++m) {
        if (allowed(m)) top = maximum(top, load(logits_[m] + i));
      }
      for (int64_t m = 0; m < call_.components; ++m) {
        const V e = allowed(m) ? exp(V(load(logits_[m] + i) - top)) : V{};
        store(work_.alpha[m] + i, e);
        total += e;
      }
      for (int64_t m = 0; m < call_.components; ++m) {
        store(work_.alpha[m] + i, V(load(work_.alpha[m] + i) / total));
      }
    }
  }

  // sum_m share_m mu_m and sum_m share_m sigma_m.
  void average() {
    const int64_t dims = call_.dims, scales = call_.scales;
    if (call_.allowed) share_out();
    const Rows<const T> loc = rows_of<T>(call_.loc, positions_, call_.components * dims, work_.loc_in);
    const Rows<T> mode_loc = output_rows<T>(call_.mode_loc, positions_, work_.loc_out);
    average_rows(loc, dims, mode_loc, [](V value) { return value; });
    write_rows<T>(call_.mode_loc, positions_, dims, mode_loc, work_.loc_out);
    if (call_.scales == 0) return;
    const Rows<const T> raw = rows_of<T>(call_.scale, positions_, call_.components * scales, work_.scale_in);
    const Rows<T> sigma = output_rows<T>(call_.mode_scale, positions_, work_.scale_out);
    average_rows(raw, scales, sigma,
                 [&](V value) { return activate<V, T>(call_.activation, value, T(call_.min_scale)).sigma; });
    write_rows<T>(call_.mode_scale, positions_, scales, sigma, work_.scale_out);
  }

  template <class Function>
  MDN_INLINE void average_rows(Rows<const T> from, int64_t channels, Rows<T> to, Function function) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int i = 0; i < padded_; i += step) {
        V sum = V{};
        for (int64_t m = 0; m < call_.components; ++m) {
          if (!allowed(m)) continue;
          sum += load(work_.alpha[m] + i) * function(load(from[m * channels + c] + i));
        }
        store(to[c] + i, sum);
      }
    }
  }

  const ModeCall& call_;
  Workspace<Storage> work_;
  Rows<const T> logits_;
  Positions positions_;
  int64_t batch_[largest_mode_block], point_[largest_mode_block];
  int64_t first_;
  int count_, padded_, blend_count_ = 0;
};

template <class Visit>
auto as_storage(const ModeCall& call, Visit visit) {
  switch (call.loc.dtype) {
    case DType::float64:
      return visit(double{});
    case DType::bfloat16:
      return visit(BFloat16{});
    case DType::float16:
      return visit(Float16{});
    default:
      return visit(float{});
  }
}

int64_t scratch_bytes(const ModeCall& call) {
  return as_storage(call, [&](auto element) { return Workspace<decltype(element)>(call, nullptr).bytes; });
}

void run(const ModeCall& call, int64_t block, void* scratch) {
  as_storage(call, [&](auto element) { Block<decltype(element)>(call, block, scratch).run(); });
}

}  // namespace

const ModeKernel mode_kernel = {scratch_bytes, run};

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
