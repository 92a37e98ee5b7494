// The samples that a modulated deformable convolution multiplies with its weights, on the CPU and without gradients.
//
// Memory story: of a tap four neighbouring rows of channels are read, mostly from the caches, which neighbouring taps
// share, and one is written. The caller asks for as many cells as its matrix product then reads from the cache.
#include "deformable/sample_taps.h"

#include "core/cpu/simd_level.h"
#include "core/cpu/tensors.h"

namespace mdn {
namespace {

constexpr int64_t cells_in_part = 32;

const float* values_of(const Tensor& values, const Tensor& x, int64_t channels) {
  STD_TORCH_CHECK(
      values.scalar_type() == ScalarType::Float && values.dim() == 4 && values.is_contiguous() &&
          values.size(0) == x.size(0) && values.size(1) == x.size(1) && values.size(2) == x.size(2) &&
          values.size(3) == channels,
      "mdnkernels: x, offset and mask must be contiguous float32 (B, H, W, C), (B, H, W, 18), (B, H, W, 9)");
  return static_cast<const float*>(values.data_ptr());
}

Tensor sample_taps(Tensor x, Tensor offset, Tensor mask, int64_t first, int64_t last) {
  STD_TORCH_CHECK(x.dim() == 4, "mdnkernels: x must be (B, H, W, C)");
  const int64_t channels = x.size(3), cells = x.size(0) * x.size(1) * x.size(2);
  const Taps taps = {
      values_of(x, x, channels), values_of(offset, x, 18), values_of(mask, x, 9), x.size(1), x.size(2), channels};
  STD_TORCH_CHECK(0 <= first && first <= last && last <= cells, "mdnkernels: there are no such cells");
  const Tensor samples = torch::stable::new_empty(x, {last - first, 9 * channels}, ScalarType::Float);
  auto* to = static_cast<float*>(samples.data_ptr());
  const SampleTapsKernel& kernel = MDN_AT_SIMD_LEVEL(sample_taps_kernel);
  torch::stable::parallel_for(first, last, cells_in_part, [&](int64_t begin, int64_t end) {
    kernel.sample(taps, begin, end, to + (begin - first) * 9 * channels);
  });
  return samples;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mdnkernels, m) {
  // x (B, H, W, C), offset (B, H, W, 18) and mask (B, H, W, 9) are float32 on the CPU. For models/deformable.py.
  m.def("sample_taps(Tensor x, Tensor offset, Tensor mask, int first, int last) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CPU, m) { m.impl("sample_taps", TORCH_BOX(&sample_taps)); }

}  // namespace mdn
