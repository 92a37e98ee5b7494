// A call of heatmap_focal_loss: its schema, and all of its host code that the CPU and a GPU share.
#pragma once

#include <tuple>

#include "core/torch_tensors.h"

namespace mdn {

// logits and target are of one shape and lie in memory in one order, without gaps. Gives the loss and, where it is
// asked for, its gradient.
inline constexpr char heatmap_focal_loss_schema[] =
    "heatmap_focal_loss(Tensor logits, Tensor target, float alpha, float beta, bool logits_gradient) -> (Tensor loss, "
    "Tensor grad_logits)";

template <class Device>
std::tuple<Tensor, Tensor> heatmap_focal_loss(Tensor logits, Tensor target, double alpha, double beta,
                                              bool logits_gradient) {
  const Device device(logits);
  const Tensor loss = fresh(logits, {}, arithmetic_of(logits));
  const Tensor gradient = logits_gradient ? fresh_like(logits) : fresh(logits, {0}, logits.scalar_type());
  typename Device::Call call = {};
  call.logits = address_of(logits);
  call.target = address_of(target);
  call.gradient = logits_gradient ? address_of(gradient) : nullptr;
  call.logits_dtype = dtype_of(logits);
  call.target_dtype = dtype_of(target);
  call.count = logits.numel();
  call.alpha = alpha;
  call.beta = beta;
  device.run(call, loss);
  return {loss, gradient};
}

}  // namespace mdn
