// splat_gaussians on the CPU.
//
// Memory story: one thread makes a (image, label) map whole, zeros first and then its objects, while it lies in the
// second-level cache; a map without objects goes past the caches. No two threads touch one map, and a maximum does not
// depend on the order: the result is the same for any number of threads.
#include "ops/splat_gaussians/cpu.h"

#include <algorithm>

#include "core/cpu/simd_level.h"
#include "core/cpu/tensors.h"
#include "core/cpu/turns.h"
#include "ops/splat_gaussians/call.h"

namespace mdn {
namespace {

constexpr int64_t cells_in_share = 32768;  // the least that is worth a thread

// The objects of each (image, label) map: those of map i are object[first[i]] to object[first[i + 1] - 1].
struct ObjectsOfMaps {
  std::vector<int64_t> first, object;
};

ObjectsOfMaps sort_by_map(const int64_t* label, int64_t batch, int64_t count, int64_t labels) {
  ObjectsOfMaps objects;
  objects.first.assign(batch * labels + 1, 0);
  const auto real = [&](int64_t i) { return label[i] >= 0 && label[i] < labels; };
  const auto map = [&](int64_t i) { return i / count * labels + label[i]; };
  for (int64_t i = 0; i < batch * count; ++i) {
    if (real(i)) ++objects.first[map(i) + 1];
  }
  for (int64_t m = 0; m < batch * labels; ++m) objects.first[m + 1] += objects.first[m];
  objects.object.resize(objects.first.back());
  std::vector<int64_t> next(objects.first.begin(), objects.first.end() - 1);
  for (int64_t i = 0; i < batch * count; ++i) {
    if (real(i)) objects.object[next[map(i)]++] = i;
  }
  return objects;
}

struct SplatOnCpu : CpuCall {
  using CpuCall::CpuCall;
  static void run(const SplatCall& call);
};

void SplatOnCpu::run(const SplatCall& call) {
  const int64_t cells = call.height * call.width;
  const ObjectsOfMaps objects = sort_by_map(call.label, call.batch, call.objects, call.labels);
  const SplatKernel& kernel = MDN_AT_SIMD_LEVEL(splat_kernel);
  const bool past_cache = call.batch * call.labels * cells * int64_t(sizeof(float)) > (4 << 20);

  const int64_t grain = std::max<int64_t>(1, cells_in_share / cells);
  for_each_range(call.batch * call.labels, grain, [&](int64_t begin, int64_t end) {
    const ThreadScratch scratch(kernel.scratch_bytes(call.height, call.width));
    for (int64_t m = begin; m < end; ++m) {
      float* map = call.heatmap + m * cells;
      const int64_t first = objects.first[m], last = objects.first[m + 1];
      kernel.zero(map, cells, past_cache && first == last);
      for (int64_t i = first; i < last; ++i) {
        const int64_t object = objects.object[i];
        const SplatWindow window = splat_window(call.center[2 * object], call.center[2 * object + 1],
                                                call.radius[object], call.height, call.width);
        if (window.left < window.right && window.top < window.bottom)
          kernel.splat(map, call.width, window, scratch.get());
      }
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mdnkernels, m) { m.def(splat_gaussians_schema); }
STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CPU, m) { m.impl("splat_gaussians", TORCH_BOX(&splat_gaussians<SplatOnCpu>)); }

}  // namespace mdn
