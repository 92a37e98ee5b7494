// Tiles of a heatmap, as topk_peaks goes through it: how it is cut, how a tile comes into shared memory, and which of
// its cells are peaks.
#pragma once

#include "core/cuda/tiles.cuh"

namespace mdn {
namespace device {

constexpr int scan_threads = 256;     // of a block, at most
constexpr int strip_rows = 8;         // A thread has a strip of 8 rows and 4 columns: 32 cells, bits of a word, row
constexpr int strip_columns = 4;      // by row.
constexpr int group_threads = 8;      // whose best peak is written
constexpr int tile_bytes = 40 << 10;  // in shared memory, so that several blocks share a multiprocessor
constexpr int most_tile_bytes = 96 << 10;  // where the rows of one strip need more
constexpr int pack_bytes = 16;

// How a heatmap (batch, labels, height, width), contiguous, is cut into tiles, a block each.
struct PeakPlan {
  int64_t batch, labels;
  int height, width;
  int reach;  // of a window beyond its cell
  int64_t k;
  int packs, strips;  // the strips of a tile side by side, and below one another
  int threads;        // of a block: whole warps with at least packs * strips
  bool aligned;       // where the strips' rows begin in the heatmap, for one instruction to read what it can
  bool staged;        // a tile lies in shared memory with the rows that its windows reach; else it is read in place
  int shared_bytes;
  int tiles_across, tiles_of_plane;
  Divisor by_plane, by_across, by_packs, by_threads;
  int64_t tiles, tiles_of_image;
  int64_t words_of_image, groups_of_image;  // a word a thread

  MDN_ON_BOTH int64_t cells_of_plane() const { return int64_t(height) * width; }
  MDN_ON_BOTH int64_t cells_of_image() const { return labels * cells_of_plane(); }
};

inline int64_t shares(int64_t whole, int64_t share) { return (whole + share - 1) / share; }

// `address` is the heatmap's.
inline PeakPlan peak_plan(const void* address, int64_t batch, int64_t labels, int64_t height, int64_t width, int64_t k,
                          int64_t kernel_size, int element_bytes) {
  PeakPlan plan = {};
  plan.batch = batch;
  plan.labels = labels;
  plan.height = static_cast<int>(height);
  plan.width = static_cast<int>(width);
  const int64_t longest = height > width ? height : width;
  plan.reach = static_cast<int>(kernel_size / 2 < longest ? kernel_size / 2 : longest);
  plan.k = k;
  plan.aligned = width % strip_columns == 0 && reinterpret_cast<uintptr_t>(address) % pack_bytes == 0;
  if (batch * labels * height * width == 0) return plan;

  const int64_t strips_across = shares(width, strip_columns), strips_down = shares(height, strip_rows);
  plan.tiles_across = static_cast<int>(shares(strips_across, scan_threads));
  const int64_t packs = shares(strips_across, plan.tiles_across);
  const auto bytes_of = [&](int64_t strips) {
    const int64_t rows = strips * strip_rows + 2 * plan.reach;
    return (rows < height ? rows : height) * width * element_bytes + pack_bytes;  // a tile begins anywhere in a pack
  };
  int64_t strips = scan_threads / packs;
  strips = strips < strips_down ? strips : strips_down;
  int64_t staged_strips = strips;
  while (staged_strips > 1 && bytes_of(staged_strips) > tile_bytes) --staged_strips;
  // Where the rows around a tile would be more than its own, only windows that matter are read, from the caches.
  plan.staged = plan.tiles_across == 1 && bytes_of(staged_strips) <= most_tile_bytes &&
                (staged_strips == strips_down || staged_strips * strip_rows >= 2 * plan.reach);
  if (plan.staged) strips = staged_strips;
  const int64_t tiles_down = shares(strips_down, strips);
  strips = shares(strips_down, tiles_down);
  plan.packs = static_cast<int>(packs);
  plan.strips = static_cast<int>(strips);
  plan.threads = static_cast<int>(shares(packs * strips, warp_lanes) * warp_lanes);
  plan.shared_bytes = plan.staged ? static_cast<int>(shares(bytes_of(strips), pack_bytes) * pack_bytes) : 0;
  plan.tiles_of_plane = static_cast<int>(plan.tiles_across * tiles_down);
  plan.by_plane = Divisor(plan.tiles_of_plane);
  plan.by_across = Divisor(plan.tiles_across);
  plan.by_packs = Divisor(plan.packs);
  plan.by_threads = Divisor(plan.threads);
  plan.tiles_of_image = labels * plan.tiles_of_plane;
  plan.tiles = batch * plan.tiles_of_image;
  plan.words_of_image = plan.tiles_of_image * plan.threads;
  plan.groups_of_image = plan.words_of_image / group_threads;
  return plan;
}

// The strip of one thread: its first cell, in a plane. It may reach beyond the plane, or lie beyond it.
struct Strip {
  int plane, y, x;
};

MDN_ON_DEVICE Strip strip_of(const PeakPlan& plan, int tile, int thread) {
  const int plane = quotient(tile, plan.by_plane), in_plane = tile - plane * plan.tiles_of_plane;
  const int down = quotient(in_plane, plan.by_across), across = in_plane - down * plan.tiles_across;
  const int row = quotient(thread, plan.by_packs), column = thread - row * plan.packs;
  return {plane, (down * plan.strips + row) * strip_rows, (across * plan.packs + column) * strip_columns};
}

// --- Scores ----------------------------------------------------------------------------------------------------------

// The larger of two values; NaN where one of them is.
MDN_ON_DEVICE double larger(double a, double b) { return b > a || b != b ? b : a; }
MDN_ON_DEVICE float larger(float a, float b) {
#if defined(__CUDACC__)
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return b > a || b != b ? b : a;
#endif
}

// Integers in the order of the values that are no NaN, above 0: -0 equals 0.
MDN_ON_DEVICE uint32_t key_of(float value) {
  const auto bits = static_cast<uint32_t>(__float_as_int(value));
  constexpr uint32_t sign = uint32_t(1) << 31;
  return bits > sign ? ~bits : bits | sign;
}
MDN_ON_DEVICE uint64_t key_of(double value) {
  const auto bits = static_cast<uint64_t>(__double_as_longlong(value));
  constexpr uint64_t sign = uint64_t(1) << 63;
  return bits > sign ? ~bits : bits | sign;
}

template <class T>
struct KeyOf;
template <>
struct KeyOf<float> {
  using Type = uint32_t;
};
template <>
struct KeyOf<double> {
  using Type = uint64_t;
};

// --- A tile in shared memory -----------------------------------------------------------------------------------------

// The `rows` rows from row `first` of a plane on. They lie in shared memory as they do in the heatmap, from `offset`
// on, so that packs are aligned there where they are in the heatmap.
template <class Element>
struct StagedRows {
  using T = typename ArithmeticOf<Element>::Type;

