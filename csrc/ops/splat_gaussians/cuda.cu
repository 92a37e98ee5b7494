// splat_gaussians on a GPU.
//
// Memory story. A block makes a band of one (image, label) map in registers and writes it once, 16 bytes a lane. It
// reads the labels of all of the image's objects, 8 bytes each, and the centre and radius of those with the map's
// label; those that reach the band wait in shared memory. Most maps have none, and nothing is computed for them. A
// maximum does not depend on the order, so neither does the result.
#include "core/cuda/device.cuh"
#include "core/cuda/dispatch.cuh"
#include "core/cuda/launch.h"
#include "ops/splat_gaussians/call.h"
#include "ops/splat_gaussians/formula.h"

namespace mdn {
namespace device {

constexpr int splat_threads = 256;
constexpr int splat_width = 4;                                         // cells that are written at once
constexpr int splat_packs = 8;                                         // of a thread
constexpr int splat_band = splat_threads * splat_packs * splat_width;  // cells of a block

struct SplatPlan {
  int64_t batch, objects;  // of an image
  int64_t labels;
  int height, width;
  int64_t bands;  // of a map

  MDN_ON_BOTH int64_t cells() const { return int64_t(height) * width; }
  MDN_ON_BOTH int64_t pieces() const { return batch * labels * bands; }
};

inline SplatPlan splat_plan(int64_t batch, int64_t objects, int64_t labels, int64_t height, int64_t width) {
  SplatPlan plan = {batch, objects, labels, static_cast<int>(height), static_cast<int>(width), 0};
  const int64_t cells = plan.cells(), before = cells % splat_width == 0 ? 0 : splat_width - 1;  // of a map's first pack
  plan.bands = (before + cells + splat_band - 1) / splat_band;
  return plan;
}

struct SplatObject {
  int x, y, radius;
};

// Objects (batch, objects): centre x and y, radius and label, -1 where there is none.
struct SplatObjects {
  const int64_t *center, *radius, *label;
};

// The largest Gaussian at a cell, so far `peak`.
MDN_ON_DEVICE float raised(float peak, const SplatObject& object, int y, int x) {
  const int across = x - object.x, down = y - object.y;
  if (abs(across) > object.radius || abs(down) > object.radius) return peak;
  const float sigma = gaussian_sigma(object.radius);
  return maximum(
      peak, gaussian_profile(static_cast<float>(across), sigma) * gaussian_profile(static_cast<float>(down), sigma));
}

__global__ void __launch_bounds__(splat_threads, 2) splat_bands(SplatObjects objects, SplatPlan plan, float* heatmap) {
  __shared__ SharedArray<SplatObject, splat_threads> reaching;
  __shared__ SharedArray<int, 1> reaching_count;
  const int thread = threadIdx.x;
  for (int64_t piece = blockIdx.x; piece < plan.pieces(); piece += gridDim.x) {
    const int64_t map = piece / plan.bands, image = map / plan.labels, label = map % plan.labels;
    float* cells = heatmap + map * plan.cells();
    const int before = static_cast<int>(reinterpret_cast<uintptr_t>(cells) / sizeof(float) % splat_width);
    const int64_t band = piece % plan.bands * splat_band - before;
    const int64_t last = min(band + splat_band, plan.cells()) - 1;
    if (last < 0 || last < band) continue;  // nothing is left for a last band
    const int64_t top = max(band, int64_t(0)) / plan.width, bottom = last / plan.width;

    Pack<float, splat_width> peaks[splat_packs] = {};
    for (int64_t first = 0; first < plan.objects; first += splat_threads) {
      if (thread == 0) reaching_count[0] = 0;
      bool reaches = false;
      SplatObject object = {};
      const int64_t number = image * plan.objects + first + thread;
      if (first + thread < plan.objects && load_global(objects.label + number) == label) {
        object.x = static_cast<int>(load_global(objects.center + 2 * number));
        object.y = static_cast<int>(load_global(objects.center + 2 * number + 1));
        object.radius = static_cast<int>(load_global(objects.radius + number));
        reaches = int64_t(object.y) + object.radius >= top && int64_t(object.y) - object.radius <= bottom;
      }
      if (__syncthreads_or(reaches) == 0) continue;
      if (reaches) reaching[atomicAdd(&reaching_count[0], 1)] = object;
      __syncthreads();
      const int count = reaching_count[0];
#pragma unroll
      for (int pack = 0; pack < splat_packs; ++pack) {
        const int64_t cell = band + int64_t(thread + pack * splat_threads) * splat_width;
        int y = static_cast<int>(max(cell, int64_t(0)) / plan.width);
        int x = static_cast<int>(max(cell, int64_t(0)) % plan.width);
#pragma unroll
        for (int j = 0; j < splat_width; ++j) {
          if (cell + j < 0 || cell + j > last) continue;
          for (int o = 0; o < count; ++o) {
            const SplatObject other = reaching[o];
            peaks[pack][j] = raised(peaks[pack][j], other, y, x);
          }
          if (++x == plan.width) {
            x = 0;
            ++y;
          }
        }
      }
      __syncthreads();
    }

#pragma unroll
    for (int pack = 0; pack < splat_packs; ++pack) {
      const int64_t cell = band + int64_t(thread + pack * splat_threads) * splat_width;
      if (cell >= 0 && cell + splat_width - 1 <= last) {
        store_global(reinterpret_cast<Pack<float, splat_width>*>(cells + cell), peaks[pack]);
      } else {
#pragma unroll
        for (int j = 0; j < splat_width; ++j) {
          if (cell + j >= 0 && cell + j <= last) store_global(cells + cell + j, peaks[pack][j]);
        }
      }
    }
  }
}

}  // namespace device

// The launch of a call: launch(kernel, blocks, threads, shared bytes, arguments...).
template <class Launch>
void run_splat_gaussians(const device::SplatObjects& objects, const device::SplatPlan& plan, float* heatmap,
                         Launch launch) {
  if (plan.pieces() == 0) return;
  launch(device::splat_bands, blocks_over(plan.pieces()), device::splat_threads, 0, objects, plan, heatmap);
}

namespace {

struct SplatOnGpu : DeviceCall {
  using DeviceCall::DeviceCall;
  void run(const SplatCall& call) const {
    run_splat_gaussians({call.center, call.radius, call.label},
                        device::splat_plan(call.batch, call.objects, call.labels, call.height, call.width),
                        call.heatmap, Launcher{*this, "splat_gaussians"});
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) { m.impl("splat_gaussians", TORCH_BOX(&splat_gaussians<SplatOnGpu>)); }

}  // namespace mdn
