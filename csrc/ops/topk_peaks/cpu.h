// What the two halves of topk_peaks share, as in ops/mixture_nll/cpu.h.
#pragma once

#include <stdint.h>

namespace mdn {

struct PeakKernel {
  // The first column in [begin, width) whose value is above `threshold`; `width` where there is none. NaN is above
  // nothing.
  int64_t (*next_above_float)(const float* row, int64_t begin, int64_t width, float threshold);
  int64_t (*next_above_double)(const double* row, int64_t begin, int64_t width, double threshold);
};

namespace baseline {
extern const PeakKernel peak_kernel;
}
namespace avx2 {
extern const PeakKernel peak_kernel;
}
namespace avx512 {
extern const PeakKernel peak_kernel;
}

}  // namespace mdn
