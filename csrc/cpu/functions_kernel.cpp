#include "../math/functions.h"
#include "functions.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {
namespace {

template <class Function>
MDN_INLINE void apply(const float* from, float* to, int64_t count, Function function) {
  for (int64_t i = 0; i < count; i += lanes<float>) store(to + i, function(load(from + i)));
}

void apply_exp(const float* from, float* to, int64_t count) {
  apply(from, to, count, [](FloatVector x) { return exp(x); });
}

void apply_log(const float* from, float* to, int64_t count) {
  apply(from, to, count, [](FloatVector x) { return log(x); });
}

void apply_log1p(const float* from, float* to, int64_t count) {
  apply(from, to, count, [](FloatVector x) { return log1p(x); });
}

}  // namespace

const FunctionKernel function_kernel = {apply_exp, apply_log, apply_log1p};

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
