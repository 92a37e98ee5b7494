// Mirrors csrc/ops/scatter_points/cuda.cu.
#include "bindings.h"
#include "ops/scatter_points/cuda.cuh"
#include "views.h"

namespace {

using namespace cuda_on_cpu;

Tensor scatter_points(const Tensor& values, const Tensor& index, int64_t positions) {
  const Tensor from = values.contiguous();
  const py::tuple sorted = index.contiguous().object().attr("sort")(py::arg("dim") = -1, py::arg("stable") = true);
  const Tensor places(sorted[0], false), order(sorted[1], false);
  const Tensor maps = new_empty({values.size(0), values.size(1), positions}, values.dtype());
  maps.object().attr("zero_")();
  const mdn::ScatterCall call = {dtype_of_view(values.dtype()),
                                 from.data(),
                                 places.data<int64_t>(),
                                 order.data<int64_t>(),
                                 maps.data(),
                                 values.size(0) * values.size(1),
                                 values.size(1),
                                 values.size(2),
                                 positions};
  mdn::run_scatter_points(call, launch_here);
  return maps;
}

}  // namespace

CUDA_ON_CPU_BINDINGS { module.def("scatter_points", &scatter_points); }
