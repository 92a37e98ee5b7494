// The Gaussian along one axis, for the kernels of splat_gaussians and center_focal_loss.
#pragma once

#include "ops/splat_gaussians/formula.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {

// The profile at cells [begin, end) around `centre`; fills whole vectors.
MDN_INLINE void fill_profile(float* to, int64_t begin, int64_t end, int64_t centre, float sigma) {
  constexpr int step = lanes<float>;
  FloatVector lane;
  for (int i = 0; i < step; ++i) lane[i] = static_cast<float>(i);
  for (int64_t i = begin; i < end; i += step) {
    store(to + (i - begin), gaussian_profile(lane + static_cast<float>(i - centre), sigma));
  }
}

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
