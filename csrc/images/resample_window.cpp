// Resamples a window of an image bilinearly to another size, uint8 to uint8, for the workers that load images.
//
// Memory story: each row of the output reads two rows of the image, which lie in the second-level cache from the row
// before, and one blended row, which stays in the first-level cache. The output is written once.
#include "images/resample_window.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/cpu/simd_level.h"
#include "core/cpu/tensors.h"
#include "core/cpu/turns.h"

namespace mdn {
namespace {

// Where the centre of an output lies along one side of the image: between the pixels `first` and `second`.
struct Place {
  bool inside;
  int64_t first, second;
  int16_t past;  // 128ths of the way from the first to the second
};

Place place_of(int64_t output, double step, double begin, int64_t pixels) {
  const double position = step * (output + 0.5) + begin;
  if (!(position >= 0 && position < pixels)) return {false, 0, 0, 0};
  const auto steps = static_cast<int64_t>(std::floor((position - 0.5) * (1 << weight_bits) + 0.5));
  const int64_t pixel = steps >> weight_bits;
  return {true, std::max<int64_t>(pixel, 0), std::min(pixel + 1, pixels - 1),
          static_cast<int16_t>(steps & ((1 << weight_bits) - 1))};
}

// The columns of an output row whose centres lie in the image, from column `begin` on.
struct Columns {
  int64_t begin = 0;
  std::vector<ResampleColumn> of;
  int64_t end() const { return begin + static_cast<int64_t>(of.size()); }
};

Columns columns_of(int64_t width, double step, double begin, int64_t pixels) {
  Columns columns;
  for (int64_t u = 0; u < width; ++u) {
    const Place place = place_of(u, step, begin, pixels);
    if (!place.inside) continue;
    if (columns.of.empty()) columns.begin = u;
    // At the border both are one pixel, and the next pixel has no weight.
    const int16_t right = place.first == place.second ? 0 : place.past;
    columns.of.push_back(
        {static_cast<int32_t>(3 * place.first), static_cast<int16_t>((1 << weight_bits) - right), right});
  }
  return columns;
}

Tensor resample_window(Tensor image, double step_x, double x0, double step_y, double y0, int64_t height,
                       int64_t width) {
  STD_TORCH_CHECK(image.scalar_type() == ScalarType::Byte && image.dim() == 3 && image.size(2) == 3 &&
                      image.is_contiguous() && image.numel() < (int64_t(1) << 31),
                  "mdnkernels::resample_window: image must be contiguous uint8 (h, w, 3) of less than 2 GiB");
  const auto* pixels = static_cast<const uint8_t*>(image.data_ptr());
  const int64_t rows = image.size(0), row_bytes = image.size(1) * 3;
  const Tensor output = torch::stable::new_empty(image, {height, width, 3});
  auto* to = static_cast<uint8_t*>(output.data_ptr());
  const Columns columns = columns_of(width, step_x, x0, image.size(1));
  const auto count = static_cast<int64_t>(columns.of.size());
  const ResampleWindowKernel& kernel = MDN_AT_SIMD_LEVEL(resample_window_kernel);

  for_each_range(height, 64, [&](int64_t begin, int64_t end) {
    std::vector<uint16_t> blend(row_bytes + 8);
    for (int64_t v = begin; v < end; ++v) {
      uint8_t* row = to + v * width * 3;
      const Place place = place_of(v, step_y, y0, rows);
      if (!place.inside || count == 0) {
        std::memset(row, 0, width * 3);
        continue;
      }
      kernel.blend_rows(pixels + place.first * row_bytes, pixels + place.second * row_bytes, place.past, blend.data(),
                        row_bytes);
      std::memset(row, 0, columns.begin * 3);
      kernel.blend_columns(blend.data(), columns.of.data(), row + columns.begin * 3, count);
      std::memset(row + columns.end() * 3, 0, (width - columns.end()) * 3);
    }
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mdnkernels, m) {
  // image (h, w, 3) uint8, on the CPU, as (height, width, 3): the output's point (x, y) shows the image's point
  // (step_x x + x0, step_y y + y0). For train/data/images.py.
  m.def(
      "resample_window(Tensor image, float step_x, float x0, float step_y, float y0, int height, int width) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CPU, m) { m.impl("resample_window", TORCH_BOX(&resample_window)); }

}  // namespace mdn
