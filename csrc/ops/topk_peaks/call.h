// A call of topk_peaks: its schema, and all of its host code that the CPU and a GPU share.
#pragma once

#include <tuple>

#include "core/torch_tensors.h"

namespace mdn {

inline constexpr char topk_peaks_schema[] =
    "topk_peaks(Tensor heatmap, SymInt k, int kernel_size, bool logits) -> (Tensor score, Tensor label, Tensor index)";

struct PeakCall {
  DType dtype;
  const void* heatmap;  // (batch, labels, height, width), contiguous
  int64_t batch, labels, height, width, k, kernel_size;
  bool logits;
  void* score;  // (batch, k) as the two others, of the heatmap's dtype
  int64_t *label, *index;
};

template <class Device>
std::tuple<Tensor, Tensor, Tensor> topk_peaks(Tensor map, int64_t k, int64_t kernel_size, bool logits) {
  const Device device(map);
  const Tensor heatmap = torch::stable::contiguous(map);
  const int64_t batch = heatmap.size(0);
  const Tensor score = fresh(heatmap, {batch, k}, heatmap.scalar_type());
  const Tensor label = fresh(heatmap, {batch, k}, ScalarType::Long);
  const Tensor index = fresh(heatmap, {batch, k}, ScalarType::Long);
  const PeakCall call = {dtype_of(heatmap),
                         address_of(heatmap),
                         batch,
                         heatmap.size(1),
                         heatmap.size(2),
                         heatmap.size(3),
                         k,
                         kernel_size,
                         logits,
                         address_of(score),
                         data_of<int64_t>(label),
                         data_of<int64_t>(index)};
  device.run(call, heatmap);
  return {score, label, index};
}

}  // namespace mdn
