// splat_gaussians on a GPU: the output and the launch. Nothing waits for the device.
#include "core/cuda/launch.h"
#include "ops/splat_gaussians/cuda.cuh"

namespace mdn {
namespace {

Tensor splat_gaussians(Tensor center, Tensor radius, Tensor label, int64_t labels, int64_t height, int64_t width) {
  const DeviceCall device(label);
  const Tensor centers = torch::stable::contiguous(center), radii = torch::stable::contiguous(radius);
  const Tensor label_of_objects = torch::stable::contiguous(label);
  const Tensor heatmap = fresh(label, {label.size(0), labels, height, width}, ScalarType::Float);
  const device::SplatObjects objects = {data_of<const int64_t>(centers), data_of<const int64_t>(radii),
                                        data_of<const int64_t>(label_of_objects)};
  run_splat_gaussians(objects, device::splat_plan(label.size(0), label.size(1), labels, height, width),
                      data_of<float>(heatmap), Launcher{device, "splat_gaussians"});
  return heatmap;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) { m.impl("splat_gaussians", TORCH_BOX(&splat_gaussians)); }

}  // namespace mdn
