// heatmap_focal_loss on a GPU: workspace and launches. Nothing waits for the device.
#include "core/cuda/launch.h"
#include "ops/heatmap_focal_loss/call.h"
#include "ops/heatmap_focal_loss/cuda.cuh"

namespace mdn {
namespace {

struct FocalOnGpu : DeviceCall {
  using DeviceCall::DeviceCall;
  using Call = FocalCall;
  void run(Call& call, const Tensor& loss) const;
};

void FocalOnGpu::run(Call& call, const Tensor& loss) const {
  call.loss = address_of(loss);
  const device::FocalPlan plan = {call.count, call.alpha, call.beta};
  const Tensor memory = fresh(loss, {device::focal_workspace_size(plan)}, ScalarType::Double);
  run_focal_loss(call, plan, device::focal_workspace(plan, address_of(memory)), Launcher{*this, "heatmap_focal_loss"});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) {
  m.impl("heatmap_focal_loss", TORCH_BOX(&heatmap_focal_loss<FocalOnGpu>));
}

}  // namespace mdn
