// Sums in a fixed order: the same bits every time.
#pragma once

#include "core/cuda/device.cuh"

namespace mdn {
namespace device {

// The sum of a block's values, in a fixed order, given to its first thread.
template <int threads, class T>
MDN_ON_DEVICE T sum_of_block(T value, SharedArray<T, threads / warp_lanes>& sums_of_warps) {
  for (int step = warp_lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(all_lanes, value, step);
  const int thread = threadIdx.x;
  if (thread % warp_lanes == 0) sums_of_warps[thread / warp_lanes] = value;
  __syncthreads();
  T total = 0;
  if (thread == 0) {
    for (int warp = 0; warp < threads / warp_lanes; ++warp) total += sums_of_warps[warp];
  }
  __syncthreads();
  return total;
}

}  // namespace device
}  // namespace mdn
