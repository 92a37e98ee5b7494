// topk_peaks on a GPU, in two launches.
//
// Memory story. scan_tiles reads the heatmap once, in tiles of whole rows together with the rows around them that their
// windows reach: from tile to tile 2 * reach rows are read twice, and none where a tile is a whole plane. A thread
// finds the peaks of a strip of 8 x 4 cells in registers and writes them as bits, and 8 threads together write the
// largest of theirs: 5 bytes for each 32 cells. Nothing is sorted or counted there.
//
// select_peaks, a block for each 1024 peaks of an image, finds the k-th largest of what the groups of 8 threads wrote,
// which k peaks reach; so at most about k groups can have one of the k best. The values of their peaks are read from
// the heatmap once more, mostly from the second-level cache, and what reaches that floor, hardly more than k, is put in
// order in shared memory.
//
// Peaks are told apart by numbers that order them totally: the score's key, then how far the cell lies before the
// image's end. So the order in which threads find them does not matter.
#include "core/cuda/device.cuh"
#include "core/cuda/dispatch.cuh"
#include "core/cuda/launch.h"
#include "core/functions.h"
#include "ops/topk_peaks/call.h"
#include "ops/topk_peaks/heatmap_tiles.cuh"

namespace mdn {
namespace device {

constexpr int select_threads = 1024;
constexpr int select_warps = select_threads / warp_lanes;
constexpr int digits = 256;              // of a radix selection, 8 bits each
constexpr int peaks_of_block = 1024;     // that select_peaks writes
constexpr int listed_peaks = 2048;       // in shared memory, among which are those
constexpr int listed_groups = 6144;      // of which a block takes the peaks at a time
constexpr int most_ranked_by_all = 256;  // peaks that are ranked each against all others; more are sorted

// What scan_tiles hands to select_peaks, in device memory.
template <class Key>
struct PeakWorkspace {
  Key* best;        // [batch, groups_of_image]: the key of the largest peak of a group, 0 without one
  uint32_t* peaks;  // [batch, words_of_image]: the peaks of a thread's cells
};

// In elements of 8 bytes.
inline int64_t peak_workspace_size(const PeakPlan& plan, int key_bytes) {
  return plan.batch * (shares(plan.groups_of_image * key_bytes, 8) + shares(plan.words_of_image * 4, 8));
}

template <class Key>
PeakWorkspace<Key> peak_workspace(const PeakPlan& plan, void* memory) {
  auto* best = static_cast<Key*>(memory);
  return {best, reinterpret_cast<uint32_t*>(best + plan.batch * plan.groups_of_image)};
}

inline int64_t blocks_of_image(const PeakPlan& plan) { return shares(plan.k, peaks_of_block); }

// --- Peaks -----------------------------------------------------------------------------------------------------------

template <class Element, bool neighbours>
__global__ void __launch_bounds__(scan_threads, 4)
    scan_tiles(const Element* heatmap, const __grid_constant__ PeakPlan plan,
               PeakWorkspace<typename KeyOf<typename ArithmeticOf<Element>::Type>::Type> workspace) {
  using T = typename ArithmeticOf<Element>::Type;
  using Key = typename KeyOf<T>::Type;
  const int thread = threadIdx.x, tile = blockIdx.x;
  const Strip strip = strip_of(plan, tile, thread);
  const Element* plane = heatmap + strip.plane * plan.cells_of_plane();
  const uint32_t inside = thread < plan.packs * plan.strips ? cells_inside(plan, strip) : 0;
  StripPeaks<T> peaks = {};
  if (plan.staged) {
    const int own = strip_of(plan, tile, 0).y;
    const int first = max(own - plan.reach, 0), last = min(own + plan.strips * strip_rows + plan.reach, plan.height);
    const StagedRows<Element> rows = load_rows(plan, plane, first, last - first);
    __syncthreads();
    if (inside != 0) {
      if constexpr (neighbours) {
        peaks = peaks_of_neighbours(rows, strip, inside);
      } else {
        peaks = peaks_of_windows<T>(plan, strip, inside,
                                    [&](int y, int x) { return rows.at((y - first) * rows.width + x); });
      }
    }
  } else if (inside != 0) {
    peaks = peaks_of_windows<T>(
        plan, strip, inside, [&](int y, int x) { return to_number(load_global(plane + int64_t(y) * plan.width + x)); });
  }
  Key best = peaks.bits == 0 ? Key(0) : key_of(peaks.best);
#pragma unroll
  for (int step = 1; step < group_threads; step *= 2) best = max(best, __shfl_xor_sync(all_lanes, best, step));
  const int64_t word = int64_t(tile) * plan.threads + thread;
  store_global(workspace.peaks + word, peaks.bits);
  if (thread % group_threads == 0) store_global(workspace.best + word / group_threads, best);
}

// --- The best of an image --------------------------------------------------------------------------------------------

// Numbers in the order of peaks: a key, and behind it how many cells of the image follow, which has 32 bits.
__extension__ typedef unsigned __int128 LongOrder;
template <class Element>
struct OrderOf {
  using Type = uint64_t;
  static constexpr int bits = 64;
};
template <>
struct OrderOf<double> {
  using Type = LongOrder;
  static constexpr int bits = 96;
};

// The bins of a radix selection's digit that are above and at its k-th best.
struct Boundary {
  unsigned digit;   // of the k-th best
  unsigned above;   // how many have a larger one
  unsigned within;  // how many have the same; 0: there are fewer than k
};

template <class Order>
struct SelectMemory {
  SharedArray<unsigned, digits> histogram;
  SharedArray<Boundary, 1> boundary;
  SharedArray<unsigned, 2> counts;  // of the two lists
  SharedArray<unsigned, 1> leading;
  SharedArray<unsigned short, listed_groups> groups;
  SharedArray<Order, listed_peaks> peaks;
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
  if (lane == warp_lanes - 1 && above < wanted) boundary[0] = Boundary{};
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

// One block at work on its peaks of an image. A member function is called by all threads, and barriers stand within.
template <class Element>
class PeakSelection {
  using T = typename ArithmeticOf<Element>::Type;
  using Key = typename KeyOf<T>::Type;
  using Order = typename OrderOf<Element>::Type;
  static constexpr int bits = OrderOf<Element>::bits, digit_bits = 8, leading_shift = bits - 32;

