// mixture_nll on the CPU: blocks over threads, and the reduction.
//
// Spans are cut by position alone and their sums are added in order, in double: the result has the same bits for any
// number of threads.
#include "ops/mixture_nll/cpu.h"

#include <algorithm>
#include <numeric>

#include "core/cpu/memory.h"
#include "core/cpu/simd_level.h"
#include "core/cpu/tensors.h"
#include "core/cpu/turns.h"
#include "ops/mixture_nll/call.h"

namespace mdn {
namespace {

// As many positions as keep the scratch of one block within half of a common second-level cache.
int block_positions(const MixtureCall& call) {
  const int64_t element = call.double_precision ? 8 : 4;
  const int64_t values = int64_t(call.evaluated) * (call.dims + 4 * call.scales) + 2 * call.dims;
  int block = largest_block;
  while (block > 16 && block * values * element > (512 << 10)) block /= 2;
  return block;
}

// Whether the assigned component is evaluated alone: where its parameters are read without those beside it. Of a map,
// in which positions lie side by side, a line of memory holds a channel of many, and all are read in order.
bool assigned_alone(const MixtureCall& call) {
  return call.assigned != nullptr && (call.index != nullptr || call.loc.channel_stride == 1);
}

// Zeroes a gradient of the call, which is dense.
void zero(const MixtureCall& call, const View& gradient) {
  if (gradient.data == nullptr) return;
  zero_memory(gradient.data, call.batch * gradient.channels * call.points * element_bytes(gradient.dtype));
}

struct NllOnCpu : CpuCall {
  using CpuCall::CpuCall;
  using Call = MixtureCall;
  using Kappa = double;
  static ScalarType type_of_kappa(ScalarType) { return ScalarType::Double; }
  static void run(Call& call, const Tensor& loss);
};

// Calls `visit` for all spans of the call, over threads, and adds their sums in order.
double sum_spans(const MixtureCall& call, int64_t scratch_bytes,
                 void (*visit)(const MixtureCall&, const Spans&, void*)) {
  const int64_t count = (call.batch * call.points + call.span - 1) / call.span;
  std::vector<double> sums(count);
  take_turns(count, [&](Turns& turns) {
    const ThreadScratch scratch(scratch_bytes);
    const auto next = [](void* state) { return static_cast<Turns*>(state)->next(); };
    visit(call, {next, &turns, count, sums.data()}, scratch.get());
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

void NllOnCpu::run(Call& call, const Tensor& loss) {
  call.groups = call.mask.channels;
  call.double_precision = call.loc.dtype == DType::float64;
  call.gradient_factor = 1;
  call.evaluated = assigned_alone(call) ? 1 : call.components;
  if (call.evaluated < call.components) {
    for (const View* gradient : {&call.grad_loc, &call.grad_scale, &call.grad_tril}) zero(call, *gradient);
  }
  call.block = block_positions(call);
  const int64_t positions = call.batch * call.points;
  call.span = call.block * std::clamp<int64_t>(positions / (64 * call.block), 1, 8);
  if (!call.reduced) call.nll = view_of(loss);

  const MixtureKernel& kernel = MDN_AT_SIMD_LEVEL(mixture_kernel);
  const int64_t scratch_bytes = kernel.scratch_bytes(call);
  double share = 1;
  if (call.mean) {
    const bool all = !call.mask.data && !call.index && !call.assigned && !call.weight.data;
    share = all ? static_cast<double>(positions) : sum_spans(call, scratch_bytes, kernel.observed_weight);
    if (share == 0) share = 1;
    call.gradient_factor = 1 / share;
  }
  const double total = sum_spans(call, scratch_bytes, kernel.run) / share;
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
