// Tensors as the kernels see them, those of the CPU and those of a GPU. A function here must be inlined, for the reason
// in simd.h.
#pragma once

#include <stdint.h>

namespace mdn {

enum class DType { float32, float64, bfloat16, float16, boolean };

__attribute__((always_inline)) constexpr int element_bytes(DType dtype) {
  return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : dtype == DType::boolean ? 1 : 2;
}

// A (batch, channels, points) tensor. An index chooses its points where it is `gathered`.
struct View {
  void* data = nullptr;
  DType dtype = DType::float32;
  int64_t batch_stride = 0, channel_stride = 0, point_stride = 0;  // in elements
  bool gathered = false;
  int channels = 0;
};

// A (B, C, H, W) map in place.
struct MapView {
  void* data;
  DType dtype;
  int64_t channels, height, width;
  int64_t batch_stride, channel_stride, row_stride, column_stride;  // in elements
};

}  // namespace mdn
