// scatter_points as csrc/cuda/scatter_points.cu launches it.
#include "bindings.h"
#include "cuda/scatter_points.cuh"

namespace {

using namespace cuda_on_cpu;

Tensor scatter_points(const Tensor& values, const Tensor& index, int64_t positions) {
  const Tensor from = values.contiguous();
  const py::tuple sorted = index.contiguous().object().attr("sort")(py::arg("dim") = -1, py::arg("stable") = true);
  const Tensor places(sorted[0], false), order(sorted[1], false);
  const Tensor maps = new_empty({values.size(0), values.size(1), positions}, values.dtype());
  maps.object().attr("zero_")();
  mdn::ScatterCall call = {};
  call.values = from.data();
  call.sorted = places.data<int64_t>();
  call.order = order.data<int64_t>();
  call.maps = maps.data();
  call.rows = values.size(0) * values.size(1);
  call.channels = values.size(1);
  call.count = values.size(2);
  call.positions = positions;
  if (call.rows * call.count == 0) return maps;
  const auto kernel =
      values.dtype() == DType::float64 ? mdn::device::scatter_points<double> : mdn::device::scatter_points<float>;
  launch(kernel, static_cast<unsigned>(mdn::scatter_blocks(call)), mdn::scatter_threads, 0, call);
  return maps;
}

}  // namespace

CUDA_ON_CPU_BINDINGS { module.def("scatter_points", &scatter_points); }
