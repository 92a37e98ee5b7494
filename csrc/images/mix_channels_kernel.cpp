// Adds up and blends the channels of pixels, in loops that the compiler makes vectors of. This file is built once for
// each instruction set.
#include "core/simd.h"
#include "images/mix_channels.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {
namespace {

void sum(const uint8_t* pixels, int64_t count, int64_t* sums) {
  constexpr int width = 96;         // bytes in a step: a multiple of 3 and of a vector's lanes
  constexpr int64_t in_part = 256;  // steps whose sums fit 16 bits
  const int64_t steps = 3 * count / width;
  for (int64_t first = 0; first < steps; first += in_part) {
    const int64_t last = first + in_part < steps ? first + in_part : steps;
    uint16_t part[width] = {};
    for (int64_t step = first; step < last; ++step) {
      for (int i = 0; i < width; ++i) part[i] += pixels[step * width + i];
    }
    for (int i = 0; i < width; ++i) sums[i % 3] += part[i];
  }
  for (int64_t i = steps * width; i < 3 * count; ++i) sums[i % 3] += pixels[i];
}

void mix(const uint8_t* __restrict pixels, int64_t count, const float* matrix, const float* offset, float* const* to) {
  float* __restrict one = to[0];
  float* __restrict two = to[1];
  float* __restrict three = to[2];
  float m[9], o[3];
  for (int i = 0; i < 9; ++i) m[i] = matrix[i];
  for (int i = 0; i < 3; ++i) o[i] = offset[i];
  for (int64_t i = 0; i < count; ++i) {
    const float a = pixels[3 * i], b = pixels[3 * i + 1], c = pixels[3 * i + 2];
    one[i] = m[0] * a + (m[1] * b + (m[2] * c + o[0]));
    two[i] = m[3] * a + (m[4] * b + (m[5] * c + o[1]));
    three[i] = m[6] * a + (m[7] * b + (m[8] * c + o[2]));
  }
}

}  // namespace

const MixChannelsKernel mix_channels_kernel = {sum, mix};

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
