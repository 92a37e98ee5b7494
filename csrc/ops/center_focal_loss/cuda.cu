// center_focal_loss on a GPU, in two launches.
//
// Memory story. count_centers packs every object into 16 bytes and counts the distinct centres, the gradient's divisor.
// A block of sum_center_terms takes 4096 logits, whichever way they lie: it reads the packed objects of its image, most
// often from the second-level cache, draws those that reach it into shared memory, and reads the logits and writes the
// gradient once, 16 bytes a lane. Most blocks have nothing to draw.
//
// Raising a cell is a maximum, which does not depend on the order. Each block has its own place for its sum of losses;
// the last block adds them up in a fixed order, in double: the same bits every time, on every GPU.
#include "core/cuda/device.cuh"
#include "core/cuda/dispatch.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/ranges.cuh"
#include "core/cuda/sums.cuh"
#include "ops/center_focal_loss/call.h"
#include "ops/heatmap_focal_loss/formula.h"
#include "ops/splat_gaussians/formula.h"

namespace mdn {
namespace device {

constexpr int center_threads = 256;
constexpr int center_share = 4096;           // elements of a block
constexpr float below_one = 0x1.fffffep-1f;  // of a cell that is no centre, however wide the Gaussian is

struct CenterPlan {
  CenterObjects objects;
  double alpha, beta;
  int64_t counting_blocks;  // of an image

