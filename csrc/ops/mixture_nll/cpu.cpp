// mixture_nll on the CPU: blocks over threads, and the reduction.
//
// Spans are cut by position alone and their sums are added in order, in double: the result has the same bits for any
// number of threads.
#include "ops/mixture_nll/cpu.h"

#include <algorithm>

#include "core/cpu/simd_level.h"
#include "core/cpu/tensors.h"
#include "ops/mixture_nll/call.h"

namespace mdn {
namespace {

// As many positions as keep the scratch of one block within half of a common second-level cache.
int block_positions(const MixtureCall& call) {
  const int64_t element = call.double_precision ? 8 : 4;
  const int64_t values = int64_t(call.components) * (call.dims + 4 * call.scales) + 2 * call.dims;
  int block = largest_block;
  while (block > 32 && block * values * element > (512 << 10)) block /= 2;
  return block;
}

void refuse_unwritten(const MixtureCall& call) {
  const Objective& objective = call.objective;
  STD_TORCH_CHECK(call.dimensions.block == 1 && call.dimensions.interleaved && !call.posterior.data &&
                      objective.assign == Assign::likelihood && objective.temperature == 1 && !objective.rescales(),
                  "mixture_nll: an option that this kernel does not have");
}

struct NllOnCpu : CpuCall {
  using CpuCall::CpuCall;
  using Call = MixtureCall;
  using Kappa = double;
  static ScalarType type_of_kappa(ScalarType) { return ScalarType::Double; }
  static Call& observed(Call& call) { return call; }
  static void run(Call& call, const Tensor& loss);
};

void NllOnCpu::run(Call& call, const Tensor& loss) {
  refuse_unwritten(call);
  call.groups = call.mask.channels;
  call.double_precision = call.loc.dtype == DType::float64;
  call.gradient_factor = 1;
  call.block = block_positions(call);
  const int64_t positions = call.batch * call.points;
  call.span = call.block * static_cast<int>(std::clamp<int64_t>(positions / (64 * call.block), 1, 8));
  if (!call.reduced) call.nll = view_of(loss);

  const MixtureKernel& kernel = MDN_AT_SIMD_LEVEL(mixture_kernel);
  const int64_t spans = (positions + call.span - 1) / call.span;
  const int64_t scratch_bytes = kernel.scratch_bytes(call);
  std::vector<double> sums(spans);
  const auto over_spans = [&](double (*visit)(const MixtureCall&, int64_t, void*)) {
    torch::stable::parallel_for(0, spans, 1, [&](int64_t begin, int64_t end) {
      const ThreadScratch scratch(scratch_bytes);
      for (int64_t span = begin; span < end; ++span) sums[span] = visit(call, span, scratch.get());
    });
    double total = 0;
    for (const double sum : sums) total += sum;
    return total;
  };
  double share = 1;
  if (call.mean) {
    share = over_spans(kernel.observed_weight);
    if (share == 0) share = 1;
    call.gradient_factor = 1 / share;
  }
  const double total = over_spans(kernel.run) / share;
  if (call.reduced) torch::stable::fill_(loss, total);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mdnkernels, m) {
  m.def(mixture_nll_schema);
  m.def(mixture_posterior_schema);
}
STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CPU, m) {
  m.impl("mixture_nll", TORCH_BOX(&mixture_nll<NllOnCpu>));
  m.impl("mixture_posterior", TORCH_BOX(&mixture_posterior<NllOnCpu>));
}

}  // namespace mdn
