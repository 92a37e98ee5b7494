// Colour jitter and normalisation of decoded images on the CPU: each output channel is a blend of the three of uint8.
//
// Memory story: the image is read once for its channels' sums, and once more, 48 KiB at a time, for the outputs. These
// are written once, into recycled memory (memory.h), because the pages of a batch's fresh output would cost several
// times that.
#include "images/mix_channels.h"

#include <algorithm>

#include "core/cpu/simd_level.h"
#include "core/cpu/tensors.h"
#include "core/cpu/turns.h"

namespace mdn {
namespace {

constexpr int64_t pixels_in_part = 16384;

const uint8_t* pixels_of(const Tensor& images) {
  STD_TORCH_CHECK(
      images.scalar_type() == ScalarType::Byte && images.dim() == 4 && images.size(3) == 3 && images.is_contiguous(),
      "mdnkernels: images must be contiguous uint8 (B, H, W, 3)");
  return static_cast<const uint8_t*>(images.data_ptr());
}

Tensor channel_sums(Tensor images) {
  const uint8_t* from = pixels_of(images);
  const int64_t batch = images.size(0), pixels = images.size(1) * images.size(2);
  const Tensor sums = torch::stable::new_empty(images, {batch, 3}, ScalarType::Long);
  auto* to = static_cast<int64_t*>(sums.data_ptr());
  std::fill_n(to, batch * 3, 0);
  const MixChannelsKernel& kernel = MDN_AT_SIMD_LEVEL(mix_channels_kernel);
  for_each_range(batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) kernel.sum(from + image * pixels * 3, pixels, to + image * 3);
  });
  return sums;
}

Tensor mix_channels(Tensor images, Tensor matrix, Tensor offset) {
  const uint8_t* from = pixels_of(images);
  const int64_t batch = images.size(0), pixels = images.size(1) * images.size(2);
  const Tensor matrices = torch::stable::contiguous(matrix), offsets = torch::stable::contiguous(offset);
  STD_TORCH_CHECK(matrices.scalar_type() == ScalarType::Float && matrices.numel() == batch * 9 &&
                      offsets.scalar_type() == ScalarType::Float && offsets.numel() == batch * 3,
                  "mdnkernels: matrix must be float32 (B, 3, 3) and offset float32 (B, 3)");
  const Tensor output = fresh(images, {batch, 3, images.size(1), images.size(2)}, ScalarType::Float);
  const auto* matrix_of = static_cast<const float*>(matrices.data_ptr());
  const auto* offset_of = static_cast<const float*>(offsets.data_ptr());
  auto* to = static_cast<float*>(output.data_ptr());
  const MixChannelsKernel& kernel = MDN_AT_SIMD_LEVEL(mix_channels_kernel);
  // All parts have one size, so that no result depends on the number of threads.
  const int64_t parts = (pixels + pixels_in_part - 1) / pixels_in_part;
  for_each_range(batch * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / parts, first = i % parts * pixels_in_part;
      float* plane = to + image * 3 * pixels + first;
      float* const planes[] = {plane, plane + pixels, plane + 2 * pixels};
      kernel.mix(from + (image * pixels + first) * 3, std::min(pixels_in_part, pixels - first), matrix_of + 9 * image,
                 offset_of + 3 * image, planes);
    }
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mdnkernels, m) {
  // images (B, H, W, 3) uint8, on the CPU. Sums are (B, 3) int64; mixed, (B, 3, H, W) float32, is matrix (B, 3, 3)
  // times the channels plus offset (B, 3). For train/data/colour.py.
  m.def("channel_sums(Tensor images) -> Tensor");
  m.def("mix_channels(Tensor images, Tensor matrix, Tensor offset) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CPU, m) {
  m.impl("channel_sums", TORCH_BOX(&channel_sums));
  m.impl("mix_channels", TORCH_BOX(&mix_channels));
}

}  // namespace mdn
