// The interface between sample_taps.cpp, which knows torch and threads, and sample_taps_kernel.cpp, which is built once
// for each instruction set and knows neither.
#pragma once

#include <stdint.h>

namespace mdn {

// A map and the taps of a 3x3 deformable convolution, whose channels lie side by side: cells (b * height + y) * width +
// x.
struct Taps {
  const float* x;       // (B, height, width, channels)
  const float* offset;  // (B, height, width, 18): dy and dx of each tap, in cells
  const float* mask;    // (B, height, width, 9)
  int64_t height, width, channels;
};

struct SampleTapsKernel {
  // Writes the nine samples of the cells [first, last) to (last - first, 9, channels).
  void (*sample)(const Taps& taps, int64_t first, int64_t last, float* to);
};

namespace baseline {
extern const SampleTapsKernel sample_taps_kernel;
}
namespace avx2 {
extern const SampleTapsKernel sample_taps_kernel;
}
namespace avx512 {
extern const SampleTapsKernel sample_taps_kernel;
}

}  // namespace mdn
