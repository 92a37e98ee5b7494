// What every op of a mixture is called with, filled in once for the CPU and a GPU.
#pragma once

#include "core/torch_tensors.h"
#include "mixture/options.h"

namespace mdn {

// Fills in the views of a mixture's parameters, its sizes and how its scales are made. Returns the index as kernels
// read it, for the call to keep; nothing where none gathers the parameters.
template <class Device, class Call>
Tensor fill_parameters(Call& call, const Device& device, const Tensor& logits, const Tensor& loc,
                       const OptionalTensor& scale, const OptionalTensor& index, const std::string& scale_activation,
                       double min_scale) {
  const bool gathered = index.has_value();
  const int64_t components = logits.size(1);
  call.batch = loc.size(0);
  call.points = gathered ? index->size(1) : loc.size(2);
  call.components = static_cast<int>(components);
  call.dims = static_cast<int>(loc.size(1) / components);
  call.scales = scale ? static_cast<int>(scale->size(1) / components) : 0;
  call.activation = activation_of(scale_activation);
  call.min_scale = min_scale;
  call.logits = device.view(logits, gathered);
  call.loc = device.view(loc, gathered);
  if (scale) call.scale = device.view(*scale, gathered);
  if (!gathered) return {};
  const Tensor cells = torch::stable::contiguous(*index);
  call.index = data_of<const int64_t>(cells);
  return cells;
}

}  // namespace mdn