  int first, rows, width, offset, room;  // in elements
  DynamicSharedArray<Element> cells;

  MDN_ON_DEVICE T at(int cell) const {
    const Element element = cells[offset + cell];
    return to_number(element);
  }
  // All cells of the array from that one on.
  template <class P>
  MDN_ON_DEVICE DynamicSharedArray<P> from(int cell) const {
    constexpr int size = static_cast<int>(sizeof(Element));
    return dynamic_shared<P>((offset + cell) * size, (room - offset - cell) * size / static_cast<int>(sizeof(P)));
  }
};

template <class Element>
MDN_ON_DEVICE StagedRows<Element> load_rows(const PeakPlan& plan, const Element* plane, int first, int rows) {
  constexpr int width = pack_width<Element>, at_once = 8;
  using Elements = Pack<Element, width>;
  const Element* from = plane + int64_t(first) * plan.width;
  const int count = rows * plan.width, room = plan.shared_bytes / static_cast<int>(sizeof(Element));
  const int offset = static_cast<int>(reinterpret_cast<uintptr_t>(from) % pack_bytes / sizeof(Element));
  const auto cells = dynamic_shared<Element>(0, room);
  const auto packs = dynamic_shared<Elements>(0, room / width);
  const auto* first_pack = reinterpret_cast<const Elements*>(from - offset);
  const int thread = threadIdx.x, threads = blockDim.x;
  // Of the packs that the tile touches, those that it has to itself come whole, several of a thread under way at once.
  const int before = offset != 0, whole = static_cast<int>(static_cast<unsigned>(offset + count) / width);
  int i = before + thread;
  for (; i + (at_once - 1) * threads < whole; i += at_once * threads) {
    Elements elements[at_once];
#pragma unroll
    for (int j = 0; j < at_once; ++j) elements[j] = load_global(first_pack + i + j * threads);
#pragma unroll
    for (int j = 0; j < at_once; ++j) packs[i + j * threads] = elements[j];
  }
#pragma unroll 1
  for (; i < whole; i += threads) packs[i] = load_global(first_pack + i);
  if (offset + count != whole * width || before != 0) {
    const auto single = [&](int cell) {
      if (cell >= offset && cell < offset + count) cells[cell] = load_global(from - offset + cell);
    };
    if (before != 0 && thread < width) single(thread);
    if (whole >= before && thread < width) single(whole * width + thread);
  }
  return {first, rows, plan.width, offset, room, cells};
}

// --- Peaks of a strip ------------------------------------------------------------------------------------------------

// The peaks among a thread's 32 cells, as bits, and the largest of them.
template <class T>
struct StripPeaks {
  uint32_t bits;
  T best;
};

// The bits of a strip's cells that are in the plane.
MDN_ON_DEVICE uint32_t cells_inside(const PeakPlan& plan, const Strip& strip) {
  const int rows = min(plan.height - strip.y, strip_rows), columns = min(plan.width - strip.x, strip_columns);
  if (rows <= 0 || columns <= 0) return 0;
  return 0xffffffffu >> (32 - rows * strip_columns) & ((1u << columns) - 1) * 0x11111111u;
}

// Calls visit(i) for each bit i of a word.
template <class Visit>
MDN_ON_DEVICE void over_bits(uint32_t word, Visit visit) {
  for (; word != 0; word &= word - 1) visit(__ffs(static_cast<int>(word)) - 1);
}

// Windows of 3 x 3, as maxima of three rows of three. Rows and columns beyond the map are those at its edge again,
// which every window that reaches there has anyway. `aligned` is the plan's.
template <bool aligned, class Element>
MDN_ON_DEVICE auto peaks_of_neighbours(const StagedRows<Element>& tile, const Strip& strip, uint32_t inside) {
  using T = typename ArithmeticOf<Element>::Type;
  using Four = Values<T, strip_columns>;
  constexpr int read = aligned ? sizeof(Element) == 8 ? 2 : strip_columns : 1;  // cells that one instruction reads
  using Read = Pack<Element, read>;
  const int last_column = tile.width - 1, top = strip.y - tile.first;
  const auto left = tile.template from<Element>(max(strip.x - 1, 0));
  const auto right = tile.template from<Element>(min(strip.x + strip_columns, last_column));
  const auto own = tile.template from<Read>(strip.x);
  const auto start_of = [&](int row) {
    return (row < 0 ? max(top + row, 0) : min(top + row, tile.rows - 1)) * tile.width;
  };
  const auto cells_of = [&](int start) {
    Four four;
#pragma unroll
    for (int i = 0; i < strip_columns; i += read) {
      const int at = aligned ? start + i : start + min(i, last_column - strip.x);
      const Read cells = own[static_cast<int>(static_cast<unsigned>(at) / read)];
#pragma unroll
      for (int j = 0; j < read; ++j) four[i + j] = to_number(cells[j]);
    }
    return four;
  };
  // Each cell's largest of three in its row.
  const auto row_maxima = [&](int start, const Four& four) {
    const T middle = larger(four[1], four[2]);
    const Element before = left[start], behind = right[start];
    return Four{{larger(larger(to_number(before), four[0]), four[1]), larger(four[0], middle), larger(middle, four[3]),
                 larger(larger(four[2], four[3]), to_number(behind))}};
  };

  StripPeaks<T> peaks = {0, static_cast<T>(-INFINITY)};
  const auto test = [&](int row, const Four& four, const Four& around, const Four& beyond) {
#pragma unroll
    for (int i = 0; i < strip_columns; ++i) {
      if (four[i] >= larger(around[i], beyond[i])) {
        peaks.bits |= 1u << (row * strip_columns + i);
        peaks.best = max(peaks.best, four[i]);
      }
    }
  };
  int start = start_of(-1);
  Four above = row_maxima(start, cells_of(start));
  start = start_of(0);
  Four upper = cells_of(start), upper_maxima = row_maxima(start, upper);
#pragma unroll
  for (int row = 0; row < strip_rows; row += 2) {
    start = start_of(row + 1);
    const Four lower = cells_of(start), lower_maxima = row_maxima(start, lower);
    start = start_of(row + 2);
    const Four next = cells_of(start), next_maxima = row_maxima(start, next);
    Four both;
#pragma unroll
    for (int i = 0; i < strip_columns; ++i) both[i] = larger(upper_maxima[i], lower_maxima[i]);
    test(row, upper, both, above);
    test(row + 1, lower, both, next_maxima);
    above = lower_maxima;
    upper = next;
    upper_maxima = next_maxima;
  }
  if ((peaks.bits & ~inside) != 0) {  // what repeats the edge may be the best
    peaks = {peaks.bits & inside, static_cast<T>(-INFINITY)};
    over_bits(peaks.bits, [&](int i) {
      const int row = strip.y + i / strip_columns - tile.first, column = strip.x + i % strip_columns;
      peaks.best = max(peaks.best, tile.at(row * tile.width + column));
    });
  }
  return peaks;
}

// Windows of any size, of values that value_at(y, x) gives. Nearly all cells meet a larger one within a few steps.
template <class T, class ValueAt>
MDN_ON_DEVICE StripPeaks<T> peaks_of_windows(const PeakPlan& plan, const Strip& strip, uint32_t inside,
                                             ValueAt value_at) {
  const auto is_peak = [&](int y, int x, T value) {
    const int bottom = min(y + plan.reach, plan.height - 1), right = min(x + plan.reach, plan.width - 1);
    for (int v = max(y - plan.reach, 0); v <= bottom; ++v) {
      for (int u = max(x - plan.reach, 0); u <= right; ++u) {
        if (!(value_at(v, u) <= value)) return false;  // larger, or one of them NaN
      }
    }
    return true;
  };
  StripPeaks<T> peaks = {0, static_cast<T>(-INFINITY)};
  over_bits(inside, [&](int i) {
    const int y = strip.y + i / strip_columns, x = strip.x + i % strip_columns;
    const T value = value_at(y, x);
    if (!is_peak(y, x, value)) return;
    peaks.bits |= 1u << i;
    peaks.best = max(peaks.best, value);
  });
  return peaks;
}

}  // namespace device
}  // namespace mdn
