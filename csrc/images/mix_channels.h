// The interface between mix_channels.cpp, which knows torch and threads, and mix_channels_kernel.cpp, which is built
// once for each instruction set and knows neither.
#pragma once

#include <stdint.h>

namespace mdn {

struct MixChannelsKernel {
  // Adds up each of the three channels of `count` pixels, whose channels lie side by side.
  void (*sum)(const uint8_t* pixels, int64_t count, int64_t* sums);
  // Writes a plane for each channel c:
  // to[c] = matrix[3 c] pixel[0] + matrix[3 c + 1] pixel[1] + matrix[3 c + 2] pixel[2] + offset[c].
  void (*mix)(const uint8_t* pixels, int64_t count, const float* matrix, const float* offset, float* const* to);
};

namespace baseline {
extern const MixChannelsKernel mix_channels_kernel;
}
namespace avx2 {
extern const MixChannelsKernel mix_channels_kernel;
}
namespace avx512 {
extern const MixChannelsKernel mix_channels_kernel;
}

}  // namespace mdn
