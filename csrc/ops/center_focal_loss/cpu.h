// What the two halves of center_focal_loss share, as in ops/mixture_nll/cpu.h.
#pragma once

#include "ops/heatmap_focal_loss/cpu.h"
#include "ops/splat_gaussians/cpu.h"

namespace mdn {

struct CenterObject {
  int64_t map;          // the first element of its map
  int64_t first, last;  // elements of its window
  SplatWindow window;
  bool ignored;
};

struct CenterFocalKernel {
  // The loss of one block, to which no objects matter but these, and its gradient where it is wanted. `call` has no
  // target. The strides are in elements.
  double (*run)(const FocalCall& call, int64_t block, const CenterObject* begin, const CenterObject* end,
                int64_t row_stride, int64_t column_stride);
};

namespace baseline {
extern const CenterFocalKernel center_focal_kernel;
}
namespace avx2 {
extern const CenterFocalKernel center_focal_kernel;
}
namespace avx512 {
extern const CenterFocalKernel center_focal_kernel;
}

}  // namespace mdn
