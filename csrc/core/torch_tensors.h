// Torch's stable tensors, as the host code of the ops takes them, that of the CPU and that of a GPU.
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

// Where a tensor's elements begin. Kernels are given no other addresses: tests/cuda_on_cpu, which has a function of its
// own here, lets them access what host code asked it for, and nothing else.
void* address_of(const Tensor& tensor);

template <class T>
T* data_of(const Tensor& tensor) {
  return static_cast<T*>(address_of(tensor));
}

// A (B, K, P) tensor as a view, or a (B, P) one, of one channel. `gathered`: its points are chosen by an index.
inline View view_of(const Tensor& tensor, bool gathered = false) {
  const bool flat = tensor.dim() == 2;
  return {address_of(tensor),
          dtype_of(tensor),
          tensor.stride(0),
          flat ? 0 : tensor.stride(1),
          tensor.stride(tensor.dim() - 1),
          gathered,
          flat ? 1 : static_cast<int>(tensor.size(1))};
}

// An op's outputs and workspaces, uninitialised, on the device of `like`. Each library makes them in its own way; on
// the CPU large ones lie in recycled memory (cpu/memory.h).
Tensor fresh(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype);
// The same of the sizes, strides and dtype of `like`, as torch.empty_like.
Tensor fresh_like(const Tensor& like);
// The same of the dtype of `like`; sizes and strides must be those of a dense tensor.
Tensor fresh_strided(const Tensor& like, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides);
// Zeros of the dtype of `like`.
Tensor zeros(const Tensor& like, const std::vector<int64_t>& sizes);

// torch.Tensor.new_empty_strided.
inline Tensor new_empty_strided(const Tensor& like, const std::vector<int64_t>& sizes,
                                const std::vector<int64_t>& strides) {
  using torch::stable::detail::from;
  std::array<StableIValue, 7> stack{from(like),         from(sizes),        from(strides),     from(std::nullopt),
                                    from(std::nullopt), from(std::nullopt), from(std::nullopt)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::new_empty_strided", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace mdn
