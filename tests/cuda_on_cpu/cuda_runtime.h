// CUDA's runtime for the host compiler, as far as csrc/core/cuda/launch.h calls it.
#pragma once

#include "cuda_on_cpu.h"

// A launch that is refused or fails raises cuda_on_cpu::Error where it is made: none of these returns anything else.
enum cudaError_t { cudaSuccess };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }

using cudaStream_t = struct CudaOnCpuStream*;

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  cuda_on_cpu::allow_shared_bytes(reinterpret_cast<const void*>(kernel), static_cast<size_t>(bytes));
  return cudaSuccess;
}

template <class... Parameters, size_t... i>
void cuda_on_cpu_launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, void** arguments, size_t shared_bytes,
                        std::index_sequence<i...>) {
  cuda_on_cpu::launch(kernel, grid, block, shared_bytes, *static_cast<Parameters*>(arguments[i])...);
}

template <class... Parameters>
cudaError_t cudaLaunchKernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, void** arguments,
                             size_t shared_bytes, cudaStream_t) {
  cuda_on_cpu_launch(kernel, grid, block, arguments, shared_bytes, std::index_sequence_for<Parameters...>());
  return cudaSuccess;
}
