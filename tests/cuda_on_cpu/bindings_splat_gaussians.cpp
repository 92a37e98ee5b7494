// Mirrors csrc/ops/splat_gaussians/cuda.cu.
#include "bindings.h"
#include "ops/splat_gaussians/cuda.cuh"
#include "views.h"

namespace {

using namespace cuda_on_cpu;

Tensor splat_gaussians(const Tensor& center, const Tensor& radius, const Tensor& label, int64_t labels, int64_t height,
                       int64_t width) {
  const Tensor centers = center.contiguous(), radii = radius.contiguous(), label_of_objects = label.contiguous();
  const Tensor heatmap = new_empty({label.size(0), labels, height, width}, DType::float32);
  const mdn::device::SplatObjects objects = {centers.data<int64_t>(), radii.data<int64_t>(),
                                             label_of_objects.data<int64_t>()};
  mdn::run_splat_gaussians(objects, mdn::device::splat_plan(label.size(0), label.size(1), labels, height, width),
                           heatmap.data<float>(), launch_here);
  return heatmap;
}

}  // namespace

CUDA_ON_CPU_BINDINGS { module.def("splat_gaussians", &splat_gaussians); }
