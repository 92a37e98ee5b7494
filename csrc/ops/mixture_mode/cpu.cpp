// mixture_mode on the CPU: outputs, and blocks of positions over threads.
#include "ops/mixture_mode/cpu.h"

#include <algorithm>
#include <tuple>

#include "core/cpu/simd_level.h"
#include "core/cpu/tensors.h"
#include "mixture/options.h"

namespace mdn {
namespace {

// Long blocks, four pages of a float row, where little is kept of each position; shorter ones where their scratch would
// leave the second-level cache, and where an index names a few positions that all threads should share.
int block_positions(const ModeCall& call) {
  if (call.index) return 64;
  int64_t values = 3 * call.components + call.scales;
  if (call.selection != Selection::weight) values += call.components * call.scales;
  if (call.selection == Selection::mean) values += (call.components + 1) * call.dims;
  int block = largest_mode_block;
  while (block > 64 && block * values * 8 > (512 << 10)) block /= 2;
  return block;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> mixture_mode(Tensor logits, Tensor loc, OptionalTensor scale,
                                                        OptionalTensor index, std::string select,
                                                        std::optional<std::vector<int64_t>> components,
                                                        std::string scale_activation, double min_scale) {
  const bool gathered = index.has_value();
  const int64_t batch = loc.size(0), count = logits.size(1), points = gathered ? index->size(1) : loc.size(2);

  ModeCall call = {};
  call.batch = batch;
  call.points = points;
  call.components = count;
  call.dims = loc.size(1) / count;
  call.scales = scale ? scale->size(1) / count : 0;
  call.selection = selection_of(select);
  call.activation = activation_of(scale_activation);
  call.min_scale = min_scale;
  call.logits = view_of(logits, gathered);
  call.loc = view_of(loc, gathered);
  if (scale) call.scale = view_of(*scale, gathered);
  Tensor index_contiguous;
  if (gathered) {
    index_contiguous = torch::stable::contiguous(*index);
    call.index = static_cast<const int64_t*>(index_contiguous.data_ptr());
  }
  std::vector<unsigned char> allowed;
  if (components) {
    allowed.resize(count);
    for (const int64_t component : *components) allowed[component] = 1;
    call.allowed = allowed.data();
  }
  call.block = block_positions(call);

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
  call.mode_loc = view_of(mode_loc);
  if (scale) call.mode_scale = view_of(mode_scale);
  call.component = static_cast<int64_t*>(component.data_ptr());
  call.weight = weight.data_ptr();

  const ModeKernel& kernel = MDN_AT_SIMD_LEVEL(mode_kernel);
  const int64_t scratch_bytes = kernel.scratch_bytes(call);
  const int64_t blocks = (batch * points + call.block - 1) / call.block;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    const ThreadScratch scratch(scratch_bytes);
    for (int64_t block = begin; block < end; ++block) kernel.run(call, block, scratch.get());
  });
  return {mode_loc, mode_scale, component, weight};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CPU, m) { m.impl("mixture_mode", TORCH_BOX(&mixture_mode)); }

}  // namespace mdn
