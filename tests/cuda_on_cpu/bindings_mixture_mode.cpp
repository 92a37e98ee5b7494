// Mirrors csrc/ops/mixture_mode/cuda.cu.
#include "bindings.h"
#include "mixture/options.h"
#include "ops/mixture_mode/cuda.cuh"
#include "views.h"

namespace {

using namespace cuda_on_cpu;

std::tuple<Tensor, Tensor, Tensor, Tensor> mixture_mode(const Tensor& logits, const Tensor& loc,
                                                        const std::optional<Tensor>& scale,
                                                        const std::optional<Tensor>& index, const std::string& select,
                                                        const std::optional<std::vector<int64_t>>& components,
                                                        const std::string& scale_activation, double min_scale) {
  const bool gathered = index.has_value();
  const int64_t batch = loc.size(0), points = gathered ? index->size(1) : loc.size(2);

  mdn::ModeCall call = {};
  call.batch = batch;
  call.points = points;
  call.selection = mdn::selection_of(select);
  call.activation = mdn::activation_of(scale_activation);
  call.min_scale = min_scale;
  call.logits = tile_view_of(logits, gathered);
  call.loc = tile_view_of(loc, gathered);
  if (scale) call.scale = tile_view_of(*scale, gathered);
  mdn::set_sizes(call);
  Tensor index_contiguous, allowed;
  if (gathered) {
    index_contiguous = index->contiguous();
    call.observed.index = index_contiguous.data<int64_t>();
  }
  if (components) {
    allowed = new_empty({mdn::allowed_words(call.components)}, DType::int32);
    mdn::run_allow_components(*components, call.components, allowed.data<uint32_t>(), launch_here);
    call.allowed = allowed.data<uint32_t>();
  }

  const bool by_point = !gathered && loc.stride(1) == 1 && loc.stride(2) != 1;
  const auto output = [&](int64_t channels) {
    if (!by_point) return new_empty({batch, channels, points}, loc.dtype());
    return new_empty_strided({batch, channels, points}, {channels * points, 1, channels}, loc.dtype());
  };
  const Tensor mode_loc = output(call.dims);
  const Tensor mode_scale = scale ? output(call.scales) : new_empty({0}, loc.dtype());
  const Tensor component = new_empty({batch, points}, DType::int64);
  const Tensor weight = new_empty({batch, points}, loc.dtype());
  call.mode_loc = tile_view_of(mode_loc);
  if (scale) call.mode_scale = tile_view_of(mode_scale);
  call.component = component.data<int64_t>();
  call.weight = weight.data();

  const mdn::ModePlan plan = mdn::plan_mode(call);
  const Tensor workspace = new_empty({mdn::workspace_bytes(plan)}, DType::uint8);
  mdn::run_mixture_mode(call, plan, workspace.data(), launch_here);
  return {mode_loc, mode_scale, component, weight};
}

}  // namespace

CUDA_ON_CPU_BINDINGS { module.def("mixture_mode", &mixture_mode); }
