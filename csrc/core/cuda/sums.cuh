// Sums in a fixed order: the same bits every time.
#pragma once

#include "core/cuda/device.cuh"

namespace mdn {
namespace device {

// The sum of a warp's values, given to each lane.
template <class T>
MDN_ON_DEVICE T sum_of_warp(T value) {
  for (int step = warp_lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(all_lanes, value, step);
  return value;
}

// The sum of a block's values, given to its first thread. `of_warps` has an element for each warp.
template <class T, class Array>
MDN_ON_DEVICE T sum_of_block(T value, Array&& of_warps) {
  value = sum_of_warp(value);
  const int thread = threadIdx.x, warps = static_cast<int>(blockDim.x) / warp_lanes;
  if (thread % warp_lanes == 0) of_warps[thread / warp_lanes] = value;
  __syncthreads();
  T total = 0;
  if (thread == 0) {
    for (int warp = 0; warp < warps; ++warp) total += static_cast<T>(of_warps[warp]);
  }
  __syncthreads();
  return total;
}

}  // namespace device
}  // namespace mdn
