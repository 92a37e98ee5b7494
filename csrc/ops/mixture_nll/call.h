// A call of mixture_nll and one of mixture_posterior, which the same kernels compute: their schemas, and all of their
// host code that the CPU and a GPU share.
#pragma once

#include <tuple>

#include "mixture/dimensions.h"
#include "mixture/objective.h"
#include "mixture/parameters.h"

namespace mdn {

// All tensors (B, K, P), weight and assigned (B, P). Gives the loss and, where they are asked for, the gradients of the
// reduced loss (of each position's loss where it is not reduced); beside an index those of the gathered points,
// (B, K, N).
inline constexpr char mixture_nll_schema[] =
    "mixture_nll(Tensor logits, Tensor loc, Tensor scale, Tensor target, Tensor? tril, Tensor? mask, Tensor? weight, "
    "Tensor? index, Tensor? dim_scale, Tensor? assigned, str family, float family_parameter, str scale_activation, "
    "float min_scale, bool interleaved, int block_size, str assign, float temperature, float gradient_power, "
    "float loc_factor, float scale_factor, bool natural, str reduction, bool parameter_gradients, "
    "bool target_gradient) -> (Tensor loss, Tensor grad_logits, Tensor grad_loc, Tensor grad_scale, Tensor "
    "grad_target, Tensor grad_tril)";

// The share (B, M, P) that each component has in explaining the target, 0 where nothing is observed.
inline constexpr char mixture_posterior_schema[] =
    "mixture_posterior(Tensor logits, Tensor loc, Tensor scale, Tensor target, Tensor? tril, Tensor? mask, "
    "Tensor? index, Tensor? dim_scale, str family, float family_parameter, str scale_activation, float min_scale, "
    "bool interleaved, int block_size, float temperature) -> Tensor";

// What both ops are called with, filled into a call; it keeps the tensors that kernels read and no caller holds.
template <class Device>
class MixtureInputs {
 public:
  MixtureInputs(typename Device::Call& call, const Device& device, const Tensor& logits, const Tensor& loc,
                const Tensor& scale, const Tensor& target, const OptionalTensor& tril, const OptionalTensor& mask,
                const OptionalTensor& index, const OptionalTensor& dim_scale, const std::string& family,
                double family_parameter, const std::string& scale_activation, double min_scale, bool interleaved,
                int64_t block_size)
      : cells_(fill_parameters(call, device, logits, loc, scale, index, scale_activation, min_scale)) {
    call.family = family_of(family, family_parameter);
    Dimensions& dimensions = call.dimensions;
    dimensions.count = call.dims;
    dimensions.scales = call.scales;
    dimensions.interleaved = interleaved;
    dimensions.block = static_cast<int>(block_size);
    if (tril) {
      dimensions.entries = static_cast<int>(tril->size(1) / logits.size(1));
      dimensions.shared_entries = dimensions.entries == dimensions.entries_of_block();
      call.tril = device.view(*tril, index.has_value());
    }
    call.target = device.view(target);
    if (mask) call.mask = device.view(*mask);
    if (dim_scale) {
      const ScalarType type = device.type_of_kappa(arithmetic_of(loc));
      kappa_ = torch::stable::contiguous(torch::stable::to(*dim_scale, type));
      call.dim_scale = data_of<const typename Device::Kappa>(kappa_);
    }
  }

 private:
  const Tensor cells_;
  Tensor kappa_;
};

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> mixture_nll(
    Tensor logits, Tensor loc, Tensor scale, Tensor target, OptionalTensor tril, OptionalTensor mask,
    OptionalTensor weight, OptionalTensor index, OptionalTensor dim_scale, OptionalTensor assigned, std::string family,
    double family_parameter, std::string scale_activation, double min_scale, bool interleaved, int64_t block_size,
    std::string assign, double temperature, double gradient_power, double loc_factor, double scale_factor, bool natural,
    std::string reduction, bool parameter_gradients, bool target_gradient) {
  const Device device(loc);
  const ScalarType accumulate = arithmetic_of(loc);
  typename Device::Call call = {};
  const MixtureInputs<Device> inputs(call, device, logits, loc, scale, target, tril, mask, index, dim_scale, family,
                                     family_parameter, scale_activation, min_scale, interleaved, block_size);
  call.objective = {assign_of(assign), temperature, gradient_power, loc_factor, scale_factor, natural};
  call.reduced = reduction != "none";
  call.mean = reduction == "mean";
  call.parameter_gradients = parameter_gradients;
  call.target_gradient = target_gradient;
  if (weight) call.weight = device.view(*weight);
  Tensor components;
  if (assigned) {
    components = torch::stable::contiguous(*assigned);
    call.assigned = data_of<const int64_t>(components);
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
  const Tensor grad_tril = gradient(tril ? *tril : loc, tril && parameter_gradients, index.has_value());
  if (parameter_gradients) {
    call.grad_logits = device.view(grad_logits);
    call.grad_loc = device.view(grad_loc);
    call.grad_scale = device.view(grad_scale);
    if (tril) call.grad_tril = device.view(grad_tril);
  }
  if (target_gradient) call.grad_target = device.view(grad_target);
  device.run(call, loss);
  return {loss, grad_logits, grad_loc, grad_scale, grad_target, grad_tril};
}

template <class Device>
Tensor mixture_posterior(Tensor logits, Tensor loc, Tensor scale, Tensor target, OptionalTensor tril,
                         OptionalTensor mask, OptionalTensor index, OptionalTensor dim_scale, std::string family,
                         double family_parameter, std::string scale_activation, double min_scale, bool interleaved,
                         int64_t block_size, double temperature) {
  const Device device(loc);
  const ScalarType accumulate = arithmetic_of(loc);
  typename Device::Call call = {};
  const MixtureInputs<Device> inputs(call, device, logits, loc, scale, target, tril, mask, index, dim_scale, family,
                                     family_parameter, scale_activation, min_scale, interleaved, block_size);
  call.objective.temperature = temperature;
  call.reduced = true;  // to a sum that nobody reads
  const Tensor posterior = fresh(logits, {call.batch, logits.size(1), call.points}, accumulate);
  call.posterior = device.view(posterior);
  device.run(call, fresh(target, std::vector<int64_t>{}, accumulate));
  return posterior;
}

}  // namespace mdn