 public:
  MDN_ON_DEVICE PeakSelection(const Element* heatmap, const PeakPlan& plan, const PeakWorkspace<Key>& workspace,
                              int image, SelectMemory<Order>& memory)
      : plan_(plan),
        memory_(memory),
        heatmap_(heatmap + image * plan.cells_of_image()),
        best_(workspace.best + image * plan.groups_of_image),
        peaks_(workspace.peaks + image * plan.words_of_image),
        groups_(static_cast<int>(plan.groups_of_image)),
        last_cell_(static_cast<uint32_t>(plan.cells_of_image() - 1)) {}

  // Lists, in any order, the peaks from the `first`-th best on, and more than `wanted` of them only where more are in
  // reach of a list. Returns how many there are in the list.
  MDN_ON_DEVICE unsigned list(unsigned first, unsigned wanted) {
    Order ceiling = ~Order(0);  // which none reaches
    Order floor = floor_of_groups(first + wanted);
    if (first > 0) {
      ceiling = floor_of_peaks(floor, ceiling, first, first);
      if (ceiling == 0) return 0;
    }
    unsigned count = list_between(floor, ceiling);
    if (count > listed_peaks) {
      floor = floor_of_peaks(floor, ceiling, wanted, listed_peaks);
      count = list_between(floor, ceiling);
    }
    return count;
  }

  MDN_ON_DEVICE uint32_t cell_of(Order order) const { return last_cell_ - static_cast<uint32_t>(order); }

 private:
  MDN_ON_DEVICE Order order_of(Key key, uint32_t cell) const { return Order(key) << 32 | Order(last_cell_ - cell); }

  MDN_ON_DEVICE int threads_of_tile() const { return plan_.threads; }

  // The first cell of the strip that a word of the image is for.
  MDN_ON_DEVICE Strip strip_of_word(int word) const {
    const int tile = quotient(word, plan_.by_threads);
    return strip_of(plan_, tile, word - tile * plan_.threads);
  }

  MDN_ON_DEVICE uint32_t cell_at(int label, int y, int x) const {
    return (static_cast<uint32_t>(label) * plan_.height + y) * plan_.width + x;
  }

