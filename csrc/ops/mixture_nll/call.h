// A call of mixture_nll: its schema, and all of its host code that the CPU and a GPU share.
#pragma once

#include <tuple>

#include "mixture/parameters.h"

namespace mdn {

// All tensors (B, K, P), weight (B, P). Gives the loss and, where they are asked for, the gradients of the reduced loss
// (of each position's loss where it is not reduced); beside an index those of the gathered points, (B, K, N).
inline constexpr char mixture_nll_schema[] =
    "mixture_nll(Tensor logits, Tensor loc, Tensor scale, Tensor target, Tensor? mask, Tensor? weight, Tensor? index, "
    "Tensor? dim_scale, str family, float family_parameter, str scale_activation, float min_scale, str reduction, "
    "bool parameter_gradients, bool target_gradient) -> (Tensor loss, Tensor grad_logits, Tensor grad_loc, Tensor "
    "grad_scale, Tensor grad_target)";

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mixture_nll(Tensor logits, Tensor loc, Tensor scale, Tensor target,
                                                               OptionalTensor mask, OptionalTensor weight,
                                                               OptionalTensor index, OptionalTensor dim_scale,
                                                               std::string family, double family_parameter,
                                                               std::string scale_activation, double min_scale,
                                                               std::string reduction, bool parameter_gradients,
                                                               bool target_gradient) {
  const Device device(loc);
  const ScalarType accumulate = arithmetic_of(loc);
  typename Device::Call call = {};
  const Tensor cells = fill_parameters(call, device, logits, loc, scale, index, scale_activation, min_scale);
  call.family = family_of(family, family_parameter);
  call.reduced = reduction != "none";
  call.mean = reduction == "mean";
  call.parameter_gradients = parameter_gradients;
  call.target_gradient = target_gradient;
  call.target = device.view(target);
  if (mask) device.observed(call).mask = device.view(*mask);
  if (weight) call.weight = device.view(*weight);
  Tensor kappa;
  if (dim_scale) {
    kappa = torch::stable::contiguous(torch::stable::to(*dim_scale, device.type_of_kappa(accumulate)));
    call.dim_scale = data_of<const typename Device::Kappa>(kappa);
  }

  const std::vector<int64_t> one = {}, each = {call.batch, call.points};
  const Tensor loss = fresh(target, call.reduced ? one : each, accumulate);
  // Beside an index the gradients are those of the gathered points; autograd scatters them. Those of half-precision
  // inputs stay in float32 until they have been multiplied by what comes from above: a mean's would underflow.
  const auto gradient = [&](const Tensor& of, bool wanted, bool of_points) {
    if (!wanted) return fresh(of, {0}, accumulate);
    if (of_points || of.scalar_type() != accumulate)
      return fresh(of, {call.batch, of.size(1), call.points}, accumulate);
    return fresh_like(of);
  };
  const Tensor grad_logits = gradient(logits, parameter_gradients, index.has_value());
  const Tensor grad_loc = gradient(loc, parameter_gradients, index.has_value());
  const Tensor grad_scale = gradient(scale, parameter_gradients, index.has_value());
  const Tensor grad_target = gradient(target, target_gradient, false);
  if (parameter_gradients) {
    call.grad_logits = device.view(grad_logits);
    call.grad_loc = device.view(grad_loc);
    call.grad_scale = device.view(grad_scale);
  }
  if (target_gradient) call.grad_target = device.view(grad_target);
  device.run(call, loss);
  return {loss, grad_logits, grad_loc, grad_scale, grad_target};
}

}  // namespace mdn
