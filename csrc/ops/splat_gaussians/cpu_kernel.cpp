// One object's window in one map. Built once for each instruction set.
//
// A window of n x n cells costs 2 n exponentials, one for each of its columns and rows, and n^2 products, which is all
// that touches the map.
#include "ops/splat_gaussians/cpu.h"
#include "ops/splat_gaussians/profile.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {
namespace {

constexpr int step = lanes<float>;

int64_t scratch_bytes(int64_t height, int64_t width) { return (height + width + 2 * step) * int64_t(sizeof(float)); }

void zero(float* map, int64_t count, bool past_cache) {
  int64_t i = 0;
  while (i < count && !aligned(map + i)) map[i++] = 0;
  if (past_cache) {
    for (; i + step <= count; i += step) store_past_cache(map + i, FloatVector{});
    finish_stores();
  } else {
    for (; i + step <= count; i += step) store(map + i, FloatVector{});
  }
  while (i < count) map[i++] = 0;
}

void splat(float* map, int64_t width, const SplatWindow& window, void* scratch) {
  const int64_t columns = window.right - window.left, rows = window.bottom - window.top;
  float* column = static_cast<float*>(scratch);
  float* row = column + (columns + step - 1) / step * step;
  fill_profile(column, window.left, window.right, window.x, window.sigma);
  fill_profile(row, window.top, window.bottom, window.y, window.sigma);
  for (int64_t v = 0; v < rows; ++v) {
    float* to = map + (window.top + v) * width + window.left;
    int64_t u = 0;
    for (; u + step <= columns; u += step) store(to + u, maximum(load(to + u), FloatVector(load(column + u) * row[v])));
    for (; u < columns; ++u) to[u] = maximum(to[u], column[u] * row[v]);
  }
}

}  // namespace

const SplatKernel splat_kernel = {scratch_bytes, zero, splat};

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
