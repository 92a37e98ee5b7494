// Values of points added into maps, in the order of the points: no atomic adds, so the same bits every time.
//
// Points of one position form a chain in their order, and the thread of its first point adds up the whole chain. Up to
// 1024 points an image, a block finds the chains itself: it hashes its image's points into buckets in shared memory,
// and looks for those of the same position within each bucket alone. More points come sorted by where they go. The maps
// were zeroed before; nothing of them but these positions is touched.
#include <array>

#include "core/cuda/device.cuh"
#include "core/cuda/launch.h"
#include "core/view.h"
#include "ops/scatter_points/call.h"

namespace mdn {

struct ScatterCall {
  DType dtype;           // of values and maps, float32 or float64
  const void* values;    // (batch, channels, count), contiguous
  const int64_t* index;  // (batch, count), contiguous: where the points go; -1 is padding
  void* maps;            // (batch, channels, positions), contiguous
  int64_t batch, channels, count, positions;
};

constexpr int scatter_threads = 256;
constexpr int most_hashed_points = 1024;
constexpr int most_buckets = 2 * most_hashed_points;

// How a launch without a sort is cut into blocks: each has some channels of one image.
struct ScatterPlan {
  int channels;       // of a block
  int bucket_shift;   // of a 32-bit hash, to a bucket
  Divisor by_blocks;  // of an image
  Divisor by_count;   // points
  MDN_ON_BOTH int buckets() const { return static_cast<int>(uint32_t(1) << (32 - bucket_shift)); }
};

inline ScatterPlan scatter_plan(const ScatterCall& call) {
  ScatterPlan plan = {};
  const int64_t share = 2 * scatter_threads / call.count;  // two values a thread
  plan.channels = static_cast<int>(share < 4 ? 4 : share);
  plan.bucket_shift = 32 - 5;
  while (plan.buckets() < 2 * call.count) --plan.bucket_shift;
  plan.by_blocks = Divisor(static_cast<int>((call.channels + plan.channels - 1) / plan.channels));
  plan.by_count = Divisor(static_cast<int>(call.count));
  return plan;
}

namespace device {

template <class T>
__global__ void __launch_bounds__(scatter_threads)
    add_points(const __grid_constant__ ScatterCall call, const __grid_constant__ ScatterPlan plan) {
  __shared__ SharedArray<int64_t, most_hashed_points> positions;
  __shared__ SharedArray<int, most_buckets> last_in_bucket;          // the point that came last, -1 where none did
  __shared__ SharedArray<int, most_hashed_points> before_in_bucket;  // the point that came before this one, or -1
  __shared__ SharedArray<int, most_hashed_points> next;              // the next point of the same position, or -1
  __shared__ SharedArray<bool, most_hashed_points> is_first;
  const int thread = threadIdx.x, count = static_cast<int>(call.count);
  const int image = quotient(static_cast<int>(blockIdx.x), plan.by_blocks);
  const int first_channel =
      (static_cast<int>(blockIdx.x) - image * static_cast<int>(plan.by_blocks.divisor)) * plan.channels;
  const int64_t* index = call.index + image * call.count;
  const auto bucket_of = [&](int64_t position) {
    return static_cast<int>(static_cast<uint32_t>(position) * 2654435769u >> plan.bucket_shift);
  };

  for (int i = thread; i < plan.buckets(); i += scatter_threads) last_in_bucket[i] = -1;
  __syncthreads();
  for (int n = thread; n < count; n += scatter_threads) {
    const int64_t position = load_global(index + n);
    positions[n] = position;
    if (position >= 0) before_in_bucket[n] = atomicExch(&last_in_bucket[bucket_of(position)], n);
  }
  __syncthreads();
  // The order within a bucket is another each time; which points it has, and so what is found of them, is not.
  for (int n = thread; n < count; n += scatter_threads) {
    const int64_t position = positions[n];
    int following = -1;
    bool first = position >= 0;
    if (first) {
      for (int other = last_in_bucket[bucket_of(position)]; other >= 0; other = before_in_bucket[other]) {
        const int64_t there = positions[other];
        if (there != position) continue;
        if (other < n) first = false;
        if (other > n && (following < 0 || other < following)) following = other;
      }
    }
    next[n] = following;
    is_first[n] = first;
  }
  __syncthreads();

  const int channels = static_cast<int>(min(int64_t(plan.channels), call.channels - first_channel));
  const int64_t first_row = image * call.channels + first_channel;
  const T* values = static_cast<const T*>(call.values) + first_row * call.count;
  T* maps = static_cast<T*>(call.maps) + first_row * call.positions;
  for (int i = thread; i < channels * count; i += scatter_threads) {
    const int channel = quotient(i, plan.by_count), n = i - channel * count;
    const bool first = is_first[n];
    if (!first) continue;
    T sum = 0;
    for (int point = n; point >= 0; point = next[point]) sum += load_global(values + channel * count + point);
    const int64_t position = positions[n];
    store_global(maps + channel * call.positions + position, sum);
  }
}

// The points come sorted by where they go, those of one position in their own order: `call.index` is ascending, and
// `order` says which points they are.
template <class T>
__global__ void __launch_bounds__(scatter_threads)
    add_sorted_points(const __grid_constant__ ScatterCall call, const int64_t* order) {
  const int64_t thread = blockIdx.x * int64_t(scatter_threads) + threadIdx.x;
  const int64_t row = thread / call.count, at = thread - row * call.count;
  if (row >= call.batch * call.channels) return;
  const int64_t* sorted = call.index + row / call.channels * call.count;
  order += row / call.channels * call.count;
  const int64_t position = load_global(sorted + at);
  if (position < 0 || (at > 0 && load_global(sorted + at - 1) == position)) return;
  const T* values = static_cast<const T*>(call.values) + row * call.count;
  T sum = 0;
  for (int64_t i = at; i < call.count && load_global(sorted + i) == position; ++i) {
    sum += load_global(values + load_global(order + i));
  }
  store_global(static_cast<T*>(call.maps) + row * call.positions + position, sum);
}

}  // namespace device

// launch(kernel, blocks, threads, bytes of shared memory, arguments...).
template <class Launch>
void run_scatter_points(const ScatterCall& call, Launch launch) {
  const ScatterPlan plan = scatter_plan(call);
  const bool in_double = call.dtype == DType::float64;
  launch(in_double ? device::add_points<double> : device::add_points<float>,
         static_cast<int>(call.batch * plan.by_blocks.divisor), scatter_threads, 0, call, plan);
}

template <class Launch>
void run_scatter_sorted_points(const ScatterCall& call, const int64_t* order, Launch launch) {
  const int64_t blocks = (call.batch * call.channels * call.count + scatter_threads - 1) / scatter_threads;
  const bool in_double = call.dtype == DType::float64;
  launch(in_double ? device::add_sorted_points<double> : device::add_sorted_points<float>, static_cast<int>(blocks),
         scatter_threads, 0, call, order);
}

namespace {

struct Sorted {
  Tensor values, order;
};

// A stable sort along the last dimension, ascending.
Sorted sort(const Tensor& index) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::array<StableIValue, 4> stack{from(index), from(std::optional<bool>(true)), from(int64_t(-1)), from(false)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
}

struct ScatterOnGpu : DeviceCall {
  using DeviceCall::DeviceCall;
  void run(const Tensor& values, const Tensor& index, const Tensor& maps) const {
    if (values.numel() == 0) return;
    ScatterCall call = {dtype_of(values), address_of(values), data_of<const int64_t>(index),
                        address_of(maps), values.size(0),     values.size(1),
                        values.size(2),   maps.size(2)};
    const Launcher launcher{*this, "scatter_points"};
    if (call.count <= most_hashed_points) return run_scatter_points(call, launcher);
    const Sorted sorted = sort(index);
    call.index = data_of<const int64_t>(sorted.values);
    run_scatter_sorted_points(call, data_of<const int64_t>(sorted.order), launcher);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) { m.impl("scatter_points", TORCH_BOX(&scatter_points<ScatterOnGpu>)); }

}  // namespace mdn
