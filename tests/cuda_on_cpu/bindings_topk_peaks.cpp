// Mirrors csrc/ops/topk_peaks/cuda.cu.
#include "bindings.h"
#include "ops/topk_peaks/cuda.cuh"
#include "views.h"

namespace {

using namespace cuda_on_cpu;

std::tuple<Tensor, Tensor, Tensor> topk_peaks(const Tensor& map, int64_t k, int64_t kernel_size, bool logits) {
  const Tensor heatmap = map.contiguous();
  const int64_t batch = heatmap.size(0);
  const Tensor score = new_empty({batch, k}, heatmap.dtype());
  const Tensor label = new_empty({batch, k}, DType::int64);
  const Tensor index = new_empty({batch, k}, DType::int64);
  const mdn::DType dtype = dtype_of_view(heatmap.dtype());
  const mdn::device::PeakPlan plan = mdn::device::peak_plan(batch, heatmap.size(1), heatmap.size(2), heatmap.size(3), k,
                                                            kernel_size, mdn::element_bytes(dtype));
  const Tensor memory = new_empty({mdn::device::peak_workspace_size(plan)}, DType::int64);
  const mdn::PeakCall call = {dtype,        heatmap.data(),        logits,
                              score.data(), label.data<int64_t>(), index.data<int64_t>()};
  mdn::run_topk_peaks(call, plan, mdn::device::peak_workspace(plan, memory.data()), launch_here);
  return {score, label, index};
}

}  // namespace

CUDA_ON_CPU_BINDINGS { module.def("topk_peaks", &topk_peaks); }
