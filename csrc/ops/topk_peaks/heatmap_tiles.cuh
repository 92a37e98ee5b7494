// Tiles of a heatmap, as topk_peaks goes through it: how it is cut, how a tile comes into shared memory as keys, and
// which of its cells are peaks.
#pragma once

#include "core/cuda/device.cuh"
#include "core/cuda/ranges.cuh"

namespace mdn {
namespace device {

constexpr int scan_threads = 512;
constexpr int tile_bytes = 40 << 10;      // of keys, in shared memory
constexpr int most_cells_of_thread = 32;  // bits of a mask
constexpr int pack_bytes = 16;

// How a heatmap (batch, labels, height, width), contiguous, is cut into tiles.
struct PeakPlan {
  int64_t batch, labels;
  int height, width;
  int reach;  // of a window beyond its cell
  int64_t k;
  bool by_columns;   // windows of 3 x 3: threads walk down strips of a column
  int tile_cells;    // of a full tile, whole rows unless `rows_around` is false
  bool rows_around;  // a tile is loaded with the rows that its windows reach; else these are read through the caches
  int64_t tiles_of_plane, tiles;
  int64_t kept;        // peaks that an image may give
  int64_t candidates;  // the most that an image may have
  int key_bytes;

  MDN_ON_BOTH int64_t cells_of_plane() const { return int64_t(height) * width; }
  MDN_ON_BOTH int64_t cells_of_image() const { return labels * cells_of_plane(); }
};

inline PeakPlan peak_plan(int64_t batch, int64_t labels, int64_t height, int64_t width, int64_t k, int64_t kernel_size,
                          int key_bytes) {
  PeakPlan plan = {};
  plan.batch = batch;
  plan.labels = labels;
  plan.height = static_cast<int>(height);
  plan.width = static_cast<int>(width);
  const int64_t longest = height > width ? height : width;
  plan.reach = static_cast<int>(kernel_size / 2 < longest ? kernel_size / 2 : longest);
  plan.k = k;
  plan.kept = k < plan.cells_of_image() ? k : plan.cells_of_image();
  plan.key_bytes = key_bytes;
  if (batch * labels * height * width == 0) return plan;

  const int64_t room = (tile_bytes - pack_bytes) / key_bytes;  // a tile begins anywhere in a pack
  plan.by_columns = plan.reach == 1 && width <= scan_threads;
  const int64_t strips = plan.by_columns ? scan_threads / width : scan_threads;
  const int64_t most_rows = most_cells_of_thread * strips / (plan.by_columns ? 1 : width);
  const int64_t rows_in_room = room / width;
  int64_t rows = rows_in_room >= height ? height : rows_in_room - 2 * plan.reach;
  rows = rows < most_rows ? rows : most_rows;
  // Where the rows around a tile would be more than its own, only windows that matter are read, from the caches.
  plan.rows_around = rows >= height || rows >= 2 * (plan.reach > 0 ? plan.reach : 1);
  if (plan.rows_around) {
    plan.tiles_of_plane = (height + rows - 1) / rows;
    rows = (height + plan.tiles_of_plane - 1) / plan.tiles_of_plane;
    plan.tile_cells = static_cast<int>(rows * width);
  } else {
    plan.by_columns = false;
    const int64_t most_cells = most_cells_of_thread * scan_threads;
    plan.tile_cells = static_cast<int>(room < most_cells ? room : most_cells);
  }
  plan.tiles_of_plane = (height * width + plan.tile_cells - 1) / plan.tile_cells;
  plan.tiles = batch * labels * plan.tiles_of_plane;
  plan.candidates = labels * plan.tiles_of_plane * (k < plan.tile_cells ? k : plan.tile_cells);
  return plan;
}

// --- Keys ------------------------------------------------------------------------------------------------------------

template <class Key>
constexpr Key not_a_number = static_cast<Key>(~Key(0));

// Of a heatmap's elements: the type of their keys, as wide as they are, and the bits of an infinity.
template <class Element>
struct KeyOf;
template <>
struct KeyOf<float> {
  using Type = uint32_t;
  static constexpr Type infinity = 0x7f800000;
};
template <>
struct KeyOf<double> {
  using Type = uint64_t;
  static constexpr Type infinity = 0x7ff0000000000000;
};
template <>
struct KeyOf<__nv_bfloat16> {
  using Type = uint16_t;
  static constexpr Type infinity = 0x7f80;
};
template <>
struct KeyOf<__half> {
  using Type = uint16_t;
  static constexpr Type infinity = 0x7c00;
};

// The bits of a float of any format, whose infinity is given, as an integer in the order of the values: -0 equals 0, a
// NaN is above all, nothing is 0.
template <class Key>
MDN_ON_DEVICE Key key_of(Key bits, Key infinity) {
  constexpr Key sign = static_cast<Key>(Key(1) << (8 * sizeof(Key) - 1));
  if (static_cast<Key>(bits & ~sign) > infinity) return not_a_number<Key>;
  return static_cast<Key>(bits > sign ? ~bits : bits | sign);
}

// --- Peaks of a tile -------------------------------------------------------------------------------------------------

struct HeatmapTile {
  int64_t image, plane;  // the plane among all
  int64_t first;         // own cells, in the plane
  int count;
  int64_t loaded;  // from this cell on
  int loaded_count;
};

MDN_ON_DEVICE HeatmapTile heatmap_tile(const PeakPlan& plan, int64_t number) {
  HeatmapTile tile;
  tile.plane = number / plan.tiles_of_plane;
  tile.image = tile.plane / plan.labels;
  tile.first = number % plan.tiles_of_plane * plan.tile_cells;
  const int64_t cells = plan.cells_of_plane();
  tile.count = static_cast<int>(min(int64_t(plan.tile_cells), cells - tile.first));
  const int64_t around = plan.rows_around ? int64_t(plan.reach) * plan.width : 0;
  tile.loaded = max(tile.first - around, int64_t(0));
  tile.loaded_count = static_cast<int>(min(tile.first + tile.count + around, cells) - tile.loaded);
  return tile;
}

// The cells of a tile that belong to one thread: `first`, `first + step`, ..., bit by bit of a mask.
struct OwnCells {
  int first, step;
};

template <class Key>
using TileKeys = SharedArray<Key, tile_bytes / static_cast<int>(sizeof(Key))>;

// A tile's keys: those loaded lie in shared memory from `offset` on.
template <class Key>
struct TileView {
  TileKeys<Key>& keys;
  int offset;
  const Key* plane;
  Key infinity;

