// Contiguous ranges of memory walked by the threads of a block, 16 bytes at a time wherever they begin.
#pragma once

#include "device.cuh"

namespace mdn {
namespace device {

// Of the `count` elements from `address` on, `whole(i)` is called for each aligned pack of `width`, i its first element,
// and `single(i)` for the elements before the first pack and behind the last; both by this thread for its share alone.
template <int width, class T, class Whole, class Single>
MDN_ON_DEVICE void over_packs(const T* address, int count, Whole whole, Single single) {
  const int before = static_cast<int>(reinterpret_cast<uintptr_t>(address) / sizeof(T) % width);
  const int packs = (before + count + width - 1) / width;
#pragma unroll 4
  for (int pack = threadIdx.x; pack < packs; pack += blockDim.x) {
    const int first = pack * width - before;
    if (first >= 0 && first + width <= count) {
      whole(first);
    } else {
      for (int i = max(first, 0); i < min(first + width, count); ++i) single(i);
    }
  }
}

}  // namespace device
}  // namespace mdn
