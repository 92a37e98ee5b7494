// Samples a map at the taps of a deformable convolution, in a loop over channels that the compiler makes vectors of.
// This file is built once for each instruction set.
#include "core/simd.h"
#include "deformable/sample_taps.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {
namespace {

// The two cells beside a position along an axis of `size` cells, and the weights that interpolate. A cell outside
// weighs 0, and one inside stands for it. Not a number stays that in the weights.
struct Neighbours {
  int64_t cell[2];
  float weight[2];
};

Neighbours neighbours(float position, int64_t size) {
  // Nothing beyond -1 and size is read; comparisons leave what is not a number as it is.
  if (position < -2) position = -2;
  if (position > static_cast<float>(size + 1)) position = static_cast<float>(size + 1);
  const float low = __builtin_floorf(position), beyond = position - low;
  const float weights[2] = {1 - beyond, beyond};
  const int64_t first = position == position ? static_cast<int64_t>(low) : 0;
  Neighbours found;
  for (int side = 0; side < 2; ++side) {
    const int64_t cell = first + side;
    const bool inside = cell >= 0 && cell < size;
    found.cell[side] = inside ? cell : cell < 0 ? 0 : size - 1;
    found.weight[side] = weights[side] * (inside ? 1.0f : 0.0f);
  }
  return found;
}

void sample(const Taps& taps, int64_t first, int64_t last, float* to) {
  const int64_t height = taps.height, width = taps.width, channels = taps.channels;
  for (int64_t cell = first; cell < last; ++cell) {
    const int64_t column = cell % width, row = cell / width % height;
    const float* map = taps.x + cell / (width * height) * (width * height * channels);
    for (int64_t tap = 0; tap < 9; ++tap) {
      const float* offset = taps.offset + cell * 18 + 2 * tap;
      const Neighbours y = neighbours(static_cast<float>(row + tap / 3 - 1) + offset[0], height);
      const Neighbours x = neighbours(static_cast<float>(column + tap % 3 - 1) + offset[1], width);
      const float mask = taps.mask[cell * 9 + tap];
      const float upper = y.weight[0] * mask, lower = y.weight[1] * mask;
      const float a = upper * x.weight[0], b = upper * x.weight[1], c = lower * x.weight[0], d = lower * x.weight[1];
      const float* upper_left = map + (y.cell[0] * width + x.cell[0]) * channels;
      const float* upper_right = map + (y.cell[0] * width + x.cell[1]) * channels;
      const float* lower_left = map + (y.cell[1] * width + x.cell[0]) * channels;
      const float* lower_right = map + (y.cell[1] * width + x.cell[1]) * channels;
      float* __restrict out = to;
      for (int64_t i = 0; i < channels; ++i) {
        out[i] = a * upper_left[i] + b * upper_right[i] + c * lower_left[i] + d * lower_right[i];
      }
      to += channels;
    }
  }
}

}  // namespace

const SampleTapsKernel sample_taps_kernel = {sample};

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