  // Cells that no cell of a group lies before, or behind.
  MDN_ON_DEVICE uint32_t first_cell(int group) const {
    const Strip strip = strip_of_word(group * group_threads);
    return cell_at(strip.plane, strip.y, strip.x);
  }
  MDN_ON_DEVICE uint32_t last_cell(int group) const {
    const Strip strip = strip_of_word(group * group_threads + group_threads - 1);
    const int y = strip.y + strip_rows - 1;
    if (y >= plan_.height) return cell_at(strip.plane, plan_.height - 1, plan_.width - 1);
    return cell_at(strip.plane, y, min(strip.x + strip_columns, plan_.width) - 1);
  }

  // Whether a peak of the group may reach `floor`, by its largest key.
  MDN_ON_DEVICE bool may_reach(int group, Key key, Order floor) const {
    if (key == 0) return false;
    const auto floor_key = static_cast<Key>(floor >> 32);
    return key > floor_key || (key == floor_key && order_of(key, first_cell(group)) >= floor);
  }

  // A number that at least `wanted` of the orders that visit(shift, use) hands to use(order) reach, and not more than
  // `most` where that can be; 0 where there are not so many. The orders begin with what `known` has above `shift`.
  template <class Visit>
  MDN_ON_DEVICE Order find_floor(Order known, int shift, unsigned wanted, unsigned most, Visit visit) {
    const int thread = threadIdx.x;
    unsigned above = 0;
    for (; shift >= 0; shift -= digit_bits) {
      if (thread < digits) memory_.histogram[thread] = 0;
      __syncthreads();
      visit(shift, [&](Order order) {
        // In two steps, as no shift may be by all bits.
        if ((order ^ known) >> shift >> digit_bits != 0) return;
        atomicAdd(&memory_.histogram[static_cast<int>(static_cast<unsigned>(order >> shift) % digits)], 1u);
      });
      __syncthreads();
      if (thread < warp_lanes) find_boundary(memory_.histogram, wanted - above, memory_.boundary);
      __syncthreads();
      const Boundary at = memory_.boundary[0];
      if (at.within == 0) return 0;
      above += at.above;
      known |= Order(at.digit) << shift;
      if (above + at.within <= most) break;
    }
    return known;
  }

  // A number that `wanted` peaks reach, each of another group.
  MDN_ON_DEVICE Order floor_of_groups(unsigned wanted) {
    if (wanted > static_cast<unsigned>(groups_)) return 0;
    return find_floor(0, bits - digit_bits, wanted, wanted + wanted / 4, [&](int shift, auto use) {
      for (int group = threadIdx.x; group < groups_; group += select_threads) {
        const Key key = load_global(best_ + group);
        if (key != 0) use(order_of(key, shift < 32 ? last_cell(group) : 0));
      }
    });
  }

  // The same of the peaks in [floor, ceiling).
  MDN_ON_DEVICE Order floor_of_peaks(Order floor, Order ceiling, unsigned wanted, unsigned most) {
    unsigned leading = static_cast<unsigned>(ceiling >> leading_shift);
    if (ceiling == ~Order(0)) leading = largest_leading();
    Order known = 0;
    int shift = bits - digit_bits;
    if (leading == static_cast<unsigned>(floor >> leading_shift)) {  // many peaks of one score
      known = Order(leading) << leading_shift;
      shift -= 32;
    }
    return find_floor(known, shift, wanted, most, [&](int, auto use) { over_peaks(floor, ceiling, use); });
  }

  // The first 32 bits of the largest key.
  MDN_ON_DEVICE unsigned largest_leading() {
    __syncthreads();
    if (threadIdx.x == 0) memory_.leading[0] = 0;
    __syncthreads();
    unsigned most = 0;
    for (int group = threadIdx.x; group < groups_; group += select_threads) {
      most = max(most, static_cast<unsigned>(order_of(load_global(best_ + group), 0) >> leading_shift));
    }
    atomicMax(&memory_.leading[0], most);
    __syncthreads();
    return memory_.leading[0];
  }

