// Targets, loss and gradient of one block of elements. Built once for each instruction set.
//
// Memory story: the block's targets are drawn where they stay in the first-level cache, and only in the rows of 256
// elements that an object reaches. Most rows have none: the loss needs no targets there.
#include "ops/center_focal_loss/cpu.h"
#include "ops/heatmap_focal_loss/block.h"
#include "ops/splat_gaussians/profile.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {
namespace {

constexpr int step = lanes<float>;
constexpr float below_one = 0x1.fffffep-1f;  // of a cell that is no centre, however wide the Gaussian is

struct DrawnTargets {
  alignas(64) float values[focal_block];  // of rows that have any
  Targets rows[focal_block / focal_row];

  DrawnTargets() {
    for (Targets& row : rows) row = Targets::none;
  }

  // Makes the rows of elements [begin, end) ready to be drawn to.
  MDN_INLINE void reach(int64_t begin, int64_t end) {
    for (int64_t row = begin / focal_row; row <= (end - 1) / focal_row; ++row) {
      if (rows[row] != Targets::none) continue;
      rows[row] = Targets::background;
      for (int i = 0; i < focal_row; i += step) store(values + row * focal_row + i, FloatVector{});
    }
  }
};

// What is drawn of one object in elements [first, last).
struct Drawing {
  int64_t row_stride, column_stride, first, last;
  float column[focal_block + step], row[focal_block + step];

  void draw(const CenterObject& object, DrawnTargets& targets) {
    const SplatWindow& window = object.window;
    const int64_t corner = object.map + window.top * row_stride + window.left * column_stride;
    const int64_t missing = first - (corner + (window.right - 1 - window.left) * column_stride);
    const int64_t top = missing > 0 ? window.top + (missing + row_stride - 1) / row_stride : window.top;
    const int64_t below = window.top + (last - 1 - corner) / row_stride + 1;
    const int64_t bottom = below < window.bottom ? below : window.bottom;
    if (top >= bottom) return;
    fill_profile(row, top, bottom, window.y, window.sigma);
    int64_t filled_left = 0, filled_right = 0;
    for (int64_t y = top; y < bottom; ++y) {
      const int64_t start = object.map + y * row_stride + window.left * column_stride;
      const int64_t left =
          first > start ? window.left + (first - start + column_stride - 1) / column_stride : window.left;
      const int64_t beyond = window.left + (last - 1 - start) / column_stride + 1;
      const int64_t right = beyond < window.right ? beyond : window.right;
      if (left >= right) continue;
      if (left != filled_left || right != filled_right) {
        fill_profile(column, left, right, window.x, window.sigma);
        filled_left = left;
        filled_right = right;
      }
      raise(targets, start + (left - window.left) * column_stride - first, right - left, row[y - top]);
    }
  }

 private:
  // Raises `count` cells of a row, from element `begin` of the block on.
  MDN_INLINE void raise(DrawnTargets& targets, int64_t begin, int64_t count, float height) {
    float* to = targets.values + begin;
    int64_t u = 0;
    if (column_stride == 1) {
      targets.reach(begin, begin + count);
      for (; u + step <= count; u += step) {
        const FloatVector value = minimum(broadcast(below_one), FloatVector(load(column + u) * height));
        store(to + u, maximum(load(to + u), value));
      }
    }
    for (; u < count; ++u) {
      const int64_t at = u * column_stride;
      if (column_stride != 1) targets.reach(begin + at, begin + at + 1);
      to[at] = maximum(to[at], minimum(below_one, column[u] * height));
    }
  }
};

// Draws what objects [begin, end) have in a block.
void draw_targets(const FocalCall& call, int64_t block, const CenterObject* begin, const CenterObject* end,
                  int64_t row_stride, int64_t column_stride, DrawnTargets& targets) {
  Drawing drawing;
  drawing.row_stride = row_stride;
  drawing.column_stride = column_stride;
  drawing.first = block * focal_block;
  drawing.last = drawing.first + focal_block < call.count ? drawing.first + focal_block : call.count;
  const auto reaches = [&](const CenterObject& object) {
    return object.last >= drawing.first && object.first < drawing.last;
  };
  for (const CenterObject* object = begin; object < end; ++object) {
    if (reaches(*object)) drawing.draw(*object, targets);
  }
  for (const CenterObject* object = begin; object < end; ++object) {
    const int64_t cell = object->map + object->window.y * row_stride + object->window.x * column_stride;
    if (object->ignored || cell < drawing.first || cell >= drawing.last) continue;
    const int64_t at = cell - drawing.first;
    targets.reach(at, at + 1);
    targets.values[at] = 1;
    targets.rows[at / focal_row] = Targets::any;
  }
}

template <class T>
double run_as(const FocalCall& call, int64_t block, const CenterObject* begin, const CenterObject* end,
              int64_t row_stride, int64_t column_stride) {
  DrawnTargets targets;
  if (begin < end) draw_targets(call, block, begin, end, row_stride, column_stride, targets);
  T converted_row[focal_row];
  return run_block<T>(call, block, [&](int64_t element, int) {
    const int64_t at = element - block * focal_block;
    const Targets kind = targets.rows[at / focal_row];
    const float* values = targets.values + at;
    if constexpr (sizeof(T) == 4) {
      return TargetRow<T>{values, kind};
    } else {
      if (kind != Targets::none) {
        for (int i = 0; i < focal_row; ++i) converted_row[i] = values[i];
      }
      return TargetRow<T>{converted_row, kind};
    }
  });
}

double run(const FocalCall& call, int64_t block, const CenterObject* begin, const CenterObject* end, int64_t row_stride,
           int64_t column_stride) {
  return call.double_precision ? run_as<double>(call, block, begin, end, row_stride, column_stride)
                               : run_as<float>(call, block, begin, end, row_stride, column_stride);
}

}  // namespace

const CenterFocalKernel center_focal_kernel = {run};

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
