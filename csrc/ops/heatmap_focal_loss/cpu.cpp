// heatmap_focal_loss on the CPU: blocks over threads, and the reduction.
//
// The gradient needs the number of positives before its first element is written. Counting them first reads the target
// once more, a third of the bytes that the op must move; writing gradients without the divisor and scaling them later
// would read and write them again, twice as much; a second evaluation in backward would read both inputs again. The
// first pass walks each thread's share backwards, so that its beginning is in the caches when the second pass comes.
// Without a gradient there is one pass alone.
//
// Blocks are cut by position alone and their sums are added in order, in double: the result has the same bits for any
// number of threads.
#include "ops/heatmap_focal_loss/cpu.h"

#include "core/cpu/simd_level.h"
#include "core/cpu/tensors.h"
#include "ops/heatmap_focal_loss/call.h"

namespace mdn {
namespace {

constexpr int64_t blocks_in_share = 4;        // the least that is worth a thread
constexpr int64_t cached_gradient = 4 << 20;  // bytes that may still be in a cache when backward is done

struct FocalOnCpu : CpuCall {
  using CpuCall::CpuCall;
  using Call = FocalCall;
  static void run(Call& call, const Tensor& loss);
};

void FocalOnCpu::run(Call& call, const Tensor& loss) {
  call.double_precision = call.logits_dtype == DType::float64;
  call.past_cache = call.count * element_bytes(call.logits_dtype) > cached_gradient;

  const FocalKernel& kernel = MDN_AT_SIMD_LEVEL(focal_kernel);
  const int64_t blocks = (call.count + focal_block - 1) / focal_block;
  std::vector<FocalSum> sums(blocks);
  if (call.gradient != nullptr) {
    torch::stable::parallel_for(0, blocks, blocks_in_share, [&](int64_t begin, int64_t end) {
      for (int64_t block = end; block-- > begin;) sums[block].positives = kernel.count_positives(call, block);
    });
    int64_t positives = 0;
    for (const FocalSum& sum : sums) positives += sum.positives;
    call.gradient_factor = positives > 0 ? 1.0 / static_cast<double>(positives) : 1.0;
  }
  torch::stable::parallel_for(0, blocks, blocks_in_share, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      sums[block] = kernel.run(call, block, call.gradient == nullptr || sums[block].positives > 0);
    }
  });
  FocalSum total = {};
  for (const FocalSum& sum : sums) {
    total.loss += sum.loss;
    total.positives += sum.positives;
  }
  torch::stable::fill_(loss, total.positives > 0 ? total.loss / static_cast<double>(total.positives) : total.loss);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mdnkernels, m) { m.def(heatmap_focal_loss_schema); }
STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CPU, m) {
  m.impl("heatmap_focal_loss", TORCH_BOX(&heatmap_focal_loss<FocalOnCpu>));
}

}  // namespace mdn
