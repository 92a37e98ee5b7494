// mixture_mode on a GPU: workspace and launches. Nothing waits for the device.
#include "core/cuda/launch.h"
#include "ops/mixture_mode/call.h"
#include "ops/mixture_mode/cuda.cuh"

namespace mdn {
namespace {

struct ModeOnGpu : DeviceCall {
  using DeviceCall::DeviceCall;
  using Call = ModeCall;
  using Allowed = Tensor;
  static Observed& observed(Call& call) { return call.observed; }
  Allowed allow(Call& call, const std::vector<int64_t>& components, const Tensor& like) const;
  void run(Call& call, const Tensor& like) const;
};

Tensor ModeOnGpu::allow(Call& call, const std::vector<int64_t>& components, const Tensor& like) const {
  const Tensor allowed = fresh(like, {allowed_words(call.components)}, ScalarType::Int);
  uint32_t* words = data_of<uint32_t>(allowed);
  run_allow_components(components, call.components, words, Launcher{*this, "mixture_mode"});
  call.allowed = words;
  return allowed;
}

void ModeOnGpu::run(Call& call, const Tensor& like) const {
  if (call.scales == 0) call.scales = 1;  // nothing is divided by 0
  plan_groups(call.observed, call.points, call.dims);
  const ModePlan plan = plan_mode(call);
  STD_TORCH_CHECK(plan.tiling.count <= most_tiles, "mixture_mode: ", call.batch, " x ", call.points,
                  " positions are too many for a GPU");
  const Tensor workspace = fresh(like, {workspace_bytes(plan)}, ScalarType::Byte);
  run_mixture_mode(call, plan, address_of(workspace), Launcher{*this, "mixture_mode"});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) { m.impl("mixture_mode", TORCH_BOX(&mixture_mode<ModeOnGpu>)); }

}  // namespace mdn
