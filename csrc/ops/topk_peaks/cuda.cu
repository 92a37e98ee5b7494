// topk_peaks on a GPU: workspace and launches. Nothing waits for the device.
#include "core/cuda/launch.h"
#include "ops/topk_peaks/cuda.cuh"

namespace mdn {
namespace {

struct PeaksOnGpu : DeviceCall {
  using DeviceCall::DeviceCall;
  void run(const PeakCall& call, const Tensor& like) const;
};

void PeaksOnGpu::run(const PeakCall& call, const Tensor& like) const {
  const device::PeakPlan plan = device::peak_plan(call.batch, call.labels, call.height, call.width, call.k,
                                                  call.kernel_size, element_bytes(call.dtype));
  const Tensor memory = fresh(like, {device::peak_workspace_size(plan)}, ScalarType::Long);
  run_topk_peaks(call, plan, device::peak_workspace(plan, address_of(memory)), Launcher{*this, "topk_peaks"});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) { m.impl("topk_peaks", TORCH_BOX(&topk_peaks<PeaksOnGpu>)); }

}  // namespace mdn
