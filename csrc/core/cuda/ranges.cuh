// Walks contiguous ranges of memory 16 bytes at a time, wherever they begin.
#pragma once

#include "core/cuda/device.cuh"

namespace mdn {
namespace device {

// Visits this thread's share of the `count` elements from `address` on. It calls `whole(i)` for each aligned pack of
// `width` elements, of which i is the first, and `single(i)` for each element before the first pack and behind the
// last. `unrolled` packs of a thread are under way at once.
template <int width, int unrolled = 4, class T, class Whole, class Single>
MDN_ON_DEVICE void over_packs(const T* address, int count, Whole whole, Single single) {
  const int before = static_cast<int>(reinterpret_cast<uintptr_t>(address) / sizeof(T) % width);
  const int packs = (before + count + width - 1) / width;
#pragma unroll unrolled
  for (int pack = threadIdx.x; pack < packs; pack += blockDim.x) {
    const int first = pack * width - before;
    if (first >= 0 && first + width <= count) {
      whole(first);
    } else {
      for (int i = max(first, 0); i < min(first + width, count); ++i) single(i);
    }
  }
}

constexpr int zero_threads = 256;
template <class T>
constexpr int zeros_of_block = 8 * zero_threads * pack_width<T>;

template <class T>
__global__ void __launch_bounds__(zero_threads) write_zeros(T* to, int64_t count) {
  constexpr int width = pack_width<T>, share = zeros_of_block<T>;
  for (int64_t first = int64_t(blockIdx.x) * share; first < count; first += int64_t(gridDim.x) * share) {
    T* here = to + first;
    over_packs<width>(
        here, static_cast<int>(min(int64_t(share), count - first)),
        [&](int i) { store_global(reinterpret_cast<Pack<T, width>*>(here + i), Pack<T, width>{}); },
        [&](int i) { store_global(here + i, T{}); });
  }
}

template <class T>
constexpr int64_t blocks_of_zeros(int64_t count) {
  return (count + zeros_of_block<T> - 1) / zeros_of_block<T>;
}

}  // namespace device
}  // namespace mdn