  MDN_ON_DEVICE unsigned list_between(Order floor, Order ceiling) {
    __syncthreads();
    if (threadIdx.x == 0) memory_.counts[0] = 0;
    __syncthreads();
    over_peaks(floor, ceiling, [&](Order order) {
      const unsigned slot = atomicAdd(&memory_.counts[0], 1u);
      if (slot < listed_peaks) memory_.peaks[static_cast<int>(slot)] = order;
    });
    __syncthreads();
    return memory_.counts[0];
  }

  // Calls use(order) for the image's peaks in [floor, ceiling): first finds the groups that may have some, then shares
  // their words among the threads.
  template <class Use>
  MDN_ON_DEVICE void over_peaks(Order floor, Order ceiling, Use use) {
    const int thread = threadIdx.x;
    for (int begin = 0; begin < groups_; begin += listed_groups) {
      __syncthreads();
      if (thread == 0) memory_.counts[1] = 0;
      __syncthreads();
      const int end = min(begin + listed_groups, groups_);
      for (int group = begin + thread; group < end; group += select_threads) {
        if (!may_reach(group, load_global(best_ + group), floor)) continue;
        const unsigned slot = atomicAdd(&memory_.counts[1], 1u);
        memory_.groups[static_cast<int>(slot)] = static_cast<unsigned short>(group - begin);
      }
      __syncthreads();
      const unsigned found = memory_.counts[1];
      const int words = static_cast<int>(found) * group_threads;
      for (int i = thread; i < words; i += select_threads) {
        const unsigned short listed = memory_.groups[i / group_threads];
        const int word = (begin + listed) * group_threads + i % group_threads;
        const uint32_t peaks = load_global(peaks_ + word);
        if (peaks != 0) over_strip(word, peaks, floor, ceiling, use);
      }
    }
  }

  // Reads several cells at once, as each comes from afar.
  template <class Use>
  MDN_ON_DEVICE void over_strip(int word, uint32_t peaks, Order floor, Order ceiling, Use use) const {
    constexpr int at_once = 4;
    const Strip strip = strip_of_word(word);
    const uint32_t first = cell_at(strip.plane, strip.y, strip.x);
    while (peaks != 0) {
      uint32_t cells[at_once];
      T values[at_once];
      int count = 0;
#pragma unroll
      for (int j = 0; j < at_once; ++j) {
        if (peaks != 0) {
          const int i = __ffs(static_cast<int>(peaks)) - 1;
          cells[j] = first + static_cast<uint32_t>(i / strip_columns * plan_.width + i % strip_columns);
          values[j] = to_number(load_global(heatmap_ + cells[j]));
          peaks &= peaks - 1;
          count = j + 1;
        }
      }
#pragma unroll
      for (int j = 0; j < at_once; ++j) {
        if (j < count) {
          const Order order = order_of(key_of(values[j]), cells[j]);
          if (order >= floor && order < ceiling) use(order);
        }
      }
    }
  }

