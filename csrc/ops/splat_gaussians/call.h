// A call of splat_gaussians: its schema, and all of its host code that the CPU and a GPU share.
#pragma once

#include "core/torch_tensors.h"

namespace mdn {

inline constexpr char splat_gaussians_schema[] =
    "splat_gaussians(Tensor center, Tensor radius, Tensor label, SymInt num_labels, SymInt height, SymInt width) -> "
    "Tensor";

struct SplatCall {
  const int64_t *center, *radius, *label;  // (batch, objects, 2), (batch, objects) twice; label -1 is padding
  float* heatmap;                          // (batch, labels, height, width)
  int64_t batch, objects, labels, height, width;
};

template <class Device>
Tensor splat_gaussians(Tensor center, Tensor radius, Tensor label, int64_t labels, int64_t height, int64_t width) {
  const Device device(label);
  const Tensor centers = torch::stable::contiguous(center), radii = torch::stable::contiguous(radius);
  const Tensor label_of_objects = torch::stable::contiguous(label);
  const Tensor heatmap = fresh(label, {label.size(0), labels, height, width}, ScalarType::Float);
  device.run(SplatCall{data_of<const int64_t>(centers), data_of<const int64_t>(radii),
                       data_of<const int64_t>(label_of_objects), data_of<float>(heatmap), label.size(0), label.size(1),
                       labels, height, width});
  return heatmap;
}

}  // namespace mdn
