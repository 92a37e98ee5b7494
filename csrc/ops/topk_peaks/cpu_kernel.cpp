// The scan of topk_peaks: nearly every cell lies below the k-th best peak so far and is passed over a vector at a time.
#include "core/simd.h"
#include "ops/topk_peaks/cpu.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {
namespace {

template <class T>
int64_t next_above(const T* row, int64_t begin, int64_t width, T threshold) {
  constexpr int step = lanes<T>;
  const Vector<T> limit = broadcast<T>(threshold);
  int64_t i = begin;
  for (; i + 4 * step <= width; i += 4 * step) {
    const Mask<T> above = (load(row + i) > limit) | (load(row + i + step) > limit) |
                          (load(row + i + 2 * step) > limit) | (load(row + i + 3 * step) > limit);
    if (any<T>(above)) break;
  }
  while (i < width && !(row[i] > threshold)) ++i;
  return i;
}

}  // namespace

const PeakKernel peak_kernel = {next_above<float>, next_above<double>};

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
