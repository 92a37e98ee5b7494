// The schemas of the native ops. Their fake kernels and autograd are in mdnkernels/native, in Python.
#include <torch/csrc/stable/library.h>

#include <string>

#include "core/cpu/memory.h"
#include "core/cpu/simd_level.h"

#if defined(MDN_SOURCES)  // see mdnkernels/native/sources.py
extern "C" __attribute__((used)) const char mdnkernels_cpu_sources[] = "mdnkernels sources " MDN_SOURCES;
#endif

STABLE_TORCH_LIBRARY(mdnkernels, m) {
  m.def("simd_level() -> str");
  // Freed blocks of memory that are kept for the next large outputs: their bytes, and giving them back.
  m.def("kept_bytes() -> int");
  m.def("release_kept_blocks() -> ()");
  // exp, log and log1p as the kernels compute them, for the tests of their accuracy.
  m.def("apply_function(Tensor x, str name) -> Tensor");
  // image (h, w, 3) uint8, on the CPU, as (height, width, 3): the output's point (x, y) shows the image's point
  // (step_x x + x0, step_y y + y0). For train/data/images.py.
  m.def(
      "resample_window(Tensor image, float step_x, float x0, float step_y, float y0, int height, int width) -> Tensor");
  // images (B, H, W, 3) uint8, on the CPU. Sums are (B, 3) int64; mixed, (B, 3, H, W) float32, is matrix (B, 3, 3)
  // times the channels plus offset (B, 3). For train/data/colour.py.
  m.def("channel_sums(Tensor images) -> Tensor");
  m.def("mix_channels(Tensor images, Tensor matrix, Tensor offset) -> Tensor");
  // All tensors (B, K, P), weight (B, P). Gives the loss and, where they are asked for, the gradients of the reduced
  // loss (of each position's loss where it is not reduced); beside an index those of the gathered points, (B, K, N).
  m.def(
      "mixture_nll(Tensor logits, Tensor loc, Tensor scale, Tensor target, Tensor? mask, Tensor? weight, Tensor? "
      "index, Tensor? dim_scale, str family, float family_parameter, str scale_activation, float min_scale, str "
      "reduction, bool parameter_gradients, bool target_gradient) -> (Tensor loss, Tensor grad_logits, Tensor "
      "grad_loc, Tensor grad_scale, Tensor grad_target)");
  // (B, K, P), zero but for values (B, K, N) added at index (B, N).
  m.def("scatter_points(Tensor values, Tensor index, SymInt positions) -> Tensor");
  m.def(
      "topk_peaks(Tensor heatmap, SymInt k, int kernel_size, bool logits) -> (Tensor score, Tensor label, Tensor "
      "index)");
  // logits and target are of one shape and lie in memory in one order, without gaps. Gives the loss and, where it is
  // asked for, its gradient.
  m.def(
      "heatmap_focal_loss(Tensor logits, Tensor target, float alpha, float beta, bool logits_gradient) -> (Tensor "
      "loss, Tensor grad_logits)");
  m.def(
      "splat_gaussians(Tensor center, Tensor radius, Tensor label, SymInt num_labels, SymInt height, SymInt width) -> "
      "Tensor");
  // All tensors (B, K, P), component and weight (B, P); without a scale the second result is empty.
  m.def(
      "mixture_mode(Tensor logits, Tensor loc, Tensor? scale, Tensor? index, str select, int[]? components, str "
      "scale_activation, float min_scale) -> (Tensor loc, Tensor scale, Tensor component, Tensor weight)");
  m.def("gather_patches(Tensor feature, Tensor index, int kernel_size) -> Tensor");
  // The gradient of a feature of these sizes and strides, which are those of a dense tensor.
  m.def(
      "gather_patches_backward(Tensor grad_patches, Tensor index, SymInt[] size, SymInt[] stride, int kernel_size) -> "
      "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CompositeExplicitAutograd, m) {
  m.impl("simd_level", TORCH_BOX(&mdn::simd_level_name));
  m.impl("kept_bytes", TORCH_BOX(&mdn::kept_bytes));
  m.impl("release_kept_blocks", TORCH_BOX(&mdn::release_kept_blocks));
}
