// The formula of a centre's Gaussian, over a value type V; it stands a second time, on purpose, in
// mdnkernels/ops/splat_gaussians/eager.py, the oracle of the tests.
#pragma once

#include "core/functions.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {

// In cells, of an object's Gaussian.
MDN_INLINE float gaussian_sigma(int64_t radius) { return static_cast<float>(2 * radius + 1) / 6; }

// What one axis contributes at a signed distance from the centre: the Gaussian is the product over the axes. Exactly 1
// at distance 0.
template <class V, class T>
MDN_INLINE V gaussian_profile(V distance, T sigma) {
  return exp(V(-(distance * distance) / (2 * (sigma * sigma))));
}

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