  MDN_ON_BOTH int64_t elements() const { return objects.batch * image(); }
  MDN_ON_BOTH int64_t image() const { return objects.labels * objects.height * objects.width; }
  MDN_ON_BOTH int64_t shares() const { return (elements() + center_share - 1) / center_share; }
  MDN_ON_BOTH int64_t counters() const { return objects.batch * counting_blocks; }
};

// x, y; radius, or ~radius of an ignored object; label, -1 where there is none.
using PackedObject = Pack<int, 4>;

// What the kernels hand on, in device memory.
struct CenterWorkspace {
  PackedObject* objects;  // [batch * objects]
  double* loss;           // [shares]
  int64_t* positives;     // [counters]
  unsigned* ticket;       // [1]: the blocks that are done
};

// In elements of 8 bytes.
inline int64_t center_workspace_size(const CenterPlan& plan) {
  return 2 * plan.objects.batch * plan.objects.objects + plan.shares() + plan.counters() + 1;
}

inline CenterWorkspace center_workspace(const CenterPlan& plan, void* memory) {
  auto* objects = static_cast<PackedObject*>(memory);
  auto* loss = reinterpret_cast<double*>(objects + plan.objects.batch * plan.objects.objects);
  auto* positives = reinterpret_cast<int64_t*>(loss + plan.shares());
  return {objects, loss, positives, reinterpret_cast<unsigned*>(positives + plan.counters())};
}

// Which cell of its image's maps an object has its centre in, -1 where it has none to be found.
MDN_ON_DEVICE int64_t centre_of(const CenterObjects& all, int64_t object) {
  const int64_t label = load_global(all.label + object);
  if (label < 0 || (all.ignore != nullptr && load_global(all.ignore + object))) return -1;
  const int64_t x = load_global(all.center + 2 * object), y = load_global(all.center + 2 * object + 1);
  return (label * all.height + y) * all.width + x;
}

__global__ void __launch_bounds__(center_threads) count_centers(CenterPlan plan, CenterWorkspace workspace) {
  __shared__ SharedArray<int64_t, center_threads> others;
  __shared__ SharedArray<int, center_threads / warp_lanes> sums_of_warps;
  const CenterObjects& all = plan.objects;
  const int thread = threadIdx.x;
  if (blockIdx.x == 0 && thread == 0) store_global(workspace.ticket, 0u);
  if (plan.counters() == 0) return;
  const int64_t begin = blockIdx.x / plan.counting_blocks * all.objects;  // of the image
  const int64_t place = blockIdx.x % plan.counting_blocks * center_threads + thread;
  const bool here = place < all.objects;
  const int64_t centre = here ? centre_of(all, begin + place) : -1;
  if (here) {
    const int radius = static_cast<int>(load_global(all.radius + begin + place));
    const bool ignored = all.ignore != nullptr && load_global(all.ignore + begin + place);
    PackedObject packed;
    packed[0] = static_cast<int>(load_global(all.center + 2 * (begin + place)));
    packed[1] = static_cast<int>(load_global(all.center + 2 * (begin + place) + 1));
    packed[2] = ignored ? ~radius : radius;
    packed[3] = static_cast<int>(load_global(all.label + begin + place));
    store_global(workspace.objects + begin + place, packed);
  }
  bool counts = centre >= 0;
  // Of objects with one centre the first counts.
  for (int64_t first = 0; first < all.objects; first += center_threads) {
    __syncthreads();
    others[thread] = first + thread < all.objects ? centre_of(all, begin + first + thread) : int64_t(-1);
    __syncthreads();
    for (int other = 0; other < center_threads && first + other < place; ++other) {
      const int64_t another = others[other];
      if (another == centre) counts = false;
    }
  }
  const int total = sum_of_block(counts ? 1 : 0, sums_of_warps);
  if (thread == 0) store_global(workspace.positives + blockIdx.x, int64_t(total));
}

// What a block draws of an object: columns [left, left + columns) of rows [top, top + rows).
struct DrawnWindow {
  int64_t map;  // its first element, from that of the block
  int x, y, radius, left, columns, top, rows;
  int ignored;
};

// The part of an object's window in elements [first, last); no rows where there is none.
MDN_ON_DEVICE DrawnWindow window_of(const CenterObjects& all, const PackedObject& packed, int64_t image_start,
                                    int64_t first, int64_t last) {
  DrawnWindow window = {};
  window.x = packed[0];
  window.y = packed[1];
  window.ignored = packed[2] < 0 ? 1 : 0;
  window.radius = window.ignored != 0 ? ~packed[2] : packed[2];
  if (packed[3] < 0) return window;
  const int64_t radius = window.radius, map = image_start + packed[3] * all.map_stride;
  const int64_t left = max(window.x - radius, int64_t(0)), right = min(window.x + radius + 1, all.width);
  int64_t top = max(window.y - radius, int64_t(0)), bottom = min(window.y + radius + 1, all.height);
  const int64_t corner = map + left * all.column_stride;  // of the map's row 0
  const int64_t missing = first - (corner + top * all.row_stride + (right - 1 - left) * all.column_stride);
  const int64_t beyond = corner + (bottom - 1) * all.row_stride - (last - 1);
  if (missing > 0) top += (missing + all.row_stride - 1) / all.row_stride;
  if (beyond > 0) bottom -= (beyond + all.row_stride - 1) / all.row_stride;
  if (left >= right || top >= bottom) return window;
  window.map = map - first;
  window.left = static_cast<int>(left);
  window.columns = static_cast<int>(right - left);
  window.top = static_cast<int>(top);
  window.rows = static_cast<int>(bottom - top);
  return window;
}

// `gradient` is null where it is not wanted. `usual`: alpha = 2 and beta = 4.
template <class Logits, int width, bool usual>
__global__ void __launch_bounds__(center_threads, 3)
    sum_center_terms(const Logits* logits, Logits* gradient, typename ArithmeticOf<Logits>::Type* result,
                     CenterPlan plan, CenterWorkspace workspace) {
  using T = typename ArithmeticOf<Logits>::Type;
  using LogitsPack = Pack<Logits, width>;
  __shared__ SharedArray<int, center_share> targets;  // the bits of floats: as integers they have the same order
  __shared__ SharedArray<DrawnWindow, center_threads> windows;
  __shared__ SharedArray<int, 1> window_count;
  __shared__ SharedArray<double, center_threads / warp_lanes> losses_of_warps;
  __shared__ SharedArray<int, 1> last_block;
  const CenterObjects& all = plan.objects;
  const int thread = threadIdx.x;
  const int64_t first = int64_t(blockIdx.x) * center_share;
  const int count = static_cast<int>(min(int64_t(center_share), plan.elements() - first));
  const int64_t image = first / plan.image(), images_end = (first + count - 1) / plan.image() + 1;

  double divisor = 0;
  for (int64_t i = thread % warp_lanes; i < plan.counters(); i += warp_lanes) {
    divisor += static_cast<double>(load_global(workspace.positives + i));
  }
  divisor = sum_of_warp(divisor);
  if (divisor == 0) divisor = 1;

  bool drawn = false;
  for (int64_t o = image * all.objects; o < images_end * all.objects; o += center_threads) {
    if (thread == 0) window_count[0] = 0;
    DrawnWindow window = {};
    if (o + thread < images_end * all.objects) {
      window = window_of(all, load_global(workspace.objects + o + thread), (o + thread) / all.objects * plan.image(),
                         first, first + count);
    }
    if (__syncthreads_or(window.rows > 0) == 0) continue;
    if (!drawn) {
      for (int i = thread; i < center_share; i += center_threads) targets[i] = 0;
      drawn = true;
    }
    if (window.rows > 0) windows[atomicAdd(&window_count[0], 1)] = window;
    __syncthreads();
    const int drawn_count = window_count[0];
    for (int w = 0; w < drawn_count; ++w) {
      const DrawnWindow other = windows[w];
      const float sigma = gaussian_sigma(other.radius);
      const int64_t cells = int64_t(other.rows) * other.columns;
      for (int64_t cell = thread; cell < cells; cell += center_threads) {
        const int y = other.top + static_cast<int>(cell / other.columns);
        const int x = other.left + static_cast<int>(cell % other.columns);
        const int64_t at = other.map + y * all.row_stride + x * all.column_stride;
        if (at < 0 || at >= count) continue;
        const int across = x - other.x, down = y - other.y;
        float value = minimum(below_one, gaussian_profile(static_cast<float>(across), sigma) *
                                             gaussian_profile(static_cast<float>(down), sigma));
        if (across == 0 && down == 0 && other.ignored == 0) value = 1;
        atomicMax(&targets[static_cast<int>(at)], __float_as_int(value));
      }
    }
    __syncthreads();
  }

  const T alpha = static_cast<T>(plan.alpha), beta = static_cast<T>(plan.beta);
  const T factor = static_cast<T>(1 / divisor);
  double loss = 0;
  const auto slope_of = [&](Logits logit, T wanted) {
    const T here = to_number(logit), e = focal_exp<usual>(here);
    const FocalTerm<T> term = focal_term<usual>(here, e, log1p(e), wanted, alpha, beta);
    loss += static_cast<double>(term.loss);
    Logits slope;
    to_element(term.slope * factor, slope);
    return slope;
  };
  const auto target_at = [&](int i) {
    if (!drawn) return T(0);
    const int bits = targets[i];
    return static_cast<T>(__int_as_float(bits));
  };
  over_packs<width, 1>(
      logits + first, count,
      [&](int i) {
        const LogitsPack here = load_global(reinterpret_cast<const LogitsPack*>(logits + first + i));
        LogitsPack slopes;
        for (int j = 0; j < width; ++j) slopes[j] = slope_of(here[j], target_at(i + j));
        if (gradient != nullptr) store_global(reinterpret_cast<LogitsPack*>(gradient + first + i), slopes);
      },
      [&](int i) {
        const Logits slope = slope_of(load_global(logits + first + i), target_at(i));
        if (gradient != nullptr) store_global(gradient + first + i, slope);
      });

  const double total = sum_of_block(loss, losses_of_warps);
  if (thread == 0) {
    store_global(workspace.loss + blockIdx.x, total);
    __threadfence();
    last_block[0] = atomicAdd(workspace.ticket, 1u) == gridDim.x - 1 ? 1 : 0;
  }
  __syncthreads();
  const int last = last_block[0];
  if (last == 0) return;
  __threadfence();
  double sum = 0;
  for (int64_t share = thread; share < plan.shares(); share += center_threads) {
    sum += load_global_written(workspace.loss + share);
  }
  sum = sum_of_block(sum, losses_of_warps);
  if (thread == 0) store_global(result, static_cast<T>(sum / divisor));
}

// The loss of a map without elements.
template <class T>
__global__ void write_no_loss(T* loss) {
  store_global(loss, T(0));
}

}  // namespace device

struct CenterFocalCall {
  CenterObjects objects;
  DType logits_dtype;
  const void* logits;
  void* gradient;  // of logits' dtype and layout; null where it is not wanted
  void* loss;
  double alpha, beta;
};

inline device::CenterPlan center_plan(const CenterFocalCall& call) {
  const int64_t blocks = (call.objects.objects + device::center_threads - 1) / device::center_threads;
  return {call.objects, call.alpha, call.beta, blocks};
}

// The launches of a call: launch(kernel, blocks, threads, shared bytes, arguments...).
template <class Launch>
void run_center_focal_loss(const CenterFocalCall& call, const device::CenterPlan& plan,
                           const device::CenterWorkspace& workspace, Launch launch) {
  with_element_type(call.logits_dtype, [&](auto type) {
    using namespace device;
    using Logits = typename decltype(type)::Type;
    using T = typename ArithmeticOf<Logits>::Type;
    constexpr int width = pack_width<Logits>;
    const auto* logits = static_cast<const Logits*>(call.logits);
    auto* gradient = static_cast<Logits*>(call.gradient);
    auto* loss = static_cast<T*>(call.loss);
    if (plan.shares() == 0) return launch(write_no_loss<T>, 1, 1, 0, loss);
    const bool aligned = (reinterpret_cast<uintptr_t>(logits) | reinterpret_cast<uintptr_t>(gradient)) % 16 == 0;
    const bool usual = plan.alpha == 2 && plan.beta == 4;
    auto* kernel = sum_center_terms<Logits, 1, false>;
    if (usual) kernel = sum_center_terms<Logits, 1, true>;
    if (aligned) kernel = sum_center_terms<Logits, width, false>;
    if (aligned && usual) kernel = sum_center_terms<Logits, width, true>;
    const int counters = static_cast<int>(plan.counters());
    launch(count_centers, counters > 0 ? counters : 1, center_threads, 0, plan, workspace);
    launch(kernel, static_cast<int>(plan.shares()), center_threads, 0, logits, gradient, loss, plan, workspace);
  });
}

namespace {

struct CenterFocalOnGpu : DeviceCall {
  using DeviceCall::DeviceCall;
  using Call = CenterFocalCall;
  void run(Call& call, const Tensor& loss) const;
};

void CenterFocalOnGpu::run(Call& call, const Tensor& loss) const {
  call.loss = address_of(loss);
  const device::CenterPlan plan = center_plan(call);
  const Tensor memory = fresh(loss, {device::center_workspace_size(plan)}, ScalarType::Double);
  run_center_focal_loss(call, plan, device::center_workspace(plan, address_of(memory)),
                        Launcher{*this, "center_focal_loss"});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) {
  m.impl("center_focal_loss", TORCH_BOX(&center_focal_loss<CenterFocalOnGpu>));
}

}  // namespace mdn
