// The interface between resample_window.cpp, which knows torch and threads, and resample_window_kernel.cpp, which is
// built once for each instruction set and knows neither.
#pragma once

#include <stdint.h>

namespace mdn {

// Weights are in 128ths: a blend of two bytes fits 15 bits.
constexpr int weight_bits = 7;

// The two pixels of a row of the image that an output pixel lies between.
struct ResampleColumn {
  int32_t offset;       // of the left one's first channel, in bytes
  int16_t left, right;  // their weights, which add up to 128
};

struct ResampleWindowKernel {
  // Blends two rows: blend[i] = (128 - past) upper[i] + past lower[i].
  void (*blend_rows)(const uint8_t* upper, const uint8_t* lower, uint16_t past, uint16_t* blend, int64_t count);
  // Writes `count` pixels of three bytes. It reads eight values of `blend` from each column's offset on.
  void (*blend_columns)(const uint16_t* blend, const ResampleColumn* columns, uint8_t* to, int64_t count);
};

namespace baseline {
extern const ResampleWindowKernel resample_window_kernel;
}
namespace avx2 {
extern const ResampleWindowKernel resample_window_kernel;
}
namespace avx512 {
extern const ResampleWindowKernel resample_window_kernel;
}

}  // namespace mdn
