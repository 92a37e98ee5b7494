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

constexpr int select_threads = 512;
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

// How windows are looked at: those of 3 x 3 in a staged tile, where the plan is aligned and else, and all others.
enum class Windows { neighbours_aligned, neighbours, any };

template <class Element, Windows windows>
__global__ void __launch_bounds__(scan_threads, sizeof(Element) == 8 ? 2 : 4)
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
      if constexpr (windows != Windows::any) {
        peaks = peaks_of_neighbours<windows == Windows::neighbours_aligned>(rows, strip, inside);
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
};
template <>
struct OrderOf<double> {
  using Type = LongOrder;
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

// A number that a radix selection found: `above` reach more, `above` + `within` reach it.
template <class Word>
struct Floor {
  Word value;
  unsigned above, within;
};

// One block at work on its peaks of an image. A member function is called by all threads, and barriers stand within.
template <class Element>
class PeakSelection {
  using T = typename ArithmeticOf<Element>::Type;
  using Key = typename KeyOf<T>::Type;
  using Order = typename OrderOf<Element>::Type;
  static constexpr int at_once = 4, peaks_at_once = 8;  // loads of a thread that are under way together

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
  MDN_ON_DEVICE static Key key_in(Order order) { return static_cast<Key>(order >> 32); }
  MDN_ON_DEVICE Order order_of(Key key, uint32_t cell) const { return Order(key) << 32 | Order(last_cell_ - cell); }

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

  // Calls use(group, key) for the groups of [begin, end), key 0 where a group has no peak.
  template <class Use>
  MDN_ON_DEVICE void over_groups(int begin, int end, Use use) const {
    for (int first = begin + static_cast<int>(threadIdx.x); first < end; first += at_once * select_threads) {
      const Key* best = best_ + first;
      Key keys[at_once];
#pragma unroll
      for (int j = 0; j < at_once; ++j) {
        if (first + j * select_threads < end) keys[j] = load_global(best + j * select_threads);
      }
#pragma unroll
      for (int j = 0; j < at_once; ++j) {
        if (first + j * select_threads < end) use(first + j * select_threads, keys[j]);
      }
    }
  }

  // The largest number with few digits that at least `wanted` of the words that visit(use) hands to use(word) reach,
  // and not more than `most` where that can be; 0 where there are not so many. The words begin with what `known` has
  // from bit `bits` on.
  template <class Word, class Visit>
  MDN_ON_DEVICE Floor<Word> find_floor(Word known, int bits, unsigned wanted, unsigned most, Visit visit) {
    constexpr int digit_bits = 8;
    const int thread = threadIdx.x;
    Floor<Word> floor = {known, 0, 0};
    for (int shift = bits - digit_bits; shift >= 0; shift -= digit_bits) {
      if (thread < digits) memory_.histogram[thread] = 0;
      __syncthreads();
      visit([&](Word word) {
        // In two steps, as no shift may be by all bits.
        if ((word ^ floor.value) >> shift >> digit_bits != 0) return;
        atomicAdd(&memory_.histogram[static_cast<int>(static_cast<unsigned>(word >> shift) % digits)], 1u);
      });
      __syncthreads();
      if (thread < warp_lanes) find_boundary(memory_.histogram, wanted - floor.above, memory_.boundary);
      __syncthreads();
      const Boundary at = memory_.boundary[0];
      if (at.within == 0) return {};
      floor.above += at.above;
      floor.within = at.within;
      floor.value |= static_cast<Word>(at.digit) << shift;
      if (floor.above + floor.within <= most) break;
    }
    return floor;
  }

  // The same of orders: of their keys, and then, where too many have the same key, of what stands behind it.
  // visit_keys(use) and visit_places(key, use) hand them out.
  template <class VisitKeys, class VisitPlaces>
  MDN_ON_DEVICE Order find_order(Floor<Key> keys, int key_bits, unsigned wanted, unsigned most, VisitKeys visit_keys,
                                 VisitPlaces visit_places) {
    if (key_bits > 0) keys = find_floor<Key>(keys.value, key_bits, wanted, most, visit_keys);
    if (keys.value == 0) return 0;
    const Order floor = Order(keys.value) << 32;
    if (key_bits > 0 && keys.above + keys.within <= most) return floor;
    const Floor<uint32_t> places = find_floor<uint32_t>(0, 32, wanted - keys.above, most - keys.above,
                                                        [&](auto use) { visit_places(keys.value, use); });
    return floor | places.value;
  }

  // A number that `wanted` peaks reach, each of another group.
  MDN_ON_DEVICE Order floor_of_groups(unsigned wanted) {
    if (wanted > static_cast<unsigned>(groups_)) return 0;
    return find_order(
        {}, 8 * static_cast<int>(sizeof(Key)), wanted, wanted + wanted / 4,
        [&](auto use) { over_groups(0, groups_, [&](int, Key key) { use(key); }); },
        [&](Key wanted_key, auto use) {
          over_groups(0, groups_, [&](int group, Key key) {
            if (key == wanted_key) use(last_cell_ - last_cell(group));
          });
        });
  }

