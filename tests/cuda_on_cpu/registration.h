// Included before every line of a .cu: it registers its ops as torch.ops.cuda_on_cpu.OP, of CPU tensors, in place of
// mdnkernels' on a GPU. Their schemas are mdnkernels' (__init__.py).
#pragma once

// All of torch's that host code includes: cuda_on_cpu.h makes macros of CUDA's keywords.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(library, device, m)                                                          \
  static void cuda_on_cpu_register(torch::stable::detail::StableLibrary&);                                     \
  static const torch::stable::detail::StableTorchLibraryInit cuda_on_cpu_registration(                         \
      torch::stable::detail::StableLibrary::Kind::IMPL, &cuda_on_cpu_register, "cuda_on_cpu", "CPU", __FILE__, \
      __LINE__);                                                                                               \
  void cuda_on_cpu_register(torch::stable::detail::StableLibrary& m)
