#include "core/cpu/apply_function.h"

#include "core/cpu/simd_level.h"
#include "core/cpu/tensors.h"

namespace mdn {
namespace {

template <class T>
void apply(const Functions<T>& functions, const std::string& name, const Tensor& x, const Tensor& y) {
  const auto function = name == "exp"     ? functions.exp
                        : name == "log"   ? functions.log
                        : name == "log1p" ? functions.log1p
                                          : functions.tanh_half;
  function(static_cast<const T*>(x.data_ptr()), static_cast<T*>(y.data_ptr()), x.numel());
}

Tensor apply_function(Tensor x, std::string name) {
  const DType dtype = dtype_of(x);
  STD_TORCH_CHECK((dtype == DType::float32 || dtype == DType::float64) && x.is_contiguous() && x.numel() % 16 == 0,
                  "mdnkernels::apply_function: x must be contiguous float32 or float64 with a multiple of 16 elements");
  STD_TORCH_CHECK(name == "exp" || name == "log" || name == "log1p" || name == "tanh_half",
                  "mdnkernels::apply_function: unknown function ", name);
  const Tensor y = fresh_like(x);
  const FunctionKernel& kernel = MDN_AT_SIMD_LEVEL(function_kernel);
  if (dtype == DType::float64) {
    apply(kernel.of_double, name, x, y);
  } else {
    apply(kernel.of_float, name, x, y);
  }
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mdnkernels, m) {
  // exp, log, log1p and tanh(x / 2) as the kernels compute them, for the tests of their accuracy.
  m.def("apply_function(Tensor x, str name) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CPU, m) { m.impl("apply_function", TORCH_BOX(&apply_function)); }

}  // namespace mdn
