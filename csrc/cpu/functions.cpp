#include "functions.h"

#include "simd_level.h"
#include "tensors.h"

namespace mdn {
namespace {

Tensor apply_function(Tensor x, std::string name) {
  STD_TORCH_CHECK(dtype_of(x) == DType::float32 && x.is_contiguous() && x.numel() % 16 == 0,
                  "mdnkernels::apply_function: x must be contiguous float32 with a multiple of 16 elements");
  STD_TORCH_CHECK(name == "exp" || name == "log" || name == "log1p", "mdnkernels::apply_function: unknown function ",
                  name);
  const Tensor y = fresh_like(x);
  const FunctionKernel& kernel = MDN_AT_SIMD_LEVEL(function_kernel);
  const auto function = name == "exp" ? kernel.exp : name == "log" ? kernel.log : kernel.log1p;
  function(static_cast<const float*>(x.data_ptr()), static_cast<float*>(y.data_ptr()), x.numel());
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CPU, m) { m.impl("apply_function", TORCH_BOX(&apply_function)); }

}  // namespace mdn
