// What the two halves of mixture_mode share, as in ops/mixture_nll/cpu.h.
#pragma once

#include "core/cpu/elements.h"
#include "mixture/scale.h"
#include "mixture/selection.h"

namespace mdn {

struct ModeCall {
  // Views of (B, channels, points). With an index, the inputs are read at its points.
  View logits, loc, scale;       // scale may be absent: no channels
  View mode_loc, mode_scale;     // of the inputs' dtype
  int64_t* component;            // (B, points), contiguous
  void* weight;                  // (B, points), contiguous, of the inputs' dtype
  const int64_t* index;          // (B, points), contiguous, or null
  const unsigned char* allowed;  // [components], or null where all are
  int64_t batch, points;
  int64_t components, dims, scales;
  Selection selection;
  ScaleActivation activation;
  double min_scale;
  int block;  // positions in a block, a multiple of every vector length
};

constexpr int largest_mode_block = most_positions;

struct ModeKernel {
  // Scratch that one thread needs, in bytes.
  int64_t (*scratch_bytes)(const ModeCall&);
  void (*run)(const ModeCall&, int64_t block, void* scratch);
};

namespace baseline {
extern const ModeKernel mode_kernel;
}
namespace avx2 {
extern const ModeKernel mode_kernel;
}
namespace avx512 {
extern const ModeKernel mode_kernel;
}

}  // namespace mdn
