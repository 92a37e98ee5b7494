// Tensors as the kernels see them, those of the CPU and those of a GPU. There are no functions here, for the reason in
// simd.h.
#pragma once

#include <stdint.h>

namespace mdn {

enum class DType { float32, float64, bfloat16, float16, boolean };

// A (batch, channels, points) tensor. An index chooses its points where it is `gathered`.
struct View {
  void* data = nullptr;
  DType dtype = DType::float32;
  int64_t batch_stride = 0, channel_stride = 0, point_stride = 0;  // in elements
  bool gathered = false;
  int channels = 0;
};

}  // namespace mdn
