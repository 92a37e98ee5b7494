// Mirrors csrc/ops/gather_patches/cuda.cu.
#include "bindings.h"
#include "ops/gather_patches/cuda.cuh"
#include "views.h"

namespace {

using namespace cuda_on_cpu;
using mdn::device::PatchPlan;

PatchPlan plan_of(const Tensor& map, int64_t points, int64_t kernel_size) {
  const bool aligned = reinterpret_cast<uintptr_t>(map.data()) % 16 == 0;
  return mdn::device::patch_plan(
      {map.size(1), map.size(2), map.size(3), map.stride(0), map.stride(1), map.stride(2), map.stride(3)}, map.size(0),
      points, kernel_size, mdn::element_bytes(dtype_of_view(map.dtype())), aligned);
}

Tensor gather_patches(const Tensor& feature, const Tensor& index, int64_t kernel_size) {
  const Tensor cells = index.contiguous();
  const PatchPlan plan = plan_of(feature, index.size(1), kernel_size);
  const Tensor patches = new_empty({feature.size(0), index.size(1), plan.length}, feature.dtype());
  const mdn::PatchCall call = {dtype_of_view(feature.dtype()), feature.data(), cells.data<int64_t>(), patches.data()};
  mdn::run_gather_patches(call, plan, launch_here);
  return patches;
}

Tensor gather_patches_backward(const Tensor& grad_patches, const Tensor& index, const std::vector<int64_t>& size,
                               const std::vector<int64_t>& stride, int64_t kernel_size) {
  const Tensor patches = grad_patches.contiguous(), cells = index.contiguous();
  const Tensor gradient = new_empty_strided(size, stride, grad_patches.dtype());
  const mdn::PatchCall call = {dtype_of_view(gradient.dtype()), gradient.data(), cells.data<int64_t>(), patches.data()};
  mdn::run_gather_patches_backward(call, plan_of(gradient, index.size(1), kernel_size), gradient.numel(), launch_here);
  return gradient;
}

}  // namespace

CUDA_ON_CPU_BINDINGS {
  module.def("gather_patches", &gather_patches);
  module.def("gather_patches_backward", &gather_patches_backward);
}
