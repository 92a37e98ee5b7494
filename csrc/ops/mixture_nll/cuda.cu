// mixture_nll on a GPU: outputs, workspaces and launches. Nothing waits for the device.
#include <tuple>

#include "core/cuda/launch.h"
#include "mixture/options.h"
#include "ops/mixture_nll/cuda.cuh"

namespace mdn {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mixture_nll(Tensor logits, Tensor loc, Tensor scale, Tensor target,
                                                               OptionalTensor mask, OptionalTensor weight,
                                                               OptionalTensor index, OptionalTensor dim_scale,
                                                               std::string family, double family_parameter,
                                                               std::string scale_activation, double min_scale,
                                                               std::string reduction, bool parameter_gradients,
                                                               bool target_gradient) {
  const bool gathered = index.has_value(), none = reduction == "none";
  const int64_t batch = target.size(0), points = target.size(2);
  const ScalarType accumulate = arithmetic_of(loc);
  const DeviceCall device(loc);

  MixtureCall call = {};
  call.batch = batch;
  call.points = points;
  call.family = family_of(family, family_parameter);
  call.activation = activation_of(scale_activation);
  call.min_scale = min_scale;
  call.reduced = !none;
  call.mean = reduction == "mean";
  call.parameter_gradients = parameter_gradients;
  call.target_gradient = target_gradient;
  call.logits = tile_view_of(logits, gathered);
  call.loc = tile_view_of(loc, gathered);
  call.scale = tile_view_of(scale, gathered);
  call.target = tile_view_of(target);
  if (mask) call.observed.mask = tile_view_of(*mask);
  set_sizes(call);
  if (weight) call.weight = tile_view_of(*weight);
  Tensor index_contiguous, kappa;
  if (gathered) {
    index_contiguous = torch::stable::contiguous(*index);
    call.observed.index = data_of<const int64_t>(index_contiguous);
  }
  if (dim_scale) {
    kappa = torch::stable::contiguous(torch::stable::to(*dim_scale, accumulate));
    call.dim_scale = address_of(kappa);
  }

  const Tensor loss = none ? fresh(target, {batch, points}, accumulate) : fresh(target, {}, accumulate);
  call.loss = address_of(loss);
  // As on the CPU: beside an index the gradients are those of the gathered points, and those of half-precision inputs
  // stay in float32 until autograd has multiplied them by what comes from above.
  const auto gradient = [&](const Tensor& of, bool wanted, bool of_points) {
    if (!wanted) return fresh(of, {0}, accumulate);
    if (of_points || of.scalar_type() != accumulate) return fresh(of, {batch, of.size(1), points}, accumulate);
    return fresh_like(of);
  };
  const Tensor grad_logits = gradient(logits, parameter_gradients, gathered);
  const Tensor grad_loc = gradient(loc, parameter_gradients, gathered);
  const Tensor grad_scale = gradient(scale, parameter_gradients, gathered);
  const Tensor grad_target = gradient(target, target_gradient, false);
  if (parameter_gradients) {
    call.grad_logits = tile_view_of(grad_logits);
    call.grad_loc = tile_view_of(grad_loc);
    call.grad_scale = tile_view_of(grad_scale);
  }
  if (target_gradient) call.grad_target = tile_view_of(grad_target);

  const MixturePlan plan = plan_mixture(call);
  STD_TORCH_CHECK(plan.tiling.count <= most_tiles, "mixture_nll: ", batch, " x ", points,
                  " positions are too many for a GPU");
  const Tensor workspace = fresh(target, {workspace_of(call, plan).bytes}, ScalarType::Byte);
  run_mixture_nll(call, plan, address_of(workspace), Launcher{device, "mixture_nll"});
  return {loss, grad_logits, grad_loc, grad_scale, grad_target};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) { m.impl("mixture_nll", TORCH_BOX(&mixture_nll)); }

}  // namespace mdn
