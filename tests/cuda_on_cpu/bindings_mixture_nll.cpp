// Mirrors csrc/ops/mixture_nll/cuda.cu.
#include "bindings.h"
#include "mixture/options.h"
#include "ops/mixture_nll/cuda.cuh"
#include "views.h"

namespace {

using namespace cuda_on_cpu;

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mixture_nll(
    const Tensor& logits, const Tensor& loc, const Tensor& scale, const Tensor& target,
    const std::optional<Tensor>& mask, const std::optional<Tensor>& weight, const std::optional<Tensor>& index,
    const std::optional<Tensor>& dim_scale, const std::string& family, double family_parameter,
    const std::string& scale_activation, double min_scale, const std::string& reduction, bool parameter_gradients,
    bool target_gradient) {
  const bool gathered = index.has_value(), none = reduction == "none";
  const int64_t batch = target.size(0), points = target.size(2);
  const DType accumulate = loc.dtype() == DType::float64 ? DType::float64 : DType::float32;

  mdn::MixtureCall call = {};
  call.batch = batch;
  call.points = points;
  call.family = mdn::family_of(family, family_parameter);
  call.activation = mdn::activation_of(scale_activation);
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
  mdn::set_sizes(call);
  if (weight) call.weight = tile_view_of(*weight);
  Tensor index_contiguous, kappa;
  if (gathered) {
    index_contiguous = index->contiguous();
    call.observed.index = index_contiguous.data<int64_t>();
  }
  if (dim_scale) {
    kappa = Tensor(dim_scale->object().attr(accumulate == DType::float64 ? "double" : "float")(), false).contiguous();
    call.dim_scale = kappa.data();
  }

  const Tensor loss = new_empty(none ? std::vector<int64_t>{batch, points} : std::vector<int64_t>{}, accumulate);
  call.loss = loss.data();
  const auto gradient = [&](const Tensor& of, bool wanted, bool of_points) {
    if (!wanted) return new_empty({0}, accumulate);
    if (of_points || of.dtype() != accumulate) return new_empty({batch, of.size(1), points}, accumulate);
    return new_empty_like(of);
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

  const mdn::MixturePlan plan = mdn::plan_mixture(call);
  const Tensor workspace = new_empty({mdn::workspace_of(call, plan).bytes}, DType::uint8);
  mdn::run_mixture_nll(call, plan, workspace.data(), launch_here);
  return {loss, grad_logits, grad_loc, grad_scale, grad_target};
}

}  // namespace

CUDA_ON_CPU_BINDINGS { module.def("mixture_nll", &mixture_nll); }