  const PeakPlan& plan_;
  SelectMemory<Order>& memory_;
  const Element* heatmap_;
  const Key* best_;
  const uint32_t* peaks_;
  const int groups_;
  const uint32_t last_cell_;
};

// Sorts the first `count` of a list, the largest first: a bitonic network over the next power of two.
template <class Order>
MDN_ON_DEVICE void sort_descending(SharedArray<Order, listed_peaks>& list, int count) {
  int size = warp_lanes;
  while (size < count) size *= 2;
  for (int i = count + static_cast<int>(threadIdx.x); i < size; i += select_threads) list[i] = Order(0);
  for (int run = 2; run <= size; run *= 2) {
    for (int step = run / 2; step > 0; step /= 2) {
      __syncthreads();
      for (int pair = threadIdx.x; pair < size / 2; pair += select_threads) {
        const int i = 2 * pair - (pair & (step - 1)), j = i + step;
        const Order a = list[i], b = list[j];
        if ((a < b) == ((i & run) == 0)) {
          list[i] = b;
          list[j] = a;
        }
      }
    }
  }
  __syncthreads();
}

template <class Element>
MDN_ON_DEVICE Element score_of(Element value, bool logits) {
  if (logits) to_element(1 / (1 + exp(-to_number(value))), value);
  return value;
}

template <class Element>
__global__ void __launch_bounds__(select_threads)
    select_peaks(const Element* heatmap, bool logits, const __grid_constant__ PeakPlan plan,
                 PeakWorkspace<typename KeyOf<typename ArithmeticOf<Element>::Type>::Type> workspace, Element* score,
                 int64_t* label, int64_t* index) {
  using Order = typename OrderOf<Element>::Type;
  __shared__ SelectMemory<Order> memory;
  const int thread = threadIdx.x;
  const auto blocks = static_cast<unsigned>((plan.k + peaks_of_block - 1) / peaks_of_block);
  const int image = static_cast<int>(blockIdx.x / blocks);
  const unsigned first = blockIdx.x % blocks * peaks_of_block;
  const auto wanted = static_cast<unsigned>(min(plan.k - first, int64_t(peaks_of_block)));
  PeakSelection<Element> selection(heatmap, plan, workspace, image, memory);
  const int count = static_cast<int>(selection.list(first, wanted));

  const int64_t to = image * plan.k + first;
  const auto write = [&](int rank, Order order) {
    if (rank >= static_cast<int>(wanted)) return;
    const uint32_t cell = selection.cell_of(order), area = static_cast<uint32_t>(plan.cells_of_plane());
    const Element value = load_global(heatmap + image * plan.cells_of_image() + cell);
    store_global(score + to + rank, score_of(value, logits));
    store_global(label + to + rank, static_cast<int64_t>(cell / area));
    store_global(index + to + rank, static_cast<int64_t>(cell % area));
  };
  if (count <= most_ranked_by_all) {
    const int lane = thread % warp_lanes;
    for (int i = thread / warp_lanes; i < count; i += select_warps) {
      const Order order = memory.peaks[i];
      unsigned before = 0;
      for (int j = lane; j < count; j += warp_lanes) {
        const Order other = memory.peaks[j];
        before += other > order;
      }
      before = __reduce_add_sync(all_lanes, before);
      if (lane == 0) write(static_cast<int>(before), order);
    }
  } else {
    sort_descending(memory.peaks, count);
    for (int i = thread; i < count; i += select_threads) write(i, memory.peaks[i]);
  }
  for (int rank = count + thread; rank < static_cast<int>(wanted); rank += select_threads) {
    store_global(score + to + rank, Element{});
    store_global(label + to + rank, int64_t(-1));
    store_global(index + to + rank, int64_t(-1));
  }
}

}  // namespace device

// The launches of a call: launch(kernel, blocks, threads, shared bytes, arguments...).
template <class Launch>
void run_topk_peaks(const PeakCall& call, const device::PeakPlan& plan, void* memory, Launch launch) {
  using namespace device;
  if (plan.batch * plan.k == 0) return;
  with_element_type(call.dtype, [&](auto type) {
    using Element = typename decltype(type)::Type;
    using Key = typename KeyOf<typename ArithmeticOf<Element>::Type>::Type;
    const auto* heatmap = static_cast<const Element*>(call.heatmap);
    const PeakWorkspace<Key> workspace = peak_workspace<Key>(plan, memory);
    if (plan.tiles > 0) {
      launch(plan.staged && plan.reach == 1 ? scan_tiles<Element, true> : scan_tiles<Element, false>,
             static_cast<int>(plan.tiles), plan.threads, plan.shared_bytes, heatmap, plan, workspace);
    }
    launch(select_peaks<Element>, static_cast<int>(plan.batch * blocks_of_image(plan)), select_threads, 0, heatmap,
           call.logits, plan, workspace, static_cast<Element*>(call.score), call.label, call.index);
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
  // Kernels number cells of an image, and tiles, in 32 bits.
  STD_TORCH_CHECK(plan.cells_of_image() <= UINT32_MAX && plan.words_of_image <= INT32_MAX && plan.tiles <= INT32_MAX,
                  "topk_peaks: a heatmap of ", call.batch, " x ", call.labels, " x ", call.height, " x ", call.width,
                  " is too large for a GPU: give it parts of the labels, and merge their peaks");
  const int key_bytes = call.dtype == DType::float64 ? 8 : 4;
  const Tensor memory = fresh(like, {device::peak_workspace_size(plan, key_bytes)}, ScalarType::Long);
  run_topk_peaks(call, plan, address_of(memory), Launcher{*this, "topk_peaks"});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) { m.impl("topk_peaks", TORCH_BOX(&topk_peaks<PeaksOnGpu>)); }

}  // namespace mdn
