// gather_patches on a GPU, and its gradient.
//
// Memory story. A block makes a tile of one object's patch: whole channels of it, at most 1152 elements, in shared
// memory, where it gets from the map's order into the patch's. A channels_last map is read by runs of channels, 16
// bytes a lane where they are aligned; a planar one row by row of the windows, each of which is a sector or two.
// Patches are written once, in order, 16 bytes a lane.
//
// The gradient is zeroed, then each covered cell is summed by one block: that of the first object whose window covers
// it, in the order of the objects, and written once. No atomics: the same bits every time. Which windows overlap is
// seen from the index, which every block reads: 8 bytes for each object of its image.
#include "core/cuda/device.cuh"
#include "core/cuda/dispatch.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/ranges.cuh"
#include "ops/gather_patches/call.h"

namespace mdn {
namespace device {

constexpr int patch_threads = 288;
constexpr int elements_of_thread = 4;
constexpr int patch_tile = patch_threads * elements_of_thread;  // elements: 128 channels of 3 x 3 windows
constexpr int sector_bytes = 32;

// Sides of a map, and objects of an image, that fit into an int with a window to spare.
constexpr int64_t most_of_map = int64_t(1) << 30;

// A (batch, channels, height, width) map in place, its strides in elements.
struct PatchMap {
  int64_t channels, height, width;
  int64_t batch_stride, channel_stride, row_stride, column_stride;
};

struct PatchPlan {
  PatchMap map;
  int64_t batch, points;  // objects of an image
  int kernel_size, window;
  int64_t length;     // of a patch
  int tile;           // elements; whole channels, unless a single channel's window is larger than any tile
  int64_t tiles;      // of a patch
  int64_t pieces;     // the tiles of all patches
  int channel_width;  // channels that are read or written at once; 0: they do not lie side by side
};

// `aligned`: whether the map begins at a multiple of 16 bytes.
inline PatchPlan patch_plan(const PatchMap& map, int64_t batch, int64_t points, int kernel_size, int element_bytes,
                            bool aligned) {
  PatchPlan plan = {};
  plan.map = map;
  plan.batch = batch;
  plan.points = points;
  plan.kernel_size = kernel_size;
  plan.window = kernel_size * kernel_size;
  plan.length = map.channels * plan.window;
  if (plan.length == 0) return plan;
  const int64_t most_channels = patch_tile / plan.window;
  if (most_channels == 0) {
    plan.tile = patch_tile;
    plan.tiles = (plan.length + plan.tile - 1) / plan.tile;
    plan.pieces = batch * points * plan.tiles;
    return plan;
  }
  plan.tiles = (map.channels + most_channels - 1) / most_channels;
  int64_t channels = (map.channels + plan.tiles - 1) / plan.tiles;
  const int64_t whole_sectors = sector_bytes / element_bytes;
  const int64_t rounded = (channels + whole_sectors - 1) / whole_sectors * whole_sectors;
  if (rounded <= most_channels) channels = rounded;
  plan.tile = static_cast<int>(channels * plan.window);
  plan.tiles = (map.channels + channels - 1) / channels;
  plan.pieces = batch * points * plan.tiles;
  if (map.channel_stride == 1) {
    const int width = 16 / element_bytes;
    const int64_t strides = map.batch_stride | map.row_stride | map.column_stride | map.channels | channels;
    plan.channel_width = aligned && strides % width == 0 ? width : 1;
  }
  return plan;
}

// One tile of one object's patch.
struct PatchTile {
  int64_t image;
  int object;     // of the image
  int top, left;  // of the object's window, which may begin outside the map
  bool padding;   // there is no object
  int64_t first;  // element of the patch
  int count;
};

// By all threads of the block, of which one reads the index.
MDN_ON_DEVICE PatchTile patch_tile_of(const PatchPlan& plan, const int64_t* index, int64_t piece,
                                      SharedArray<int64_t, 1>& own_cell) {
  PatchTile tile;
  const int64_t object = piece / plan.tiles;
  tile.image = object / plan.points;
  tile.object = static_cast<int>(object % plan.points);
  tile.first = piece % plan.tiles * plan.tile;
  tile.count = static_cast<int>(min(int64_t(plan.tile), plan.length - tile.first));
  if (threadIdx.x == 0) own_cell[0] = load_global(index + object);
  __syncthreads();
  const int64_t cell = own_cell[0];
  tile.padding = cell < 0;
  tile.top = tile.padding ? 0 : static_cast<int>(cell / plan.map.width) - plan.kernel_size / 2;
  tile.left = tile.padding ? 0 : static_cast<int>(cell % plan.map.width) - plan.kernel_size / 2;
  return tile;
}

// A cell of a tile's window, and its offset in the map from the image's channel 0.
struct WindowCell {
  int row, column;  // in the window
  bool inside;      // the map
  int64_t offset;
};

MDN_ON_DEVICE WindowCell window_cell(const PatchPlan& plan, const PatchTile& tile, int number) {
  WindowCell cell;
  cell.row = number / plan.kernel_size;
  cell.column = number % plan.kernel_size;
  const int y = tile.top + cell.row, x = tile.left + cell.column;
  cell.inside = !tile.padding && y >= 0 && y < plan.map.height && x >= 0 && x < plan.map.width;
  cell.offset = y * plan.map.row_stride + x * plan.map.column_stride;
  return cell;
}

// Elements as they lie in a patch: which channel and which cell of the window the tile's i-th is.
class ElementsOfTile {
 public:
  MDN_ON_DEVICE ElementsOfTile(const PatchPlan& plan, const PatchTile& tile)
      : window_(plan.window), first_channel_(tile.first / plan.window), skipped_(int(tile.first % plan.window)) {}
  MDN_ON_DEVICE int64_t channel(int i) const { return first_channel_ + (skipped_ + i) / window_; }
  MDN_ON_DEVICE int cell(int i) const { return (skipped_ + i) % window_; }

