// mixture_mode on a GPU: outputs, workspaces and launches. Nothing waits for the device.
#include <tuple>

#include "core/cuda/launch.h"
#include "mixture/options.h"
#include "ops/mixture_mode/cuda.cuh"

namespace mdn {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> mixture_mode(Tensor logits, Tensor loc, OptionalTensor scale,
                                                        OptionalTensor index, std::string select,
                                                        std::optional<std::vector<int64_t>> components,
                                                        std::string scale_activation, double min_scale) {
  const bool gathered = index.has_value();
  const int64_t batch = loc.size(0), points = gathered ? index->size(1) : loc.size(2);
  const DeviceCall device(loc);
  const Launcher launch = {device, "mixture_mode"};

  ModeCall call = {};
  call.batch = batch;
  call.points = points;
  call.selection = selection_of(select);
  call.activation = activation_of(scale_activation);
  call.min_scale = min_scale;
  call.logits = tile_view_of(logits, gathered);
  call.loc = tile_view_of(loc, gathered);
  if (scale) call.scale = tile_view_of(*scale, gathered);
  set_sizes(call);
  Tensor index_contiguous, allowed;
  if (gathered) {
    index_contiguous = torch::stable::contiguous(*index);
    call.observed.index = data_of<const int64_t>(index_contiguous);
  }
  if (components) {
    allowed = fresh(loc, {allowed_words(call.components)}, ScalarType::Int);
    uint32_t* words = data_of<uint32_t>(allowed);
    run_allow_components(*components, call.components, words, launch);
    call.allowed = words;
  }

  // The modes of a map whose channels lie side by side have theirs so too.
  const bool by_point = !gathered && loc.stride(1) == 1 && loc.stride(2) != 1;
  const auto output = [&](int64_t channels) {
    if (!by_point) return fresh(loc, {batch, channels, points}, loc.scalar_type());
    return torch::stable::transpose(fresh(loc, {batch, points, channels}, loc.scalar_type()), 1, 2);
  };
  const Tensor mode_loc = output(call.dims);
  const Tensor mode_scale = scale ? output(call.scales) : fresh(loc, {0}, loc.scalar_type());
  const Tensor component = fresh(loc, {batch, points}, ScalarType::Long);
  const Tensor weight = fresh(loc, {batch, points}, loc.scalar_type());
  call.mode_loc = tile_view_of(mode_loc);
  if (scale) call.mode_scale = tile_view_of(mode_scale);
  call.component = data_of<int64_t>(component);
  call.weight = address_of(weight);

  const ModePlan plan = plan_mode(call);
  STD_TORCH_CHECK(plan.tiling.count <= most_tiles, "mixture_mode: ", batch, " x ", points,
                  " positions are too many for a GPU");
  const Tensor workspace = fresh(loc, {workspace_bytes(plan)}, ScalarType::Byte);
  run_mixture_mode(call, plan, address_of(workspace), launch);
  return {mode_loc, mode_scale, component, weight};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) { m.impl("mixture_mode", TORCH_BOX(&mixture_mode)); }

}  // namespace mdn
