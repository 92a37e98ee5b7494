// splat_gaussians on a GPU: the launch. Nothing waits for the device.
#include "core/cuda/launch.h"
#include "ops/splat_gaussians/call.h"
#include "ops/splat_gaussians/cuda.cuh"

namespace mdn {
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
