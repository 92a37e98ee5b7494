// Mirrors csrc/ops/heatmap_focal_loss/cuda.cu.
#include "bindings.h"
#include "ops/heatmap_focal_loss/cuda.cuh"
#include "views.h"

namespace {

using namespace cuda_on_cpu;

std::tuple<Tensor, Tensor> heatmap_focal_loss(const Tensor& logits, const Tensor& target, double alpha, double beta,
                                              bool logits_gradient) {
  const bool in_double = logits.dtype() == DType::float64;
  const Tensor loss = new_empty({}, in_double ? DType::float64 : DType::float32);
  const Tensor gradient = logits_gradient ? new_empty_like(logits) : new_empty({0}, logits.dtype());
  const mdn::device::FocalPlan plan = {logits.numel(), alpha, beta};
  const Tensor memory = new_empty({mdn::device::focal_workspace_size(plan)}, DType::float64);
  const mdn::FocalCall call = {dtype_of_view(logits.dtype()),
                               dtype_of_view(target.dtype()),
                               logits.data(),
                               target.data(),
                               logits_gradient ? gradient.data() : nullptr,
                               loss.data()};
  mdn::run_focal_loss(call, plan, mdn::device::focal_workspace(plan, memory.data()), launch_here);
  return {loss, gradient};
}

}  // namespace

CUDA_ON_CPU_BINDINGS { module.def("heatmap_focal_loss", &heatmap_focal_loss); }
