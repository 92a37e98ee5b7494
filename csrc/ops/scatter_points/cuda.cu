// scatter_points on a GPU. Sorting the points is torch's.
#include <array>

#include "core/cuda/launch.h"
#include "ops/scatter_points/call.h"
#include "ops/scatter_points/cuda.cuh"

namespace mdn {
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
