// What the two halves of heatmap_focal_loss share, as in ops/mixture_nll/cpu.h.
#pragma once

#include "core/cpu/elements.h"
#include "ops/heatmap_focal_loss/formula.h"

namespace mdn {

struct FocalCall {
  const void *logits, *target;  // walked in the order of memory, which is the same for both
  void* gradient;               // of logits' dtype; null where it is not wanted
  DType logits_dtype, target_dtype;
  int64_t count;
  bool double_precision;
  double alpha, beta;
  double gradient_factor;  // 1 / the number of positives
  bool past_cache;         // whether the gradient is too large to be found in a cache later
};

struct FocalSum {
  double loss;
  int64_t positives;
};

constexpr int focal_block = 4096;  // elements

struct FocalKernel {
  // The elements of one block with target 1.
  int64_t (*count_positives)(const FocalCall&, int64_t block);
  // The loss of one block, its positives, and its gradient where it is wanted. Where it is known to have no positives
  // it is not looked for them.
  FocalSum (*run)(const FocalCall&, int64_t block, bool any_positives);
};

namespace baseline {
extern const FocalKernel focal_kernel;
}
namespace avx2 {
extern const FocalKernel focal_kernel;
}
namespace avx512 {
extern const FocalKernel focal_kernel;
}

}  // namespace mdn
