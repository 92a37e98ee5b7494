// heatmap_focal_loss on the CPU: outputs, blocks over threads, and the reduction.
//
// The gradient needs the number of positives before its first element is written. Counting them first reads the target
// once more, a third of the bytes that the op must move; writing gradients without the divisor and scaling them later
// would read and write them again, twice as much; a second evaluation in backward would read both inputs again. The
// first pass leaves the end of each thread's share of the target in the caches, so the second pass walks it backwards.
// Without a gradient there is one pass alone.
//
// Blocks are cut by position alone and their sums are added in order, in double: the result has the same bits for any
// number of threads.
#include "ops/heatmap_focal_loss/cpu.h"

#include <tuple>

#include "core/cpu/simd_level.h"
#include "core/cpu/tensors.h"

namespace mdn {
namespace {

constexpr int64_t blocks_in_share = 4;        // the least that is worth a thread
constexpr int64_t cached_gradient = 4 << 20;  // bytes that may still be in a cache when backward is done

std::tuple<Tensor, Tensor> heatmap_focal_loss(Tensor logits, Tensor target, double alpha, double beta,
                                              bool logits_gradient) {
  const ScalarType accumulate = arithmetic_of(logits);
  const Tensor loss = fresh(logits, {}, accumulate);
  const Tensor gradient = logits_gradient ? fresh_like(logits) : fresh(logits, {0}, logits.scalar_type());

  FocalCall call = {};
  call.logits = logits.data_ptr();
  call.target = target.data_ptr();
  call.gradient = logits_gradient ? gradient.data_ptr() : nullptr;
  call.logits_dtype = dtype_of(logits);
  call.target_dtype = dtype_of(target);
  call.count = logits.numel();
  call.double_precision = accumulate == ScalarType::Double;
  call.alpha = alpha;
  call.beta = beta;
  call.past_cache = call.count * logits.element_size() > cached_gradient;

  const FocalKernel& kernel = MDN_AT_SIMD_LEVEL(focal_kernel);
  const int64_t blocks = (call.count + focal_block - 1) / focal_block;
  std::vector<FocalSum> sums(blocks);
  if (logits_gradient) {
    torch::stable::parallel_for(0, blocks, blocks_in_share, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) sums[block].positives = kernel.count_positives(call, block);
    });
    int64_t positives = 0;
    for (const FocalSum& sum : sums) positives += sum.positives;
    call.gradient_factor = positives > 0 ? 1.0 / static_cast<double>(positives) : 1.0;
  }
  torch::stable::parallel_for(0, blocks, blocks_in_share, [&](int64_t begin, int64_t end) {
    for (int64_t block = end; block-- > begin;) sums[block] = kernel.run(call, block);
  });
  FocalSum total = {};
  for (const FocalSum& sum : sums) {
    total.loss += sum.loss;
    total.positives += sum.positives;
  }
  torch::stable::fill_(loss, total.positives > 0 ? total.loss / static_cast<double>(total.positives) : total.loss);
  return {loss, gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CPU, m) { m.impl("heatmap_focal_loss", TORCH_BOX(&heatmap_focal_loss)); }

}  // namespace mdn
