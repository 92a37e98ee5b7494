// topk_peaks on a GPU: outputs, workspace and launches. Nothing waits for the device.
#include <tuple>

#include "core/cuda/launch.h"
#include "ops/topk_peaks/cuda.cuh"

namespace mdn {
namespace {

std::tuple<Tensor, Tensor, Tensor> topk_peaks(Tensor map, int64_t k, int64_t kernel_size, bool logits) {
  const DeviceCall device(map);
  const Tensor heatmap = torch::stable::contiguous(map);
  const int64_t batch = heatmap.size(0);
  const Tensor score = fresh(heatmap, {batch, k}, heatmap.scalar_type());
  const Tensor label = fresh(heatmap, {batch, k}, ScalarType::Long);
  const Tensor index = fresh(heatmap, {batch, k}, ScalarType::Long);

  const DType dtype = dtype_of(heatmap);
  const device::PeakPlan plan =
      device::peak_plan(batch, heatmap.size(1), heatmap.size(2), heatmap.size(3), k, kernel_size, element_bytes(dtype));
  const Tensor memory = fresh(heatmap, {device::peak_workspace_size(plan)}, ScalarType::Long);
  const PeakCall call = {
      dtype, address_of(heatmap), logits, address_of(score), data_of<int64_t>(label), data_of<int64_t>(index)};
  run_topk_peaks(call, plan, device::peak_workspace(plan, address_of(memory)), Launcher{device, "topk_peaks"});
  return {score, label, index};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) { m.impl("topk_peaks", TORCH_BOX(&topk_peaks)); }

}  // namespace mdn
