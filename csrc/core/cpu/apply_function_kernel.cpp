#include "core/cpu/apply_function.h"
#include "core/functions.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {
namespace {

template <class T, class Function>
MDN_INLINE void apply(const T* from, T* to, int64_t count, Function function) {
  for (int64_t i = 0; i < count; i += lanes<T>) store(to + i, function(load(from + i)));
}

template <class T>
constexpr Functions<T> functions = {
    [](const T* from, T* to, int64_t count) { apply(from, to, count, [](Vector<T> x) { return exp(x); }); },
    [](const T* from, T* to, int64_t count) { apply(from, to, count, [](Vector<T> x) { return log(x); }); },
    [](const T* from, T* to, int64_t count) { apply(from, to, count, [](Vector<T> x) { return log1p(x); }); },
    [](const T* from, T* to, int64_t count) { apply(from, to, count, [](Vector<T> x) { return tanh_half(x); }); },
};

}  // namespace

const FunctionKernel function_kernel = {functions<float>, functions<double>};

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
