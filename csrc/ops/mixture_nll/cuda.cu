// mixture_nll on a GPU: workspaces and launches. Nothing waits for the device.
#include "core/cuda/launch.h"
#include "ops/mixture_nll/call.h"
#include "ops/mixture_nll/cuda.cuh"

namespace mdn {
namespace {

struct NllOnGpu : DeviceCall {
  using DeviceCall::DeviceCall;
  using Call = MixtureCall;
  using Kappa = void;
  static ScalarType type_of_kappa(ScalarType arithmetic) { return arithmetic; }
  static Observed& observed(Call& call) { return call.observed; }
  void run(Call& call, const Tensor& loss) const;
};

void NllOnGpu::run(Call& call, const Tensor& loss) const {
  plan_groups(call.observed, call.points, call.dims);
  call.loss = address_of(loss);
  const MixturePlan plan = plan_mixture(call);
  STD_TORCH_CHECK(plan.tiling.count <= most_tiles, "mixture_nll: ", call.batch, " x ", call.points,
                  " positions are too many for a GPU");
  const Tensor workspace = fresh(loss, {workspace_of(call, plan).bytes}, ScalarType::Byte);
  run_mixture_nll(call, plan, address_of(workspace), Launcher{*this, "mixture_nll"});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) { m.impl("mixture_nll", TORCH_BOX(&mixture_nll<NllOnGpu>)); }

}  // namespace mdn
