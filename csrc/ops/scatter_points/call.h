// A call of scatter_points: its schema, and all of its host code that the CPU and a GPU share.
#pragma once

#include "core/torch_tensors.h"

namespace mdn {

// (B, K, P), zero but for values (B, K, N), float32 or float64, added at index (B, N) in its order; -1 is padding.
inline constexpr char scatter_points_schema[] =
    "scatter_points(Tensor values, Tensor index, SymInt positions) -> Tensor";

template <class Device>
Tensor scatter_points(Tensor values, Tensor index, int64_t positions) {
  const ScalarType dtype = values.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "mdnkernels::scatter_points: values must be float32 or float64");
  const Device device(values);
  const Tensor maps = zeros(values, {values.size(0), values.size(1), positions});
  device.run(torch::stable::contiguous(values), torch::stable::contiguous(index), maps);
  return maps;
}

}  // namespace mdn