  // Of a cell, relative to the first one loaded.
  MDN_ON_DEVICE Key loaded(int cell) const { return keys[offset + cell]; }
};

template <class Key>
MDN_ON_DEVICE TileView<Key> load_tile(const Key* heatmap, const PeakPlan& plan, const HeatmapTile& tile, Key infinity,
                                      TileKeys<Key>& keys) {
  constexpr int width = pack_width<Key>;
  const Key* plane = heatmap + tile.plane * plan.cells_of_plane();
  const Key* from = plane + tile.loaded;
  const int offset = static_cast<int>(reinterpret_cast<uintptr_t>(from) % pack_bytes / sizeof(Key));
  over_packs<width>(
      from, tile.loaded_count,
      [&](int i) {
        const Pack<Key, width> pack = load_global(reinterpret_cast<const Pack<Key, width>*>(from + i));
        for (int j = 0; j < width; ++j) keys[offset + i + j] = key_of(pack[j], infinity);
      },
      [&](int i) { keys[offset + i] = key_of(load_global(from + i), infinity); });
  return {keys, offset, plane, infinity};
}

// Windows of 3 x 3. Each thread walks down a strip of one column and keeps the maxima of three rows of three: a cell
// costs three reads of shared memory.
template <class Key>
MDN_ON_DEVICE unsigned peaks_in_column(const TileView<Key>& view, const PeakPlan& plan, const HeatmapTile& tile,
                                       OwnCells& own) {
  const int width = plan.width, strips = scan_threads / width, rows = tile.count / width;
  const int strip_rows = (rows + strips - 1) / strips;
  const int strip = threadIdx.x / width, x = threadIdx.x % width;
  const int first = strip * strip_rows, last = strip < strips ? min(first + strip_rows, rows) : 0;
  own = {first * width + x, width};
  if (first >= last) return 0;
  const int own_row = static_cast<int>((tile.first - tile.loaded) / width);
  const int loaded_rows = tile.loaded_count / width;
  Key centre = 0;
  const auto maximum_of_row = [&](int row) -> Key {
    if (row < 0 || row >= loaded_rows) return 0;  // outside the map
    const int cell = row * width + x;
    centre = view.loaded(cell);
    const Key left = x > 0 ? view.loaded(cell - 1) : Key(0);
    const Key right = x + 1 < width ? view.loaded(cell + 1) : Key(0);
    const Key sides = left > right ? left : right;
    return sides > centre ? sides : centre;
  };
  Key above = maximum_of_row(own_row + first - 1), here = maximum_of_row(own_row + first);
  unsigned peaks = 0;
  for (int row = first; row < last; ++row) {
    const Key key = centre;
    const Key below = maximum_of_row(own_row + row + 1);
    const Key around = above > below ? above : below;
    const bool peak = key >= here && key >= around && key != not_a_number<Key>;
    peaks |= static_cast<unsigned>(peak) << (row - first);
    above = here;
    here = below;
  }
  return peaks;
}

template <class Key>
MDN_ON_DEVICE bool is_peak(const TileView<Key>& view, const PeakPlan& plan, const HeatmapTile& tile, int y, int x,
                           Key key) {
  if (key == not_a_number<Key>) return false;
  const int bottom = min(y + plan.reach, plan.height - 1), right = min(x + plan.reach, plan.width - 1);
  for (int v = max(y - plan.reach, 0); v <= bottom; ++v) {
    for (int u = max(x - plan.reach, 0); u <= right; ++u) {
      const int64_t cell = int64_t(v) * plan.width + u, at = cell - tile.loaded;
      const bool here = at >= 0 && at < tile.loaded_count;
      const Key other =
          here ? view.loaded(static_cast<int>(at)) : key_of(load_global(view.plane + cell), view.infinity);
      if (other > key) return false;
    }
  }
  return true;
}

// Windows of any size. Nearly all cells meet a larger one within a few steps.
template <class Key>
MDN_ON_DEVICE unsigned peaks_by_window(const TileView<Key>& view, const PeakPlan& plan, const HeatmapTile& tile,
                                       OwnCells& own) {
  own = {static_cast<int>(threadIdx.x), scan_threads};
  const int before = static_cast<int>(tile.first - tile.loaded);
  const int64_t in_plane = tile.first + own.first;
  int y = static_cast<int>(in_plane / plan.width), x = static_cast<int>(in_plane - int64_t(y) * plan.width);
  const int down = own.step / plan.width, across = own.step - down * plan.width;
  unsigned peaks = 0;
  for (int i = 0, cell = own.first; cell < tile.count; ++i, cell += own.step) {
    peaks |= static_cast<unsigned>(is_peak(view, plan, tile, y, x, view.loaded(before + cell))) << i;
    y += down;
    x += across;
    if (x >= plan.width) {
      x -= plan.width;
      ++y;
    }
  }
  return peaks;
}

}  // namespace device
}  // namespace mdn
