// scatter_points on a GPU. Sorting the points is torch's.
#include <array>

#include "core/cuda/launch.h"
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

// (B, K, P), float32 or float64, zero but for values (B, K, N) added at index (B, N) in its order; -1 is padding.
Tensor scatter_points(Tensor values, Tensor index, int64_t positions) {
  const ScalarType dtype = values.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "mdnkernels::scatter_points: values must be float32 or float64");
  const DeviceCall device(values);
  const Tensor from = torch::stable::contiguous(values);
  const Sorted sorted = sort(torch::stable::contiguous(index));
  const Tensor maps = zeros(values, {values.size(0), values.size(1), positions});
  const ScatterCall call = {dtype_of(values),
                            address_of(from),
                            data_of<const int64_t>(sorted.values),
                            data_of<const int64_t>(sorted.order),
                            address_of(maps),
                            values.size(0) * values.size(1),
                            values.size(1),
                            values.size(2),
                            positions};
  run_scatter_points(call, Launcher{device, "scatter_points"});
  return maps;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) { m.impl("scatter_points", TORCH_BOX(&scatter_points)); }

}  // namespace mdn
