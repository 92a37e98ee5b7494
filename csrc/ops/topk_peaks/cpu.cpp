// topk_peaks on the CPU.
//
// Memory story: each cell is read once, in rows, against the k-th best peak that its thread has found so far. Only a
// cell above it has its window looked at, and only a peak enters the thread's heap of k. No map is written. The heaps
// hold the best k by one total order (score, label, index), so that merging them gives the same result for any cut into
// threads.
#include "ops/topk_peaks/cpu.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <type_traits>
#include <vector>

#include "core/cpu/elements.h"
#include "core/cpu/simd_level.h"
#include "core/cpu/tensors.h"
#include "ops/topk_peaks/call.h"

namespace mdn {
namespace {

template <class T>
struct Candidate {
  T value;
  int64_t cell;  // label * H * W + index
};

template <class T>
bool better(const Candidate<T>& a, const Candidate<T>& b) {
  return a.value > b.value || (a.value == b.value && a.cell < b.cell);
}

// The best k candidates of one image, the worst of them on top.
template <class T>
class Best {
 public:
  explicit Best(size_t k) : k_(k) {}
  bool full() const { return heap_.size() == k_; }
  // Cells arrive in rising order, so one that equals the worst is not better.
  T threshold() const { return heap_.front().value; }
  void add(Candidate<T> candidate) {
    if (full()) {
      if (!better(candidate, heap_.front())) return;
      std::pop_heap(heap_.begin(), heap_.end(), better<T>);
      heap_.pop_back();
    }
    heap_.push_back(candidate);
    std::push_heap(heap_.begin(), heap_.end(), better<T>);
  }
  const std::vector<Candidate<T>>& candidates() const { return heap_; }

 private:
  size_t k_;
  std::vector<Candidate<T>> heap_;
};

template <class T, class Storage>
struct Scan {
  const Storage* data;  // (B, Y, H, W), contiguous
  int64_t labels, height, width, reach;
  int64_t (*next_above)(const T*, int64_t, int64_t, T);

  T at(int64_t plane, int64_t y, int64_t x) const {
    T value;
    baseline::convert(data[(plane * height + y) * width + x], value);
    return value;
  }

  bool is_peak(int64_t plane, int64_t y, int64_t x, T value) const {
    for (int64_t v = std::max<int64_t>(y - reach, 0); v <= std::min(y + reach, height - 1); ++v) {
      for (int64_t u = std::max<int64_t>(x - reach, 0); u <= std::min(x + reach, width - 1); ++u) {
        if (!(at(plane, v, u) <= value)) return false;  // also false beside a NaN, and for one
      }
    }
    return true;
  }

  // Row `row` of all rows (B * Y * H).
  void row(int64_t row, std::vector<T>& buffer, Best<T>& best) const {
    const int64_t plane = row / height, y = row % height;
    const int64_t first_cell = ((plane % labels) * height + y) * width;
    const T* values;
    if constexpr (std::is_same_v<T, Storage>) {
      values = data + row * width;
    } else {
      for (int64_t x = 0; x < width; ++x) baseline::convert(data[row * width + x], buffer[x]);
      values = buffer.data();
    }
    for (int64_t x = 0; x < width; ++x) {
      if (best.full()) x = next_above(values, x, width, best.threshold());
      if (x < width && is_peak(plane, y, x, values[x])) best.add({values[x], first_cell + x});
    }
  }
};

// The rows of all images, cut over threads; each image's candidates, then its best k.
template <class T, class Storage>
void find_peaks(const PeakCall& call, int64_t (*next_above)(const T*, int64_t, int64_t, T)) {
  const Scan<T, Storage> scan = {static_cast<const Storage*>(call.heatmap),
                                 call.labels,
                                 call.height,
                                 call.width,
                                 call.kernel_size / 2,
                                 next_above};
  Storage* score = static_cast<Storage*>(call.score);
  const int64_t cells = scan.height * scan.width, rows = scan.labels * scan.height;
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(scan.width, 1));
  const size_t kept = static_cast<size_t>(std::min(call.k, scan.labels * cells));
  std::vector<std::vector<Candidate<T>>> found(call.batch);
  std::mutex lock;
  // A range a thread, and no turns: each range keeps its own k best, and has to find anew how high they begin.
  torch::stable::parallel_for(0, call.batch * rows, grain, [&](int64_t begin, int64_t end) {
    std::vector<T> buffer(std::is_same_v<T, Storage> ? 0 : scan.width);
    while (begin < end) {
      const int64_t image = begin / rows, stop = std::min(end, (image + 1) * rows);
      Best<T> best(kept);
      for (; begin < stop; ++begin) scan.row(begin, buffer, best);
      const std::lock_guard<std::mutex> guard(lock);
      found[image].insert(found[image].end(), best.candidates().begin(), best.candidates().end());
    }
  });
  for (int64_t image = 0; image < call.batch; ++image) {
    auto& candidates = found[image];
    std::sort(candidates.begin(), candidates.end(), better<T>);
    for (int64_t i = 0; i < call.k; ++i) {
      const bool real = i < static_cast<int64_t>(std::min(candidates.size(), kept));
      const T value = real ? candidates[i].value : T(0);
      baseline::convert(!real ? T(0) : call.logits ? 1 / (1 + std::exp(-value)) : value, score[image * call.k + i]);
      call.label[image * call.k + i] = real ? candidates[i].cell / cells : -1;
      call.index[image * call.k + i] = real ? candidates[i].cell % cells : -1;
    }
  }
}

struct PeaksOnCpu : CpuCall {
  using CpuCall::CpuCall;
  static void run(const PeakCall& call, const Tensor&);
};

void PeaksOnCpu::run(const PeakCall& call, const Tensor&) {
  const PeakKernel& kernel = MDN_AT_SIMD_LEVEL(peak_kernel);
  switch (call.dtype) {
    case DType::float64:
      return find_peaks<double, double>(call, kernel.next_above_double);
    case DType::bfloat16:
      return find_peaks<float, BFloat16>(call, kernel.next_above_float);
    case DType::float16:
      return find_peaks<float, Float16>(call, kernel.next_above_float);
    default:
      return find_peaks<float, float>(call, kernel.next_above_float);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mdnkernels, m) { m.def(topk_peaks_schema); }
STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CPU, m) { m.impl("topk_peaks", TORCH_BOX(&topk_peaks<PeaksOnCpu>)); }

}  // namespace mdn
