// gather_patches on the CPU, and its gradient.
//
// Forward: objects over threads. Backward: the gradient is zeroed in parallel; then each image's covered cells are
// listed, sorted, with the window elements that lie on them in the order of the objects, and images x blocks of
// channels go over threads. Each cell is summed by one thread in that order: the same bits for any number of threads.
#include "ops/gather_patches/cpu.h"

#include <algorithm>

#include "core/cpu/simd_level.h"
#include "core/cpu/tensors.h"
#include "core/cpu/turns.h"
#include "ops/gather_patches/call.h"

namespace mdn {
namespace {

struct PatchesOnCpu : CpuCall {
  using CpuCall::CpuCall;
  static void check(const Tensor&, const Tensor&, int64_t) {}
  static void gather(const PatchCall& call);
  static void scatter(const PatchCall& call, const Tensor& gradient);
};

void PatchesOnCpu::gather(const PatchCall& call) {
  const MapView& map = call.map;
  const int64_t window = call.kernel_size * call.kernel_size, length = map.channels * window;
  if (call.batch * call.points * length == 0) return;
  const PatchKernel& kernel = MDN_AT_SIMD_LEVEL(patch_kernel);
  const int64_t element = element_bytes(map.dtype);
  const char* from = static_cast<const char*>(map.data);
  char* to = static_cast<char*>(call.patches);
  const int64_t grain = std::max<int64_t>(1, 4096 / length);
  for_each_range(call.batch * call.points, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const char* image = from + i / call.points * map.batch_stride * element;
      kernel.gather(map, image, call.index[i], static_cast<int>(call.kernel_size), to + i * length * element);
    }
  });
}

// One image's covered cells, by position.
struct Cover {
  std::vector<CoveredCell> cells;
  std::vector<WindowElement> elements;
};

Cover cover_of(const MapView& map, const int64_t* index, int64_t points, int64_t kernel_size) {
  struct Hit {
    int64_t position;
    WindowElement element;
  };
  std::vector<Hit> hits;
  const int64_t reach = kernel_size / 2;
  for (int64_t n = 0; n < points; ++n) {
    if (index[n] < 0) continue;
    const int64_t top = index[n] / map.width - reach, left = index[n] % map.width - reach;
    for (int64_t y = std::max<int64_t>(top, 0); y < std::min(top + kernel_size, map.height); ++y) {
      for (int64_t x = std::max<int64_t>(left, 0); x < std::min(left + kernel_size, map.width); ++x) {
        hits.push_back({y * map.width + x, {n, (y - top) * kernel_size + (x - left)}});
      }
    }
  }
  std::sort(hits.begin(), hits.end(), [](const Hit& a, const Hit& b) {
    return a.position < b.position || (a.position == b.position && a.element.object < b.element.object);
  });
  Cover cover;
  cover.elements.reserve(hits.size());
  for (const Hit& hit : hits) {
    const int64_t at = static_cast<int64_t>(cover.elements.size());
    const int64_t offset = hit.position / map.width * map.row_stride + hit.position % map.width * map.column_stride;
    if (at == 0 || cover.cells.back().offset != offset) cover.cells.push_back({offset, at, at});
    cover.cells.back().end = at + 1;
    cover.elements.push_back(hit.element);
  }
  return cover;
}

void PatchesOnCpu::scatter(const PatchCall& call, const Tensor& gradient) {
  if (gradient.numel() == 0) return;
  zero(gradient);
  const MapView& map = call.map;
  const int64_t points = call.points;
  if (call.batch * points == 0) return;

  const int64_t window = call.kernel_size * call.kernel_size, length = map.channels * window;
  std::vector<Cover> covers(call.batch);
  for_each_range(call.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      covers[b] = cover_of(map, call.index + b * points, points, call.kernel_size);
    }
  });

  const PatchKernel& kernel = MDN_AT_SIMD_LEVEL(patch_kernel);
  const int64_t element = element_bytes(map.dtype);
  const char* from = static_cast<const char*>(call.patches);
  char* to = static_cast<char*>(map.data);
  constexpr int64_t block = 64;  // channels; whole cache lines of a channels_last map
  const int64_t blocks = (map.channels + block - 1) / block;
  for_each_range(call.batch * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / blocks, channel = i % blocks * block;
      kernel.scatter(map, to + b * map.batch_stride * element, covers[b].cells.data(),
                     static_cast<int64_t>(covers[b].cells.size()), covers[b].elements.data(),
                     from + b * points * length * element, window, channel, std::min(channel + block, map.channels));
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mdnkernels, m) {
  m.def(gather_patches_schema);
  m.def(gather_patches_backward_schema);
}
STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CPU, m) {
  m.impl("gather_patches", TORCH_BOX(&gather_patches<PatchesOnCpu>));
  m.impl("gather_patches_backward", TORCH_BOX(&gather_patches_backward<PatchesOnCpu>));
}

}  // namespace mdn
