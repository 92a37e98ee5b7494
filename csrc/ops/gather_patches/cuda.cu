// gather_patches and its gradient on a GPU: outputs and launches. Nothing waits for the device.
#include "core/cuda/launch.h"
#include "ops/gather_patches/cuda.cuh"

namespace mdn {
namespace {

using device::PatchPlan;

PatchPlan plan_of(const Tensor& map, int64_t points, int64_t kernel_size) {
  STD_TORCH_CHECK(kernel_size <= 46340, "gather_patches: kernel_size must be at most 46340 on a GPU, got ",
                  kernel_size);
  STD_TORCH_CHECK(
      map.size(2) <= device::most_of_map && map.size(3) <= device::most_of_map && points <= device::most_of_map,
      "gather_patches: a map's height and width, and the points of an image, must be at most 2^30 on a "
      "GPU, got ",
      map.size(2), ", ", map.size(3), " and ", points);
  const bool aligned = reinterpret_cast<uintptr_t>(address_of(map)) % 16 == 0;
  return device::patch_plan(
      {map.size(1), map.size(2), map.size(3), map.stride(0), map.stride(1), map.stride(2), map.stride(3)}, map.size(0),
      points, kernel_size, element_bytes(dtype_of(map)), aligned);
}

Tensor gather_patches(Tensor feature, Tensor index, int64_t kernel_size) {
  const DeviceCall device(feature);
  const Tensor cells = torch::stable::contiguous(index);
  const PatchPlan plan = plan_of(feature, index.size(1), kernel_size);
  const Tensor patches = fresh(feature, {feature.size(0), index.size(1), plan.length}, feature.scalar_type());
  const PatchCall call = {dtype_of(feature), address_of(feature), data_of<const int64_t>(cells), address_of(patches)};
  run_gather_patches(call, plan, Launcher{device, "gather_patches"});
  return patches;
}

Tensor gather_patches_backward(Tensor grad_patches, Tensor index, std::vector<int64_t> size,
                               std::vector<int64_t> stride, int64_t kernel_size) {
  const DeviceCall device(grad_patches);
  const Tensor patches = torch::stable::contiguous(grad_patches), cells = torch::stable::contiguous(index);
  const Tensor gradient = fresh_strided(grad_patches, size, stride);
  const PatchCall call = {dtype_of(gradient), address_of(gradient), data_of<const int64_t>(cells), address_of(patches)};
  run_gather_patches_backward(call, plan_of(gradient, index.size(1), kernel_size), gradient.numel(),
                              Launcher{device, "gather_patches_backward"});
  return gradient;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) {
  m.impl("gather_patches", TORCH_BOX(&gather_patches));
  m.impl("gather_patches_backward", TORCH_BOX(&gather_patches_backward));
}

}  // namespace mdn
