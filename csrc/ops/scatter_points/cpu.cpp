// scatter_points on the CPU: channels of images over threads.
#include "core/cpu/tensors.h"
#include "core/cpu/turns.h"
#include "ops/scatter_points/call.h"

namespace mdn {
namespace {

template <class Storage>
void add_points(const Tensor& values, const Tensor& index, const Tensor& maps) {
  const int64_t channels = values.size(1), count = values.size(2), positions = maps.size(2);
  const auto* from = data_of<const Storage>(values);
  auto* to = data_of<Storage>(maps);
  const auto* points = data_of<const int64_t>(index);
  for_each_range(values.size(0) * channels, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t* chosen = points + row / channels * count;
      for (int64_t n = 0; n < count; ++n) {
        if (chosen[n] >= 0) to[row * positions + chosen[n]] += from[row * count + n];
      }
    }
  });
}

struct ScatterOnCpu : CpuCall {
  using CpuCall::CpuCall;
  static void run(const Tensor& values, const Tensor& index, const Tensor& maps) {
    values.scalar_type() == ScalarType::Double ? add_points<double>(values, index, maps)
                                               : add_points<float>(values, index, maps);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mdnkernels, m) { m.def(scatter_points_schema); }
STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CPU, m) { m.impl("scatter_points", TORCH_BOX(&scatter_points<ScatterOnCpu>)); }

}  // namespace mdn
