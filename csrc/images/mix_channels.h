// What the two halves of mix_channels share, as in mixture_nll.h.
#pragma once

#include <stdint.h>

namespace mdn {

struct MixChannelsKernel {
  // Adds up each of the three channels of `count` pixels, channel beside channel.
  void (*sum)(const uint8_t* pixels, int64_t count, int64_t* sums);
  // to[c] = matrix[3 c] pixel[0] + matrix[3 c + 1] pixel[1] + matrix[3 c + 2] pixel[2] + offset[c], a plane for each c.
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
