// gather_patches and its gradient on a GPU: launches. Nothing waits for the device.
#include "core/cuda/launch.h"
#include "ops/gather_patches/cuda.cuh"

namespace mdn {
namespace {

using device::PatchPlan;

PatchPlan plan_of(const PatchCall& call) {
  const MapView& map = call.map;
  const bool aligned = reinterpret_cast<uintptr_t>(map.data) % 16 == 0;
  return device::patch_plan(
      {map.channels, map.height, map.width, map.batch_stride, map.channel_stride, map.row_stride, map.column_stride},
      call.batch, call.points, call.kernel_size, element_bytes(map.dtype), aligned);
}

struct PatchesOnGpu : DeviceCall {
  using DeviceCall::DeviceCall;
  static void check(const Tensor& map, const Tensor& index, int64_t kernel_size);
  void gather(const PatchCall& call) const {
    run_gather_patches(call, plan_of(call), Launcher{*this, "gather_patches"});
  }
  void scatter(const PatchCall& call, const Tensor& gradient) const {
    run_gather_patches_backward(call, plan_of(call), gradient.numel(), Launcher{*this, "gather_patches_backward"});
  }
};

void PatchesOnGpu::check(const Tensor& map, const Tensor& index, int64_t kernel_size) {
  STD_TORCH_CHECK(kernel_size <= 46340, "gather_patches: kernel_size must be at most 46340 on a GPU, got ",
                  kernel_size);
  STD_TORCH_CHECK(
      map.size(2) <= device::most_of_map && map.size(3) <= device::most_of_map && index.size(1) <= device::most_of_map,
      "gather_patches: a map's height and width, and the points of an image, must be at most 2^30 on a "
      "GPU, got ",
      map.size(2), ", ", map.size(3), " and ", index.size(1));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) {
  m.impl("gather_patches", TORCH_BOX(&gather_patches<PatchesOnGpu>));
  m.impl("gather_patches_backward", TORCH_BOX(&gather_patches_backward<PatchesOnGpu>));
}

}  // namespace mdn
