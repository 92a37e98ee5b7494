// heatmap_focal_loss on a GPU: outputs, workspace and launches. Nothing waits for the device.
#include <tuple>

#include "core/cuda/launch.h"
#include "ops/heatmap_focal_loss/cuda.cuh"

namespace mdn {
namespace {

std::tuple<Tensor, Tensor> heatmap_focal_loss(Tensor logits, Tensor target, double alpha, double beta,
                                              bool logits_gradient) {
  const DeviceCall device(logits);
  const ScalarType accumulate = arithmetic_of(logits);
  const Tensor loss = fresh(logits, {}, accumulate);
  const Tensor gradient = logits_gradient ? fresh_like(logits) : fresh(logits, {0}, logits.scalar_type());
  const device::FocalPlan plan = {logits.numel(), alpha, beta};
  const Tensor memory = fresh(logits, {device::focal_workspace_size(plan)}, ScalarType::Double);
  const FocalCall call = {dtype_of(logits),
                          dtype_of(target),
                          address_of(logits),
                          address_of(target),
                          logits_gradient ? address_of(gradient) : nullptr,
                          address_of(loss)};
  run_focal_loss(call, plan, device::focal_workspace(plan, address_of(memory)), Launcher{device, "heatmap_focal_loss"});
  return {loss, gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) { m.impl("heatmap_focal_loss", TORCH_BOX(&heatmap_focal_loss)); }

}  // namespace mdn