  // The same of the peaks in [floor, ceiling).
  MDN_ON_DEVICE Order floor_of_peaks(Order floor, Order ceiling, unsigned wanted, unsigned most) {
    // Where all have one key, as on plateaus, only their places are to be looked at.
    const Key least = key_in(floor);
    const bool equal = least != 0 && __syncthreads_or(any_group_above(least) && key_in(ceiling) > least) == 0;
    return find_order(
        {least, 0, 0}, equal ? 0 : 8 * static_cast<int>(sizeof(Key)), wanted, most,
        [&](auto use) { over_peaks(floor, ceiling, [&](Order order) { use(key_in(order)); }); },
        [&](Key key, auto use) {
          over_peaks(floor, ceiling, [&](Order order) {
            if (key_in(order) == key) use(static_cast<uint32_t>(order));
          });
        });
  }

  // Whether this thread sees a group with a key above that one.
  MDN_ON_DEVICE bool any_group_above(Key key) const {
    bool any = false;
    over_groups(0, groups_, [&](int, Key best) { any |= best > key; });
    return any;
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
    const Key least = key_in(floor);
    for (int begin = 0; begin < groups_; begin += listed_groups) {
      __syncthreads();
      if (thread == 0) memory_.counts[1] = 0;
      __syncthreads();
      over_groups(begin, min(begin + listed_groups, groups_), [&](int group, Key key) {
        if (key < least || key == 0 || (key == least && order_of(key, first_cell(group)) < floor)) return;
        const unsigned slot = atomicAdd(&memory_.counts[1], 1u);
        memory_.groups[static_cast<int>(slot)] = static_cast<unsigned short>(group - begin);
      });
      __syncthreads();
      const int words = static_cast<int>(static_cast<unsigned>(memory_.counts[1])) * group_threads;
      for (int i = thread; i < words; i += select_threads) {
        const unsigned short listed = memory_.groups[static_cast<int>(static_cast<unsigned>(i) / group_threads)];
        over_word((begin + listed) * group_threads + i % group_threads, floor, ceiling, use);
      }
    }
  }

  // The peaks among the cells of one word. Several are read at once, as each comes from afar.
  template <class Use>
  MDN_ON_DEVICE void over_word(int word, Order floor, Order ceiling, Use use) const {
    uint32_t peaks = load_global(peaks_ + word);
    const Key least = key_in(floor);
    const Strip strip = strip_of_word(word);
    const uint32_t first = cell_at(strip.plane, strip.y, strip.x);
    while (peaks != 0) {
      uint32_t cells[peaks_at_once];
      Key keys[peaks_at_once];
#pragma unroll
      for (int j = 0; j < peaks_at_once; ++j) {
        const auto i = static_cast<uint32_t>(__ffs(static_cast<int>(peaks)) - 1);
        cells[j] = first + i / strip_columns * static_cast<uint32_t>(plan_.width) + i % strip_columns;
        keys[j] = 0;
        if (peaks != 0) keys[j] = key_of(to_number(load_global(heatmap_ + cells[j])));
        peaks &= peaks - 1;
      }
#pragma unroll
      for (int j = 0; j < peaks_at_once; ++j) {
        if (keys[j] < least || keys[j] == 0) continue;
        const Order order = order_of(keys[j], cells[j]);
        if (order >= floor && order < ceiling) use(order);
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
__global__ void __launch_bounds__(select_threads, 1)
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

  int sorted = 0;  // where the list in order begins
  if (count <= most_ranked_by_all) {
    sorted = most_ranked_by_all;
    constexpr int team = 4;  // threads, which share the others
    for (int first_of_all = 0; first_of_all < count; first_of_all += select_threads / team) {
      const int i = first_of_all + thread / team;
      const Order order = i < count ? memory.peaks[i] : Order(0);
      unsigned before = 0;
      for (int j = thread % team; j < count; j += team) {
        const Order other = memory.peaks[j];
        before += other > order;
      }
      for (int step = 1; step < team; step *= 2) before += __shfl_xor_sync(all_lanes, before, step);
      if (i < count && thread % team == 0) memory.peaks[sorted + static_cast<int>(before)] = order;
    }
    __syncthreads();
  } else {
    sort_descending(memory.peaks, count);
  }

  const int64_t to = image * plan.k + first;
  const auto area = static_cast<uint32_t>(plan.cells_of_plane());
  for (int rank = thread; rank < min(count, static_cast<int>(wanted)); rank += select_threads) {
    const uint32_t cell = selection.cell_of(memory.peaks[sorted + rank]), plane = cell / area;
    const Element value = load_global(heatmap + image * plan.cells_of_image() + cell);
    store_global(score + to + rank, score_of(value, logits));
    store_global(label + to + rank, static_cast<int64_t>(plane));
    store_global(index + to + rank, static_cast<int64_t>(cell - plane * area));
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
      auto* kernel = scan_tiles<Element, Windows::any>;
      if (plan.staged && plan.reach == 1) {
        kernel =
            plan.aligned ? scan_tiles<Element, Windows::neighbours_aligned> : scan_tiles<Element, Windows::neighbours>;
      }
      launch(kernel, static_cast<int>(plan.tiles), plan.threads, plan.shared_bytes, heatmap, plan, workspace);
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
  const device::PeakPlan plan = device::peak_plan(call.heatmap, call.batch, call.labels, call.height, call.width,
                                                  call.k, call.kernel_size, element_bytes(call.dtype));
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
