// topk_peaks on a GPU.
//
// Memory story. scan_tiles reads the heatmap once, in tiles of whole rows together with the rows around them that their
// windows reach: from tile to tile 2 * reach rows are read twice, and none where a tile is a whole plane. A tile lies
// in shared memory as keys, integers in the order of the scores, and which of its cells are peaks stays in registers, a
// bit a cell. No map is written: a radix selection leaves each tile's k best, and of these only what does not lie below
// the k-th best of a tile that is done already is written, 16 bytes a candidate. select_peaks leaves each image's k
// best of its candidates, a few hundred KB that stay in the caches, and write_peaks puts them in order.
//
// The candidates of an image lie in the order in which its tiles happened to finish, and how many there are depends on
// it too; which of them are the best, and their order, does not: (score, label, index) orders them totally.
#include "core/cuda/device.cuh"
#include "core/cuda/dispatch.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/ranges.cuh"
#include "core/functions.h"
#include "ops/topk_peaks/call.h"
#include "ops/topk_peaks/heatmap_tiles.cuh"

namespace mdn {
namespace device {

constexpr int select_threads = 1024;
constexpr int write_threads = 256;
constexpr int digits = 256;  // of a radix selection, 8 bits each

// Of an image's peaks.
MDN_ON_BOTH int64_t blocks_to_write(const PeakPlan& plan) { return (plan.k + write_threads - 1) / write_threads; }

// What the kernels hand on, in device memory.
struct PeakWorkspace {
  unsigned long long* count;  // [batch]: the candidates of each image
  unsigned long long* floor;  // [batch]: a key that k candidates of the image reach
  uint64_t* key;              // [batch, candidates]
  uint64_t* place;            // [batch, candidates]: the image's last cell less the candidate's cell
  uint64_t* best_key;         // [batch, kept]
  uint64_t* best_place;       // [batch, kept]
};

// In elements of 8 bytes.
inline int64_t peak_workspace_size(const PeakPlan& plan) { return 2 * plan.batch * (1 + plan.candidates + plan.kept); }

inline PeakWorkspace peak_workspace(const PeakPlan& plan, void* memory) {
  auto* counts = static_cast<unsigned long long*>(memory);
  auto* key = static_cast<uint64_t*>(memory) + 2 * plan.batch;
  uint64_t* place = key + plan.batch * plan.candidates;
  uint64_t* best_key = place + plan.batch * plan.candidates;
  return {counts, counts + plan.batch, key, place, best_key, best_key + plan.batch * plan.kept};
}

// The bins of a radix selection's digit that are above, at, and below its k-th best.
struct Boundary {
  unsigned digit;   // of the k-th best
  unsigned above;   // how many have a larger one
  unsigned within;  // how many have the same
};

// By one warp: in which bin of the histogram the `wanted`-th largest lies.
template <class Histogram>
MDN_ON_DEVICE void find_boundary(Histogram& histogram, unsigned wanted, SharedArray<Boundary, 1>& boundary) {
  constexpr int bins = digits / warp_lanes;  // of a lane, the largest digits first
  const int lane = threadIdx.x % warp_lanes, top = digits - 1 - lane * bins;
  unsigned sum = 0;
  for (int i = 0; i < bins; ++i) sum += histogram[top - i];
  unsigned above = sum;
  for (int step = 1; step < warp_lanes; step *= 2) {
    const unsigned other = __shfl_up_sync(all_lanes, above, step);
    if (lane >= step) above += other;
  }
  above -= sum;
  if (above >= wanted || above + sum < wanted) return;
  for (int i = 0; i < bins; ++i) {
    const unsigned within = histogram[top - i];
    if (above + within >= wanted) {
      boundary[0] = Boundary{static_cast<unsigned>(top - i), above, within};
      return;
    }
    above += within;
  }
}

// --- Kernels ---------------------------------------------------------------------------------------------------------

// Calls visit(i) for each bit i of a mask.
template <class Visit>
MDN_ON_DEVICE void over_bits(unsigned mask, Visit visit) {
  for (; mask != 0; mask &= mask - 1) visit(__ffs(static_cast<int>(mask)) - 1);
}

template <class Key, bool by_columns>
__global__ void __launch_bounds__(scan_threads, 3)
    scan_tiles(const Key* heatmap, Key infinity, PeakPlan plan, PeakWorkspace workspace) {
  __shared__ TileKeys<Key> keys;
  __shared__ SharedArray<unsigned, digits> histogram;
  __shared__ SharedArray<Boundary, 1> boundary;
  __shared__ SharedArray<unsigned, 2> counts;  // peaks, and what is written of them
  __shared__ SharedArray<uint64_t, 2> shared;  // the floor, and where the tile's candidates begin
  __shared__ SharedArray<HeatmapTile, 1> own_tile;
  const int thread = threadIdx.x;

  for (int64_t number = blockIdx.x; number < plan.tiles; number += gridDim.x) {
    // One thread divides, and the tile waits in shared memory for those who need it, not in everyone's registers.
    const auto tile_here = [&]() -> HeatmapTile { return own_tile[0]; };
    if (thread == 0) {
      const HeatmapTile tile = heatmap_tile(plan, number);
      own_tile[0] = tile;
      counts[0] = 0;
      counts[1] = 0;
      shared[0] = load_global_written(workspace.floor + tile.image);
    }
    __syncthreads();
    const TileView<Key> view = load_tile(heatmap, plan, tile_here(), infinity, keys);
    __syncthreads();

    const HeatmapTile tile = tile_here();
    OwnCells own;
    unsigned active = by_columns ? peaks_in_column(view, plan, tile, own) : peaks_by_window(view, plan, tile, own);
    const int own_first = static_cast<int>(tile.first - tile.loaded);
    const auto key_at = [&](int i) { return view.loaded(own_first + own.first + i * own.step); };
    const uint64_t known = shared[0];
    const Key known_floor = static_cast<Key>(known);
    over_bits(active, [&](int i) {
      if (key_at(i) < known_floor) active &= ~(1u << i);
    });
    const unsigned peaks_of_warp = __reduce_add_sync(all_lanes, static_cast<unsigned>(__popc(active)));
    if (thread % warp_lanes == 0) atomicAdd(&counts[0], peaks_of_warp);
    __syncthreads();

    // Digit by digit, the key's and then the cell's: what is above the boundary is chosen, what is below is dropped,
    // and the rest waits for the next digit.
    unsigned remaining = static_cast<unsigned>(min(plan.k, int64_t(tile.count))), count = counts[0], chosen = 0;
    Key floor = 0;
    for (int digit = 0; count > remaining; ++digit) {
      const int shift = 8 * (static_cast<int>(sizeof(Key)) - 1 - digit);
      const auto digit_at = [&](int i) -> unsigned {
        if (shift >= 0) return static_cast<unsigned>(key_at(i) >> shift) % digits;
        const unsigned last_first = 0xffff - static_cast<unsigned>(own.first + i * own.step);
        return (shift == -8 ? last_first >> 8 : last_first) % digits;
      };
      if (thread < digits) histogram[thread] = 0;
      __syncthreads();
      over_bits(active, [&](int i) { atomicAdd(&histogram[static_cast<int>(digit_at(i))], 1u); });
      __syncthreads();
      if (thread < warp_lanes) find_boundary(histogram, remaining, boundary);
      __syncthreads();
      const Boundary at = boundary[0];
      over_bits(active, [&](int i) {
        const unsigned value = digit_at(i);
        if (value != at.digit) active &= ~(1u << i);
        if (value > at.digit) chosen |= 1u << i;
      });
      remaining -= at.above;
      count = at.within;
      if (shift >= 0) floor = static_cast<Key>(floor | static_cast<Key>(static_cast<Key>(at.digit) << shift));
    }
    chosen |= active;

    unsigned slot = 0;
    if (chosen != 0) slot = atomicAdd(&counts[1], static_cast<unsigned>(__popc(chosen)));
    __syncthreads();
    if (thread == 0) {
      const int64_t image = tile_here().image;
      const unsigned written = counts[1];
      const uint64_t floor_before = shared[0];
      shared[1] = written == 0 ? 0 : atomicAdd(workspace.count + image, static_cast<unsigned long long>(written));
      // Selected from more than k, all k chosen reach it.
      if (floor > floor_before) atomicMax(workspace.floor + image, static_cast<unsigned long long>(floor));
    }
    __syncthreads();
    const HeatmapTile done = tile_here();
    const uint64_t begin = shared[1];
    const int64_t label = done.plane - done.image * plan.labels;
    const int64_t first_cell = label * plan.cells_of_plane() + done.first + own.first;
    const int64_t last_cell = plan.cells_of_image() - 1;
    const int64_t base = done.image * plan.candidates + static_cast<int64_t>(begin);
    over_bits(chosen, [&](int i) {
      const int64_t cell = first_cell + int64_t(i) * own.step;
      store_global(workspace.key + base + slot, static_cast<uint64_t>(key_at(i)));
      store_global(workspace.place + base + slot, static_cast<uint64_t>(last_cell - cell));
      ++slot;
    });
    __syncthreads();
  }
}

// One block an image: its k best candidates, in any order. Passes over their keys, 8 bits each, find the k-th best.
__global__ void __launch_bounds__(select_threads) select_peaks(PeakPlan plan, PeakWorkspace workspace) {
  __shared__ SharedArray<unsigned, digits> histogram;
  __shared__ SharedArray<Boundary, 1> boundary;
  __shared__ SharedArray<unsigned, 1> written;
  const int thread = threadIdx.x;
  const int64_t image = blockIdx.x;
  const int64_t candidates = static_cast<int64_t>(load_global(workspace.count + image));
  const uint64_t* key = workspace.key + image * plan.candidates;
  const uint64_t* place = workspace.place + image * plan.candidates;

  // What is known of the k-th best: its leading digits, and zeros.
  uint64_t known_key = 0, known_place = 0;
  int64_t remaining = plan.kept, count = candidates;
  int key_shift = 8 * plan.key_bytes, place_shift = 64;
  while (count > remaining) {
    const bool of_key = key_shift > 0;
    if (of_key) {
      key_shift -= 8;
    } else {
      place_shift -= 8;
    }
    if (thread < digits) histogram[thread] = 0;
    __syncthreads();
    for (int64_t i = thread; i < candidates; i += select_threads) {
      const uint64_t here = load_global(key + i);
      if (of_key) {
        // In two steps, as no shift may be by 64.
        if ((here ^ known_key) >> key_shift >> 8 != 0) continue;
        atomicAdd(&histogram[static_cast<int>((here >> key_shift) % digits)], 1u);
      } else if (here == known_key) {
        const uint64_t where = load_global(place + i);
        if ((where ^ known_place) >> place_shift >> 8 != 0) continue;
        atomicAdd(&histogram[static_cast<int>((where >> place_shift) % digits)], 1u);
      }
    }
    __syncthreads();
    if (thread < warp_lanes) find_boundary(histogram, static_cast<unsigned>(remaining), boundary);
    __syncthreads();
    const Boundary at = boundary[0];
    remaining -= at.above;
    count = at.within;
    if (of_key) {
      known_key |= static_cast<uint64_t>(at.digit) << key_shift;
    } else {
      known_place |= static_cast<uint64_t>(at.digit) << place_shift;
    }
  }

  if (thread == 0) written[0] = 0;
  __syncthreads();
  for (int64_t i = thread; i < candidates; i += select_threads) {
    const uint64_t here = load_global(key + i);
    if (here < known_key) continue;
    const uint64_t where = load_global(place + i);
    if (here == known_key && where < known_place) continue;
    const int64_t slot = image * plan.kept + atomicAdd(&written[0], 1u);
    store_global(workspace.best_key + slot, here);
    store_global(workspace.best_place + slot, where);
  }
}

template <class Element>
MDN_ON_DEVICE Element score_of(Element value, bool logits) {
  if (logits) to_element(1 / (1 + exp(-to_number(value))), value);
  return value;
}

// Each thread has one of an image's best, counts those before it, and writes it where it belongs.
template <class Element>
__global__ void __launch_bounds__(write_threads)
    write_peaks(const Element* heatmap, bool logits, PeakPlan plan, PeakWorkspace workspace, Element* score,
                int64_t* label, int64_t* index) {
  __shared__ SharedArray<uint64_t, write_threads> keys, places;
  const int thread = threadIdx.x;
  for (int64_t block = blockIdx.x; block < plan.batch * blocks_to_write(plan); block += gridDim.x) {
    const int64_t image = block / blocks_to_write(plan);
    const int64_t mine = block % blocks_to_write(plan) * write_threads + thread;
    const int64_t found = min(static_cast<int64_t>(load_global(workspace.count + image)), plan.kept);
    const uint64_t* best_key = workspace.best_key + image * plan.kept;
    const uint64_t* best_place = workspace.best_place + image * plan.kept;
    const uint64_t key = mine < found ? load_global(best_key + mine) : 0;
    const uint64_t place = mine < found ? load_global(best_place + mine) : 0;
    int64_t rank = 0;
    for (int64_t first = 0; first < found; first += write_threads) {
      const int here = static_cast<int>(min(found - first, int64_t(write_threads)));
      if (thread < here) {
        keys[thread] = load_global(best_key + first + thread);
        places[thread] = load_global(best_place + first + thread);
      }
      __syncthreads();
      for (int i = 0; i < here; ++i) {
        const uint64_t other = keys[i], other_place = places[i];
        rank += other > key || (other == key && other_place > place);
      }
      __syncthreads();
    }
    if (mine >= plan.k) continue;
    if (mine < found) {
      const int64_t cell = plan.cells_of_image() - 1 - static_cast<int64_t>(place);
      const int64_t to = image * plan.k + rank;
      const Element value = load_global(heatmap + image * plan.cells_of_image() + cell);
      store_global(score + to, score_of(value, logits));
      store_global(label + to, cell / plan.cells_of_plane());
      store_global(index + to, cell % plan.cells_of_plane());
    } else {
      const int64_t to = image * plan.k + mine;
      store_global(score + to, Element{});
      store_global(label + to, int64_t(-1));
      store_global(index + to, int64_t(-1));
    }
  }
}

}  // namespace device

// The launches of a call: launch(kernel, blocks, threads, shared bytes, arguments...).
template <class Launch>
void run_topk_peaks(const PeakCall& call, const device::PeakPlan& plan, const device::PeakWorkspace& workspace,
                    Launch launch) {
  using namespace device;
  if (plan.batch == 0) return;
  launch(write_zeros<unsigned long long>, blocks_over(blocks_of_zeros<unsigned long long>(2 * plan.batch)),
         zero_threads, 0, workspace.count, 2 * plan.batch);
  with_element_type(call.dtype, [&](auto type) {
    using Element = typename decltype(type)::Type;
    using Key = typename KeyOf<Element>::Type;
    const Key infinity = KeyOf<Element>::infinity;
    const auto* keys = static_cast<const Key*>(call.heatmap);
    if (plan.tiles > 0) {
      launch(plan.by_columns ? scan_tiles<Key, true> : scan_tiles<Key, false>, blocks_over(plan.tiles), scan_threads, 0,
             keys, infinity, plan, workspace);
    }
    launch(select_peaks, blocks_over(plan.batch), select_threads, 0, plan, workspace);
    launch(write_peaks<Element>, blocks_over(plan.batch * blocks_to_write(plan)), write_threads, 0,
           static_cast<const Element*>(call.heatmap), call.logits, plan, workspace, static_cast<Element*>(call.score),
           call.label, call.index);
  });
}

namespace {

struct PeaksOnGpu : DeviceCall {
  using DeviceCall::DeviceCall;
  void run(const PeakCall& call, const Tensor& like) const;
};

void PeaksOnGpu::run(const PeakCall& call, const Tensor& like) const {
  const device::PeakPlan plan = device::peak_plan(call.batch, call.labels, call.height, call.width, call.k,
                                                  call.kernel_size, element_bytes(call.dtype));
  const Tensor memory = fresh(like, {device::peak_workspace_size(plan)}, ScalarType::Long);
  run_topk_peaks(call, plan, device::peak_workspace(plan, address_of(memory)), Launcher{*this, "topk_peaks"});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) { m.impl("topk_peaks", TORCH_BOX(&topk_peaks<PeaksOnGpu>)); }

}  // namespace mdn
