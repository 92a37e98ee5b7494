// What the two halves of gather_patches share, as in ops/mixture_nll/cpu.h.
#pragma once

#include "core/cpu/elements.h"

namespace mdn {

// One element of a window: which object's, and which of its kernel_size^2 cells.
struct WindowElement {
  int64_t object;
  int64_t cell;
};

// A cell of the map that some windows cover: the window elements that lie on it, in the order of the objects.
struct CoveredCell {
  int64_t offset;      // in the map's image, in elements
  int64_t begin, end;  // in the array of window elements
};

struct PatchKernel {
  // The window around the flat position `cell` of the image at `image`, into `to`: (C, kernel_size, kernel_size). A
  // negative cell gives zeros.
  void (*gather)(const MapView& map, const void* image, int64_t cell, int kernel_size, void* to);
  // Channels [begin, end) of one image's gradient: each covered cell gets the sum of its window elements. `patches` are
  // the image's patches, (N, C, window).
  void (*scatter)(const MapView& map, void* image, const CoveredCell* cells, int64_t count,
                  const WindowElement* elements, const void* patches, int64_t window, int64_t begin, int64_t end);
};

namespace baseline {
extern const PatchKernel patch_kernel;
}
namespace avx2 {
extern const PatchKernel patch_kernel;
}
namespace avx512 {
extern const PatchKernel patch_kernel;
}

}  // namespace mdn
