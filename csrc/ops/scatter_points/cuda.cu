// Values of points added into maps, in the order of the points: no atomic, so the same bits every time.
//
// The points come sorted by where they go, those of one position in their own order: the thread of the first adds up
// all of them. The maps were zeroed before; nothing of them but these positions is touched.
#include <array>

#include "core/cuda/device.cuh"
#include "core/cuda/launch.h"
#include "core/view.h"
#include "ops/scatter_points/call.h"

namespace mdn {

struct ScatterCall {
  DType dtype;            // of values and maps, float32 or float64
  const void* values;     // (rows, count), contiguous
  const int64_t* sorted;  // (rows / channels, count), contiguous: where the points go, ascending; -1 is padding
  const int64_t* order;   // of the same shape: which points they are
  void* maps;             // (rows, positions), contiguous
  int64_t rows, channels, count, positions;
};

constexpr int scatter_threads = 256;

namespace device {

template <class T>
__global__ void __launch_bounds__(scatter_threads) scatter_points(const __grid_constant__ ScatterCall call) {
  const int64_t thread = blockIdx.x * int64_t(scatter_threads) + threadIdx.x;
  const int64_t row = thread / call.count, at = thread - row * call.count;
  if (row >= call.rows) return;
  const int64_t* sorted = call.sorted + row / call.channels * call.count;
  const int64_t* order = call.order + row / call.channels * call.count;
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
  const int64_t blocks = (call.rows * call.count + scatter_threads - 1) / scatter_threads;
  if (blocks == 0) return;
  const bool in_double = call.dtype == DType::float64;
  launch(in_double ? device::scatter_points<double> : device::scatter_points<float>, static_cast<int>(blocks),
         scatter_threads, 0, call);
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
    const Sorted sorted = sort(index);
    const ScatterCall call = {dtype_of(values),
                              address_of(values),
                              data_of<const int64_t>(sorted.values),
                              data_of<const int64_t>(sorted.order),
                              address_of(maps),
                              values.size(0) * values.size(1),
                              values.size(1),
                              values.size(2),
                              maps.size(2)};
    run_scatter_points(call, Launcher{*this, "scatter_points"});
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) { m.impl("scatter_points", TORCH_BOX(&scatter_points<ScatterOnGpu>)); }

}  // namespace mdn
