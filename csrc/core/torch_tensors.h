// Torch's stable tensors, as both the CPU's and the GPU's launching functions take them.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <optional>
#include <vector>

#include "core/torch_versions.h"
#include "core/view.h"

namespace mdn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::float32;
    case ScalarType::Double:
      return DType::float64;
    case ScalarType::BFloat16:
      return DType::bfloat16;
    case ScalarType::Half:
      return DType::float16;
    case ScalarType::Bool:
      return DType::boolean;
    default:
      STD_TORCH_CHECK(false, "mdnkernels: a dtype that the native kernels do not have");
  }
}

// The dtype that the numbers of a floating-point tensor are computed in.
inline ScalarType arithmetic_of(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// A (B, K, P) tensor as a view, or a (B, P) one, of one channel. `gathered`: its points are chosen by an index.
inline View view_of(const Tensor& tensor, bool gathered = false) {
  const bool flat = tensor.dim() == 2;
  return {tensor.data_ptr(),
          dtype_of(tensor),
          tensor.stride(0),
          flat ? 0 : tensor.stride(1),
          tensor.stride(tensor.dim() - 1),
          gathered,
          flat ? 1 : static_cast<int>(tensor.size(1))};
}

// An uninitialised tensor of the device and dtype of `like`.
inline Tensor new_empty_strided(const Tensor& like, const std::vector<int64_t>& sizes,
                                const std::vector<int64_t>& strides) {
  using torch::stable::detail::from;
  std::array<StableIValue, 7> stack{from(like),         from(sizes),        from(strides),     from(std::nullopt),
                                    from(std::nullopt), from(std::nullopt), from(std::nullopt)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::new_empty_strided", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace mdn
