// What every op shares on a GPU: the device and stream of a call, its tensors and its launches. Nothing here waits for
// the device, so every op can be captured in a CUDA graph.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include <optional>

#include "core/cuda/tiles.cuh"
#include "core/torch_tensors.h"

namespace mdn {

// A call of an op on the device of `on`, for its host code (ops/OP/call.h). Makes that device the current one for as
// long as it lives, and knows torch's current stream there.
class DeviceCall {
 public:
  explicit DeviceCall(const Tensor& on);
  ~DeviceCall();
  DeviceCall(const DeviceCall&) = delete;
  DeviceCall& operator=(const DeviceCall&) = delete;
  cudaStream_t stream() const { return stream_; }
  static TileView view(const Tensor& tensor, bool gathered = false) {
    return {view_of(tensor, gathered), tensor.size(0)};
  }

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;  // none in tests/cuda_on_cpu
  cudaStream_t stream_ = nullptr;
};

// Makes a run_OP's launches in a call's stream.
struct Launcher {
  const DeviceCall& call;
  const char* op;

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), int blocks, int threads, int shared_bytes,
                  Arguments... arguments) const {
    if (shared_bytes > 48 << 10) {  // more than every kernel may use
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), shared_bytes);
    }
    // What kernel<<<...>>>(arguments...) calls, in C++ of any compiler.
    const auto launch = [&](Parameters... values) {
      void* addresses[] = {&values...};
      cudaLaunchKernel(kernel, dim3(blocks), dim3(threads), addresses, shared_bytes, call.stream());
    };
    launch(arguments...);
    check(cudaGetLastError(), shared_bytes);
  }

  // Raises where the launch was refused.
  void check(cudaError_t error, int shared_bytes) const {
    STD_TORCH_CHECK(error == cudaSuccess, "mdnkernels: launching ", op, " with ", shared_bytes,
                    " bytes of shared memory: ", cudaGetErrorString(error));
  }
};

}  // namespace mdn
