// Calls of gather_patches and of its gradient: their schemas, and all of their host code that the CPU and a GPU share.
#pragma once

#include "core/torch_tensors.h"

namespace mdn {

inline constexpr char gather_patches_schema[] =
    "gather_patches(Tensor feature, Tensor index, int kernel_size) -> Tensor";
// The gradient of a feature of these sizes and strides, which are those of a dense tensor.
inline constexpr char gather_patches_backward_schema[] =
    "gather_patches_backward(Tensor grad_patches, Tensor index, SymInt[] size, SymInt[] stride, int kernel_size) -> "
    "Tensor";

struct PatchCall {
  MapView map;  // the feature, or the gradient to be written
  int64_t batch;
  const int64_t* index;  // (batch, points), contiguous
  void* patches;         // (batch, points, channels * kernel_size^2), contiguous
  int64_t points, kernel_size;
};

inline PatchCall patch_call(const Tensor& map, const Tensor& index, const Tensor& patches, int64_t kernel_size) {
  const MapView view = {address_of(map), dtype_of(map), map.size(1),   map.size(2),  map.size(3),
                        map.stride(0),   map.stride(1), map.stride(2), map.stride(3)};
  return {view, map.size(0), data_of<const int64_t>(index), address_of(patches), index.size(1), kernel_size};
}

template <class Device>
Tensor gather_patches(Tensor feature, Tensor index, int64_t kernel_size) {
  const Device device(feature);
  device.check(feature, index, kernel_size);
  const Tensor cells = torch::stable::contiguous(index);
  const Tensor patches = fresh(feature, {feature.size(0), index.size(1), feature.size(1) * kernel_size * kernel_size},
                               feature.scalar_type());
  device.gather(patch_call(feature, cells, patches, kernel_size));
  return patches;
}

template <class Device>
Tensor gather_patches_backward(Tensor grad_patches, Tensor index, std::vector<int64_t> size,
                               std::vector<int64_t> stride, int64_t kernel_size) {
  const Device device(grad_patches);
  const Tensor patches = torch::stable::contiguous(grad_patches), cells = torch::stable::contiguous(index);
  const Tensor gradient = fresh_strided(grad_patches, size, stride);
  device.check(gradient, index, kernel_size);
  device.scatter(patch_call(gradient, cells, patches, kernel_size), gradient);
  return gradient;
}

}  // namespace mdn
