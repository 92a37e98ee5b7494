// A call of center_focal_loss: its schema, and all of its host code that the CPU and a GPU share.
#pragma once

#include <tuple>

#include "core/torch_tensors.h"

namespace mdn {

// logits (B, Y, H, W) lie in memory without gaps, contiguous or channels_last. Gives the loss and, where it is asked
// for, its gradient.
inline constexpr char center_focal_loss_schema[] =
    "center_focal_loss(Tensor logits, Tensor center, Tensor radius, Tensor label, Tensor? ignore, float alpha, "
    "float beta, bool logits_gradient) -> (Tensor loss, Tensor grad_logits)";

// The objects of a call, (batch, objects, 2) and (batch, objects); where a map's cells lie among the logits.
struct CenterObjects {
  const int64_t *center, *radius, *label;  // label -1 is padding
  const bool* ignore;                      // null where no object is
  int64_t batch, objects, labels, height, width;
  int64_t map_stride, row_stride, column_stride;  // in elements; an image's maps fill labels * height * width

  int64_t count() const { return batch * objects; }
  int64_t elements() const { return batch * labels * height * width; }
};

template <class Device>
std::tuple<Tensor, Tensor> center_focal_loss(Tensor logits, Tensor center, Tensor radius, Tensor label,
                                             OptionalTensor ignore, double alpha, double beta, bool logits_gradient) {
  const Device device(logits);
  const Tensor centers = torch::stable::contiguous(center), radii = torch::stable::contiguous(radius);
  const Tensor label_of_objects = torch::stable::contiguous(label);
  const Tensor ignored = ignore ? torch::stable::contiguous(*ignore) : label_of_objects;
  const Tensor loss = fresh(logits, {}, arithmetic_of(logits));
  const Tensor gradient = logits_gradient ? fresh_like(logits) : fresh(logits, {0}, logits.scalar_type());
  const int64_t labels = logits.size(1), height = logits.size(2), width = logits.size(3);
  const bool channels_last = labels > 1 && height * width > 1 && logits.stride(1) == 1;
  const int64_t column_stride = channels_last ? labels : 1;
  typename Device::Call call = {};
  call.objects = {data_of<const int64_t>(centers),
                  data_of<const int64_t>(radii),
                  data_of<const int64_t>(label_of_objects),
                  ignore ? data_of<const bool>(ignored) : nullptr,
                  label.size(0),
                  label.size(1),
                  labels,
                  height,
                  width,
                  channels_last ? 1 : height * width,
                  width * column_stride,
                  column_stride};
  call.logits = address_of(logits);
  call.gradient = logits_gradient ? address_of(gradient) : nullptr;
  call.logits_dtype = dtype_of(logits);
  call.alpha = alpha;
  call.beta = beta;
  device.run(call, loss);
  return {loss, gradient};
}

}  // namespace mdn
