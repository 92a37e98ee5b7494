// What the two halves of mixture_nll share: cpu.cpp knows torch and threads, cpu_kernel.cpp is built
// once for each instruction set and knows neither.
#pragma once

#include "core/cpu/elements.h"
#include "mixture/dimensions.h"
#include "mixture/family.h"
#include "mixture/objective.h"
#include "mixture/scale.h"

namespace mdn {

struct MixtureCall {
  // Views of (B, channels, points). With an index, logits, loc and scale are read at its points; all else, the
  // gradients included, has a point for each entry of the index.
  View logits, loc, scale, target, mask, weight;  // mask and weight may be absent: data is null
  View nll;                                       // per position; absent where the loss is reduced
  bool reduced, mean;  // to one number; to the mean of all positions with something observed, else to their sum
  View grad_logits, grad_loc, grad_scale, grad_target;
  bool parameter_gradients, target_gradient;
  View tril, grad_tril;     // the entries of L and their gradients; absent where no dimensions are correlated
  View posterior;           // (B, M, points), where it is all that is wanted
  const int64_t* index;     // (B, points), contiguous, or null
  const int64_t* assigned;  // the same, for Assign::given
  int64_t batch, points;
  int components, dims, scales, groups;
  // Components whose parameters are read at a position and whose gradients are written: all, or 1, the assigned one,
  // beside zeros that are there already. Of the logits all are read and written.
  int evaluated;
  Dimensions dimensions;
  Objective objective;
  Family family;
  ScaleActivation activation;
  bool double_precision;
  double min_scale;
  const double* dim_scale;  // [dims] or null
  double gradient_factor;   // the reduction's own factor on every position's gradient
  int block;                // positions that are computed together, a multiple of every vector length
  int64_t span;             // positions that one thread takes at a time, some blocks
};

constexpr int largest_block = 256;

// The spans of a call, as threads take them.
struct Spans {
  int64_t (*next)(void* turns);  // a span that no thread has taken; `count` or more where none is left
  void* turns;
  int64_t count;
  double* sums;  // [count]
};

struct MixtureKernel {
  // Scratch that one thread needs, in bytes.
  int64_t (*scratch_bytes)(const MixtureCall&);
  // What one thread does: sums the weight (or count) of the positions with something observed, of each span that it
  // takes.
  void (*observed_weight)(const MixtureCall&, const Spans&, void* scratch);
  // What one thread does: loss and gradients of each span that it takes, and the weighted sum of its losses.
  void (*run)(const MixtureCall&, const Spans&, void* scratch);
};

namespace baseline {
extern const MixtureKernel mixture_kernel;
}
namespace avx2 {
extern const MixtureKernel mixture_kernel;
}
namespace avx512 {
extern const MixtureKernel mixture_kernel;
}

}  // namespace mdn