 private:
  int window_;
  int64_t first_channel_;
  int skipped_;  // of the first channel's window
};

template <class T>
using PatchElements = SharedArray<T, patch_tile>;

// `width` is the plan's channel_width; elements are only moved, as words of their size.
template <class Word, int width>
__global__ void __launch_bounds__(patch_threads)
    gather_windows(const Word* feature, const int64_t* index, PatchPlan plan, Word* patches) {
  __shared__ PatchElements<Word> elements;
  __shared__ SharedArray<int64_t, 1> own_cell;
  for (int64_t piece = blockIdx.x; piece < plan.pieces; piece += gridDim.x) {
    const PatchTile tile = patch_tile_of(plan, index, piece, own_cell);
    const Word* image = feature + tile.image * plan.map.batch_stride;
    if constexpr (width == 0) {
      const ElementsOfTile places(plan, tile);
#pragma unroll
      for (int e = 0; e < elements_of_thread; ++e) {
        const int i = static_cast<int>(threadIdx.x) + e * patch_threads;
        if (i >= tile.count) break;
        const WindowCell cell = window_cell(plan, tile, places.cell(i));
        const int64_t offset = cell.offset + places.channel(i) * plan.map.channel_stride;
        elements[i] = cell.inside ? load_global(image + offset) : Word(0);
      }
    } else {
      using Channels = Pack<Word, width>;
      const int runs = tile.count / plan.window / width;
      const Word* first = image + tile.first / plan.window;
      for (int i = threadIdx.x; i < runs * plan.window; i += patch_threads) {
        const int number = i / runs, channel = i % runs * width;
        const WindowCell cell = window_cell(plan, tile, number);
        Channels channels = {};
        if (cell.inside) channels = load_global(reinterpret_cast<const Channels*>(first + cell.offset + channel));
        for (int c = 0; c < width; ++c) elements[(channel + c) * plan.window + number] = channels[c];
      }
    }
    __syncthreads();
    constexpr int words = pack_width<Word>;
    Word* to = patches + (tile.image * plan.points + tile.object) * plan.length + tile.first;
    over_packs<words>(
        to, tile.count,
        [&](int i) {
          Pack<Word, words> pack;
          for (int j = 0; j < words; ++j) pack[j] = elements[i + j];
          store_global(reinterpret_cast<Pack<Word, words>*>(to + i), pack);
        },
        [&](int i) {
          const Word element = elements[i];
          store_global(to + i, element);
        });
    __syncthreads();
  }
}

// --- The gradient ----------------------------------------------------------------------------------------------------

// An object whose window overlaps the block's own: the cell (row, column) of the own window is its (row + down, column
// + right).
struct Overlap {
  int object;
  int down, right;
};

// Of patch_threads objects from `first` on, those that overlap, in their order; gives how many. All threads call it.
MDN_ON_DEVICE int find_overlaps(const PatchPlan& plan, const PatchTile& tile, const int64_t* index_of_image,
                                int64_t first, SharedArray<int, patch_threads / warp_lanes>& found_by_warp,
                                SharedArray<Overlap, patch_threads>& overlaps) {
  const int64_t object = first + threadIdx.x;
  int64_t down = 0, right = 0;
  bool overlap = false;
  if (object < plan.points && object != tile.object) {
    const int64_t cell = load_global(index_of_image + object);
    down = tile.top + plan.kernel_size / 2 - cell / plan.map.width;
    right = tile.left + plan.kernel_size / 2 - cell % plan.map.width;
    overlap = cell >= 0 && down < plan.kernel_size && -down < plan.kernel_size && right < plan.kernel_size &&
              -right < plan.kernel_size;
  }
  if (__syncthreads_or(overlap) == 0) return 0;
  const int warp = threadIdx.x / warp_lanes, lane = threadIdx.x % warp_lanes;
  const unsigned found = __ballot_sync(all_lanes, overlap);
  if (lane == 0) found_by_warp[warp] = __popc(found);
  __syncthreads();
  int before = 0, all = 0;
  for (int i = 0; i < patch_threads / warp_lanes; ++i) {
    const int of_warp = found_by_warp[i];
    if (i < warp) before += of_warp;
    all += of_warp;
  }
  if (overlap) {
    overlaps[before + __popc(found & ((1u << lane) - 1))] =
        Overlap{static_cast<int>(object), static_cast<int>(down), static_cast<int>(right)};
  }
  __syncthreads();
  return all;
}

// `width` as above, of the gradient. Into zeros.
template <class Element, int width>
__global__ void __launch_bounds__(patch_threads, 3)
    sum_windows(const Element* patches, const int64_t* index, PatchPlan plan, Element* gradient) {
  using T = typename ArithmeticOf<Element>::Type;
  __shared__ SharedArray<int64_t, 1> own_cell;
  __shared__ SharedArray<int, patch_threads / warp_lanes> found_by_warp;
  __shared__ SharedArray<Overlap, patch_threads> overlaps;
  for (int64_t piece = blockIdx.x; piece < plan.pieces; piece += gridDim.x) {
    const PatchTile tile = patch_tile_of(plan, index, piece, own_cell);
    if (tile.padding) {
      __syncthreads();
      continue;
    }
    const Element* patches_of_image = patches + tile.image * plan.points * plan.length + tile.first;
    const ElementsOfTile places(plan, tile);

    T sum[elements_of_thread];
    int row[elements_of_thread], column[elements_of_thread];
    bool own[elements_of_thread];  // in the map, and no earlier object covers the cell
#pragma unroll
    for (int e = 0; e < elements_of_thread; ++e) {
      const int i = static_cast<int>(threadIdx.x) + e * patch_threads;
      const WindowCell cell = window_cell(plan, tile, places.cell(i));
      row[e] = cell.row;
      column[e] = cell.column;
      own[e] = cell.inside && i < tile.count;
      sum[e] = 0;
      if (own[e]) sum[e] += to_number(load_global(patches_of_image + int64_t(tile.object) * plan.length + i));
    }
    for (int64_t first = 0; first < plan.points; first += patch_threads) {
      const int count = find_overlaps(plan, tile, index + tile.image * plan.points, first, found_by_warp, overlaps);
      for (int o = 0; o < count; ++o) {
        const Overlap other = overlaps[o];
        const Element* patch =
            patches_of_image + int64_t(other.object) * plan.length + other.down * plan.kernel_size + other.right;
#pragma unroll
        for (int e = 0; e < elements_of_thread; ++e) {
          const int v = row[e] + other.down, u = column[e] + other.right;
          if (!own[e] || v < 0 || v >= plan.kernel_size || u < 0 || u >= plan.kernel_size) continue;
          if (other.object < tile.object) {
            own[e] = false;
          } else {
            sum[e] += to_number(load_global(patch + threadIdx.x + e * patch_threads));
          }
        }
      }
    }

    Element* image = gradient + tile.image * plan.map.batch_stride;
    if constexpr (width == 0) {
#pragma unroll
      for (int e = 0; e < elements_of_thread; ++e) {
        if (!own[e]) continue;
        const int i = static_cast<int>(threadIdx.x) + e * patch_threads;
        const int64_t offset = window_cell(plan, tile, places.cell(i)).offset;
        Element element;
        to_element(sum[e], element);
        store_global(image + offset + places.channel(i) * plan.map.channel_stride, element);
      }
    } else {
      __shared__ PatchElements<Element> sums;
      __shared__ PatchElements<unsigned char> owned;
#pragma unroll
      for (int e = 0; e < elements_of_thread; ++e) {
        const int i = static_cast<int>(threadIdx.x) + e * patch_threads;
        Element element;
        to_element(sum[e], element);
        sums[i] = element;
        owned[i] = own[e];
      }
      __syncthreads();
      using Channels = Pack<Element, width>;
      const int runs = tile.count / plan.window / width;
      Element* first = image + tile.first / plan.window;
      for (int i = threadIdx.x; i < runs * plan.window; i += patch_threads) {
        const int number = i / runs, channel = i % runs * width;
        const bool mine = owned[channel * plan.window + number];
        if (!mine) continue;
        Channels channels;
        for (int c = 0; c < width; ++c) channels[c] = sums[(channel + c) * plan.window + number];
        const int64_t offset = window_cell(plan, tile, number).offset + channel;
        store_global(reinterpret_cast<Channels*>(first + offset), channels);
      }
      __syncthreads();
    }
    __syncthreads();
  }
}

}  // namespace device

// The launch of gather_patches: launch(kernel, blocks, threads, shared bytes, arguments...).
template <class Launch>
void run_gather_patches(const PatchCall& call, const device::PatchPlan& plan, Launch launch) {
  using namespace device;
  if (plan.pieces == 0) return;
  const auto run = [&](auto type) {
    using Word = typename decltype(type)::Type;
    auto* kernel = gather_windows<Word, 0>;
    if (plan.channel_width == 1) kernel = gather_windows<Word, 1>;
    if (plan.channel_width > 1) kernel = gather_windows<Word, pack_width<Word>>;
    launch(kernel, blocks_over(plan.pieces), patch_threads, 0, static_cast<const Word*>(call.map.data), call.index,
           plan, static_cast<Word*>(call.patches));
  };
  switch (element_bytes(call.map.dtype)) {
    case 8:
      return run(ElementType<uint64_t>{});
    case 4:
      return run(ElementType<uint32_t>{});
    default:
      return run(ElementType<uint16_t>{});
  }
}

// The launches of gather_patches_backward, into the `elements` elements of a dense map.
template <class Launch>
void run_gather_patches_backward(const PatchCall& call, const device::PatchPlan& plan, int64_t elements,
                                 Launch launch) {
  using namespace device;
  if (elements == 0) return;
  with_element_type(call.map.dtype, [&](auto type) {
    using Element = typename decltype(type)::Type;
    auto* gradient = static_cast<Element*>(call.map.data);
    launch(write_zeros<Element>, blocks_over(blocks_of_zeros<Element>(elements)), zero_threads, 0, gradient, elements);
    if (plan.pieces == 0) return;
    auto* kernel = sum_windows<Element, 0>;
    if (plan.channel_width == 1) kernel = sum_windows<Element, 1>;
    if (plan.channel_width > 1) kernel = sum_windows<Element, pack_width<Element>>;
    launch(kernel, blocks_over(plan.pieces), patch_threads, 0, static_cast<const Element*>(call.patches), call.index,
           plan, gradient);
  });
}

namespace {

using device::PatchPlan;

PatchPlan plan_of(const PatchCall& call) {
  const MapView& map = call.map;
  const bool aligned = reinterpret_cast<uintptr_t>(map.data) % 16 == 0;
  return device::patch_plan(
      {map.channels, map.height, map.width, map.batch_stride, map.channel_stride, map.row_stride, map.column_stride},
      call.batch, call.points, call.kernel_size, element_bytes(map.dtype), aligned);
}

struct PatchesOnGpu : DeviceCall {
  using DeviceCall::DeviceCall;
  static void check(const Tensor& map, const Tensor& index, int64_t kernel_size);
  void gather(const PatchCall& call) const {
    run_gather_patches(call, plan_of(call), Launcher{*this, "gather_patches"});
  }
  void scatter(const PatchCall& call, const Tensor& gradient) const {
    run_gather_patches_backward(call, plan_of(call), gradient.numel(), Launcher{*this, "gather_patches_backward"});
  }
};

void PatchesOnGpu::check(const Tensor& map, const Tensor& index, int64_t kernel_size) {
  STD_TORCH_CHECK(kernel_size <= 46340, "gather_patches: kernel_size must be at most 46340 on a GPU, got ",
                  kernel_size);
  STD_TORCH_CHECK(
      map.size(2) <= device::most_of_map && map.size(3) <= device::most_of_map && index.size(1) <= device::most_of_map,
      "gather_patches: a map's height and width, and the points of an image, must be at most 2^30 on a "
      "GPU, got ",
      map.size(2), ", ", map.size(3), " and ", index.size(1));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) {
  m.impl("gather_patches", TORCH_BOX(&gather_patches<PatchesOnGpu>));
  m.impl("gather_patches_backward", TORCH_BOX(&gather_patches_backward<PatchesOnGpu>));
}

}  // namespace mdn
