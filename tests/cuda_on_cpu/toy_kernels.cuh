// Small kernels that do one thing each, right or wrong, to show what the emulator counts and reports.
#pragma once

#include "cuda/device.cuh"

namespace toy {

using mdn::device::load_global;
using mdn::device::Pack;
using mdn::device::SharedArray;
using mdn::device::store_global;

// to[i] = from[first + step * i], as N elements at once.
template <class T, int N>
__global__ void __launch_bounds__(256) copy(const T* from, T* to, int64_t count, int64_t first, int64_t step) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  using P = Pack<T, N>;
  store_global(reinterpret_cast<P*>(to) + i, load_global(reinterpret_cast<const P*>(from + first) + step * i));
}

// One partial sum a block: through shuffles within a warp, through shared memory between warps.
__global__ void __launch_bounds__(256) sum(const float* from, double* to, int64_t count) {
  __shared__ SharedArray<double, 8> of_warp;
  double total = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += gridDim.x * blockDim.x) {
    total += load_global(from + i);
  }
  for (int reach = 16; reach > 0; reach /= 2) total += __shfl_down_sync(0xffffffff, total, reach);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = total;
  __syncthreads();
  if (threadIdx.x == 0) {
    double of_block = 0;
    for (int warp = 0; warp < static_cast<int>(blockDim.x / 32); ++warp) of_block += of_warp[warp];
    store_global(to + blockIdx.x, of_block);
  }
}

}  // namespace toy
