// mixture_nll on the CPU: outputs, blocks over threads, and the reduction.
//
// Spans are cut by position alone and their sums are added in order, in double: the result has the same bits for any
// number of threads.
#include "ops/mixture_nll/cpu.h"

#include <algorithm>
#include <tuple>

#include "core/cpu/simd_level.h"
#include "core/cpu/tensors.h"
#include "mixture/options.h"

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

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mixture_nll(Tensor logits, Tensor loc, Tensor scale, Tensor target,
                                                               OptionalTensor mask, OptionalTensor weight,
                                                               OptionalTensor index, OptionalTensor dim_scale,
                                                               std::string family, double family_parameter,
                                                               std::string scale_activation, double min_scale,
                                                               std::string reduction, bool parameter_gradients,
                                                               bool target_gradient) {
  const bool gathered = index.has_value();
  const bool none = reduction == "none", mean = reduction == "mean";
  const int64_t batch = target.size(0), points = target.size(2);
  const ScalarType accumulate = arithmetic_of(loc);

  MixtureCall call = {};
  call.batch = batch;
  call.points = points;
  call.components = static_cast<int>(logits.size(1));
  call.dims = static_cast<int>(target.size(1));
  call.scales = static_cast<int>(scale.size(1) / logits.size(1));
  call.family = family_of(family, family_parameter);
  call.activation = activation_of(scale_activation);
  call.double_precision = accumulate == ScalarType::Double;
  call.min_scale = min_scale;
  call.parameter_gradients = parameter_gradients;
  call.target_gradient = target_gradient;
  call.gradient_factor = 1;
  call.logits = view_of(logits, gathered);
  call.loc = view_of(loc, gathered);
  call.scale = view_of(scale, gathered);
  call.target = view_of(target);
  if (mask) {
    call.mask = view_of(*mask);
    call.groups = call.mask.channels;
  }
  if (weight) call.weight = view_of(*weight);
  Tensor index_contiguous;
  if (gathered) {
    index_contiguous = torch::stable::contiguous(*index);
    call.index = static_cast<const int64_t*>(index_contiguous.data_ptr());
  }
  std::vector<double> kappa;
  if (dim_scale) {
    const Tensor values = torch::stable::contiguous(torch::stable::to(*dim_scale, ScalarType::Double));
    const double* first = static_cast<const double*>(values.data_ptr());
    kappa.assign(first, first + call.dims);
    call.dim_scale = kappa.data();
  }
  call.block = block_positions(call);
  call.span = call.block * static_cast<int>(std::clamp<int64_t>(batch * points / (64 * call.block), 1, 8));

  Tensor loss = none ? fresh(target, {batch, points}, accumulate) : fresh(target, {}, accumulate);
  const std::vector<int64_t> nothing = {0}, target_sizes = {batch, target.size(1), points};
  // Beside an index the gradients are those of the gathered points; autograd scatters them. Those of half-precision
  // inputs stay in float32 until they have been multiplied by what comes from above: a mean's would underflow.
  const auto gradient = [&](const Tensor& of, bool wanted) {
    if (!wanted) return fresh(of, nothing, accumulate);
    if (gathered) return fresh(of, {batch, of.size(1), points}, accumulate);
    return of.scalar_type() == accumulate ? fresh_like(of) : fresh(of, {batch, of.size(1), points}, accumulate);
  };
  Tensor grad_logits = gradient(logits, parameter_gradients);
  Tensor grad_loc = gradient(loc, parameter_gradients);
  Tensor grad_scale = gradient(scale, parameter_gradients);
  Tensor grad_target = target_gradient && target.scalar_type() == accumulate
                           ? fresh_like(target)
                           : fresh(target, target_gradient ? target_sizes : nothing, accumulate);
  if (parameter_gradients) {
    call.grad_logits = view_of(grad_logits);
    call.grad_loc = view_of(grad_loc);
    call.grad_scale = view_of(grad_scale);
  }
  if (target_gradient) call.grad_target = view_of(grad_target);
  if (none) call.nll = view_of(loss);

  const MixtureKernel& kernel = MDN_AT_SIMD_LEVEL(mixture_kernel);
  const int64_t spans = (batch * points + call.span - 1) / call.span;
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
  if (mean) {
    share = over_spans(kernel.observed_weight);
    if (share == 0) share = 1;
    call.gradient_factor = 1 / share;
  }
  const double total = over_spans(kernel.run) / share;
  if (!none) torch::stable::fill_(loss, total);
  return {loss, grad_logits, grad_loc, grad_scale, grad_target};
}

template <class Storage>
void add_points(const Tensor& values, const int64_t* index, const Tensor& maps) {
  const int64_t channels = values.size(1), count = values.size(2), positions = maps.size(2);
  const auto* from = static_cast<const Storage*>(values.data_ptr());
  auto* to = static_cast<Storage*>(maps.data_ptr());
  torch::stable::parallel_for(0, values.size(0) * channels, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t* chosen = index + row / channels * count;
      for (int64_t n = 0; n < count; ++n) {
        if (chosen[n] >= 0) to[row * positions + chosen[n]] += from[row * count + n];
      }
    }
  });
}

// (B, K, P), float32 or float64, zero but for values (B, K, N) added at index (B, N) in its order; -1 is padding.
Tensor scatter_points(Tensor values, Tensor index, int64_t positions) {
  const Tensor from = torch::stable::contiguous(values), where = torch::stable::contiguous(index);
  const Tensor maps = fresh(values, {values.size(0), values.size(1), positions}, values.scalar_type());
  zero(maps);
  const auto* chosen = static_cast<const int64_t*>(where.data_ptr());
  if (dtype_of(values) == DType::float64) {
    add_points<double>(from, chosen, maps);
  } else {
    STD_TORCH_CHECK(dtype_of(values) == DType::float32,
                    "mdnkernels::scatter_points: values must be float32 or float64");
    add_points<float>(from, chosen, maps);
  }
  return maps;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CPU, m) {
  m.impl("mixture_nll", TORCH_BOX(&mixture_nll));
  m.impl("scatter_points", TORCH_BOX(&scatter_points));
}

}  // namespace mdn
