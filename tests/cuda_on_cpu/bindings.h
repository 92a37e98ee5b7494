// What an op's bindings are written with: torch's tensors as Python gives them, without torch's headers.
//
// A bindings_OP.cpp holds one function for each op, of the schema's arguments and results (csrc/ops.cpp), that mirrors
// the launching function of csrc/ops/OP/cuda.cu, and names it:
//
//   #include "bindings.h"
//   #include "cuda/OP.cuh"
//
//   Tensor OP(Tensor input, int64_t k) {
//     const Tensor output = new_empty({input.size(0)}, input.dtype());
//     cuda_on_cpu::launch(kernel<float>, grid, block, shared_bytes, input.data<float>(), output.data<float>());
//     return output;
//   }
//
//   CUDA_ON_CPU_BINDINGS { module.def("OP", &OP); }
//
// Optional tensors are std::optional<Tensor>, int[] is std::vector<int64_t>, several results are a std::tuple.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cuda_on_cpu.h"

namespace cuda_on_cpu {

namespace py = pybind11;

enum class DType { float32, float64, bfloat16, float16, int64, int32, uint8, boolean };

// A tensor whose memory kernels may access while this object lives: read where it came from Python, written too where
// new_empty made it.
class __attribute__((visibility("hidden"))) Tensor {
 public:
  Tensor() = default;
  Tensor(py::object tensor, bool writeable);

  template <class T = void>
  T* data() const {
    return static_cast<T*>(data_);
  }
  DType dtype() const { return dtype_; }
  int64_t element_size() const { return element_size_; }
  int64_t dim() const { return static_cast<int64_t>(sizes_.size()); }
  int64_t size(int64_t axis) const { return sizes_[axis]; }
  int64_t stride(int64_t axis) const { return strides_[axis]; }
  const std::vector<int64_t>& sizes() const { return sizes_; }
  const std::vector<int64_t>& strides() const { return strides_; }
  int64_t numel() const;
  const py::object& object() const { return object_; }

  // The same numbers, contiguous.
  Tensor contiguous() const { return Tensor(object_.attr("contiguous")(), writeable_); }

 private:
  py::object object_;
  bool writeable_ = false;
  void* data_ = nullptr;
  DType dtype_ = DType::float32;
  int64_t element_size_ = 0;
  std::vector<int64_t> sizes_, strides_;
  std::shared_ptr<Buffer> buffer_;
};

// Memory as a GPU hands it out, holding anything: here all bits are set, NaN in every floating-point format.
Tensor new_empty(const std::vector<int64_t>& sizes, DType dtype);
Tensor new_empty_strided(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, DType dtype);

using Binder = void (*)(py::module_& module);
struct Binding {
  explicit Binding(Binder binder);
};

}  // namespace cuda_on_cpu

namespace pybind11::detail {
template <>
struct type_caster<cuda_on_cpu::Tensor> {
  PYBIND11_TYPE_CASTER(cuda_on_cpu::Tensor, const_name("torch.Tensor"));
  bool load(handle source, bool) {
    if (!hasattr(source, "data_ptr")) return false;
    value = cuda_on_cpu::Tensor(reinterpret_borrow<object>(source), false);
    return true;
  }
  static handle cast(const cuda_on_cpu::Tensor& tensor, return_value_policy, handle) {
    return object(tensor.object()).release();
  }
};
}  // namespace pybind11::detail

#define CUDA_ON_CPU_BINDINGS                                                \
  static void cuda_on_cpu_bind(pybind11::module_& module);                  \
  static const cuda_on_cpu::Binding cuda_on_cpu_binding(&cuda_on_cpu_bind); \
  static void cuda_on_cpu_bind([[maybe_unused]] pybind11::module_& module)
