// How work is spread: pieces of it over the blocks of a launch, a contiguous range of memory over the threads of a block.
#pragma once

#include "device.cuh"

namespace mdn {
namespace device {

// The blocks of a launch over so many pieces, of which each block takes every gridDim.x-th: at most those of a grid.
inline unsigned blocks_over(int64_t pieces) { return static_cast<unsigned>(pieces < 0x7fffffff ? pieces : 0x7fffffff); }

// Of the `count` elements from `address` on, `whole(i)` is called for each aligned pack of `width`, i its first element,
// and `single(i)` for the elements before the first pack and behind the last; both by this thread for its share alone.
// `unrolled`: how many packs of a thread are under way at once.
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

}  // namespace device
}  // namespace mdn
