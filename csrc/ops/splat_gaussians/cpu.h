// What the two halves of splat_gaussians share, as in ops/mixture_nll/cpu.h.
#pragma once

#include "ops/splat_gaussians/formula.h"

namespace mdn {

// The part of an object's window that lies in the map, as half-open ranges of cells.
struct SplatWindow {
  int64_t x, y;  // the centre
  int64_t left, right, top, bottom;
  float sigma;
};

MDN_INLINE SplatWindow splat_window(int64_t x, int64_t y, int64_t radius, int64_t height, int64_t width) {
  return {x,
          y,
          x > radius ? x - radius : 0,
          width - x > radius + 1 ? x + radius + 1 : width,
          y > radius ? y - radius : 0,
          height - y > radius + 1 ? y + radius + 1 : height,
          MDN_SIMD_LEVEL::gaussian_sigma(radius)};
}

struct SplatKernel {
  // Bytes of scratch that `splat` needs.
  int64_t (*scratch_bytes)(int64_t height, int64_t width);
  void (*zero)(float* map, int64_t count, bool past_cache);
  // Raises the cells of a map, `width` wide, to the object's Gaussian.
  void (*splat)(float* map, int64_t width, const SplatWindow& window, void* scratch);
};

namespace baseline {
extern const SplatKernel splat_kernel;
}
namespace avx2 {
extern const SplatKernel splat_kernel;
}
namespace avx512 {
extern const SplatKernel splat_kernel;
}

}  // namespace mdn
