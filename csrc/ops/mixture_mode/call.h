// A call of mixture_mode: its schema, and all of its host code that the CPU and a GPU share.
#pragma once

#include <tuple>

#include "mixture/parameters.h"

namespace mdn {

// All tensors (B, K, P), component and weight (B, P); without a scale the second result is empty.
inline constexpr char mixture_mode_schema[] =
    "mixture_mode(Tensor logits, Tensor loc, Tensor? scale, Tensor? index, str select, int[]? components, str "
    "scale_activation, float min_scale) -> (Tensor loc, Tensor scale, Tensor component, Tensor weight)";

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> mixture_mode(Tensor logits, Tensor loc, OptionalTensor scale,
                                                        OptionalTensor index, std::string select,
                                                        std::optional<std::vector<int64_t>> components,
                                                        std::string scale_activation, double min_scale) {
  const Device device(loc);
  typename Device::Call call = {};
  const Tensor cells = fill_parameters(call, device, logits, loc, scale, index, scale_activation, min_scale);
  call.selection = selection_of(select);
  typename Device::Allowed allowed;
  if (components) allowed = device.allow(call, *components, loc);

  // The modes of a map whose channels lie side by side have theirs so too.
  const bool by_point = !index && loc.stride(1) == 1 && loc.stride(2) != 1;
  const auto output = [&](int64_t channels) {
    if (!by_point) return fresh(loc, {call.batch, channels, call.points}, loc.scalar_type());
    return torch::stable::transpose(fresh(loc, {call.batch, call.points, channels}, loc.scalar_type()), 1, 2);
  };
  const Tensor mode_loc = output(call.dims);
  const Tensor mode_scale = scale ? output(call.scales) : fresh(loc, {0}, loc.scalar_type());
  const Tensor component = fresh(loc, {call.batch, call.points}, ScalarType::Long);
  const Tensor weight = fresh(loc, {call.batch, call.points}, loc.scalar_type());
  call.mode_loc = device.view(mode_loc);
  if (scale) call.mode_scale = device.view(mode_scale);
  call.component = data_of<int64_t>(component);
  call.weight = address_of(weight);
  device.run(call, loc);
  return {mode_loc, mode_scale, component, weight};
}

}  // namespace mdn
