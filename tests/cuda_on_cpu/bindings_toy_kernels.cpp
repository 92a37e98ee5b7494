// The kernels of toy_kernels.cuh, for test_emulator.py.
#include "bindings.h"
#include "toy_kernels.cuh"

namespace {

using cuda_on_cpu::DType;
using cuda_on_cpu::launch;
using cuda_on_cpu::new_empty;
using cuda_on_cpu::Tensor;

template <int N>
void toy_copy(const Tensor& from, const Tensor& to, int64_t count, int64_t first, int64_t step) {
  launch(toy::copy<float, N>, (count + 255) / 256, 256, 0, from.data<float>(), to.data<float>(), count, first, step);
}

Tensor copy(const Tensor& from, int64_t width, int64_t count, int64_t first, int64_t step) {
  const Tensor to = new_empty({count * width}, DType::float32);
  (width == 4 ? toy_copy<4> : toy_copy<1>)(from, to, count, first, step);
  return to;
}

Tensor sum(const Tensor& from, int64_t blocks) {
  const Tensor to = new_empty({blocks}, DType::float64);
  launch(toy::sum, blocks, 256, 0, from.data<float>(), to.data<double>(), from.numel());
  return to;
}

}  // namespace

CUDA_ON_CPU_BINDINGS {
  module.def("toy_copy", &copy);
  module.def("toy_sum", &sum);
}
