// center_focal_loss on the CPU: the objects in the order of memory, blocks over threads, and the reduction.
//
// The number of positives is that of the distinct centres, which the objects tell before the first logit is read: one
// pass writes the gradient as it stays. Blocks are cut by position alone and their sums are added in order, in double:
// the result has the same bits for any number of threads.
#include "ops/center_focal_loss/cpu.h"

#include <algorithm>

#include "core/cpu/simd_level.h"
#include "core/cpu/tensors.h"
#include "ops/center_focal_loss/call.h"

namespace mdn {
namespace {

constexpr int64_t blocks_in_share = 4;        // the least that is worth a thread
constexpr int64_t cached_gradient = 4 << 20;  // bytes that may still be in a cache when backward is done

struct CenterFocalCall : FocalCall {
  CenterObjects objects;
};

struct CenterFocalOnCpu : CpuCall {
  using CpuCall::CpuCall;
  using Call = CenterFocalCall;
  static void run(Call& call, const Tensor& loss);
};

// The objects that are no padding, by their maps.
std::vector<CenterObject> drawn_objects(const CenterObjects& all) {
  std::vector<CenterObject> drawn;
  for (int64_t i = 0; i < all.count(); ++i) {
    if (all.label[i] < 0 || all.label[i] >= all.labels) continue;
    const int64_t image = i / all.objects * all.labels * all.height * all.width;
    CenterObject object = {};
    object.map = image + all.label[i] * all.map_stride;
    object.window = splat_window(all.center[2 * i], all.center[2 * i + 1], all.radius[i], all.height, all.width);
    const SplatWindow& window = object.window;
    if (window.left >= window.right || window.top >= window.bottom) continue;
    object.first = object.map + window.top * all.row_stride + window.left * all.column_stride;
    object.last = object.map + (window.bottom - 1) * all.row_stride + (window.right - 1) * all.column_stride;
    object.ignored = all.ignore != nullptr && all.ignore[i];
    drawn.push_back(object);
  }
  std::sort(drawn.begin(), drawn.end(), [](const auto& a, const auto& b) { return a.map < b.map; });
  return drawn;
}

int64_t count_centres(const CenterObjects& all, const std::vector<CenterObject>& drawn) {
  std::vector<int64_t> centres;
  for (const CenterObject& object : drawn) {
    if (object.ignored) continue;
    centres.push_back(object.map + object.window.y * all.row_stride + object.window.x * all.column_stride);
  }
  std::sort(centres.begin(), centres.end());
  return std::unique(centres.begin(), centres.end()) - centres.begin();
}

void CenterFocalOnCpu::run(Call& call, const Tensor& loss) {
  const CenterObjects& all = call.objects;
  call.count = all.elements();
  call.double_precision = call.logits_dtype == DType::float64;
  call.past_cache = call.count * element_bytes(call.logits_dtype) > cached_gradient;
  const std::vector<CenterObject> drawn = drawn_objects(all);
  const int64_t positives = count_centres(all, drawn);
  const double divisor = positives > 0 ? static_cast<double>(positives) : 1.0;
  call.gradient_factor = 1 / divisor;

  // From the first to the last element of a map.
  const int64_t span = (all.height - 1) * all.row_stride + (all.width - 1) * all.column_stride;
  const auto from = [&](int64_t map) {
    return std::partition_point(drawn.data(), drawn.data() + drawn.size(), [&](const auto& o) { return o.map < map; });
  };
  const CenterFocalKernel& kernel = MDN_AT_SIMD_LEVEL(center_focal_kernel);
  const int64_t blocks = (call.count + focal_block - 1) / focal_block;
  std::vector<double> losses(blocks);
  torch::stable::parallel_for(0, blocks, blocks_in_share, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * focal_block;
      losses[block] =
          kernel.run(call, block, from(first - span), from(first + focal_block), all.row_stride, all.column_stride);
    }
  });
  double total = 0;
  for (const double one : losses) total += one;
  torch::stable::fill_(loss, total / divisor);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mdnkernels, m) { m.def(center_focal_loss_schema); }
STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CPU, m) {
  m.impl("center_focal_loss", TORCH_BOX(&center_focal_loss<CenterFocalOnCpu>));
}

}  // namespace mdn
