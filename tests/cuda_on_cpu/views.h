// What bindings of kernels that work on tiles share: tensors as views, and the launch itself, as
// csrc/core/cuda/launch.h has them of torch's tensors.
#pragma once

#include "bindings.h"
#include "core/cuda/tiles.cuh"

namespace cuda_on_cpu {

inline mdn::DType dtype_of_view(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return mdn::DType::float64;
    case DType::bfloat16:
      return mdn::DType::bfloat16;
    case DType::float16:
      return mdn::DType::float16;
    case DType::boolean:
      return mdn::DType::boolean;
    default:
      return mdn::DType::float32;
  }
}

inline mdn::TileView tile_view_of(const Tensor& tensor, bool gathered = false) {
  const bool flat = tensor.dim() == 2;  // one channel
  const mdn::View view = {tensor.data(),
                          dtype_of_view(tensor.dtype()),
                          tensor.stride(0),
                          flat ? 0 : tensor.stride(1),
                          tensor.stride(tensor.dim() - 1),
                          gathered,
                          flat ? 1 : static_cast<int>(tensor.size(1))};
  return {view, tensor.size(0)};
}

// torch.empty_like.
inline Tensor new_empty_like(const Tensor& tensor) {
  const auto strides = pybind11::module_::import("torch").attr("empty_like")(tensor.object()).attr("stride")();
  return new_empty_strided(tensor.sizes(), strides.cast<std::vector<int64_t>>(), tensor.dtype());
}

inline constexpr auto launch_here = [](auto* kernel, int blocks, int threads, int shared_bytes, auto... arguments) {
  launch(kernel, blocks, threads, shared_bytes, arguments...);
};

}  // namespace cuda_on_cpu
