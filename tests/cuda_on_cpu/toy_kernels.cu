// The kernels of toy_kernels.cuh as ops, torch.ops.cuda_on_cpu.toy_NAME, for test_emulator.py.
#include <tuple>

#include "core/cuda/launch.h"
#include "toy_kernels.cuh"

namespace {

using cuda_on_cpu::launch;
using mdn::data_of;
using mdn::DeviceCall;
using mdn::fresh;
using mdn::ScalarType;
using mdn::Tensor;

std::vector<int64_t> sizes_of(const Tensor& tensor) { return {tensor.sizes().begin(), tensor.sizes().end()}; }

template <class T, int N>
Tensor copied(Tensor from, int64_t count, int64_t first, int64_t step) {
  const DeviceCall call(from);
  const Tensor to = fresh(from, {count * N}, from.scalar_type());
  launch(toy::copy<T, N>, (count + 255) / 256, 256, 0, data_of<const T>(from), data_of<T>(to), count, first, step);
  return to;
}

Tensor copy(Tensor from, int64_t width, int64_t count, int64_t first, int64_t step) {
  return (width == 4 ? copied<float, 4> : copied<float, 1>)(from, count, first, step);
}

Tensor gather(Tensor from, Tensor index) {
  const DeviceCall call(from);
  const Tensor to = fresh(from, sizes_of(index), ScalarType::Float);
  launch(toy::gather, index.numel() / 32, 32, 0, data_of<const float>(from), data_of<const int64_t>(index),
         data_of<float>(to));
  return to;
}

Tensor row_sums(Tensor from) {
  const DeviceCall call(from);
  const Tensor to = fresh(from, {from.size(0)}, ScalarType::Float);
  launch(toy::row_sums, from.size(0), 32, 0, data_of<const float>(from), data_of<float>(to), from.size(1));
  return to;
}

Tensor block_sums(Tensor from, int64_t blocks) {
  const DeviceCall call(from);
  const Tensor to = fresh(from, {blocks}, ScalarType::Double);
  launch(toy::block_sums, blocks, 256, 0, data_of<const float>(from), data_of<double>(to), from.numel());
  return to;
}

Tensor reverse(Tensor from, int64_t block) {
  const DeviceCall call(from);
  const Tensor to = fresh(from, sizes_of(from), ScalarType::Float);
  launch(toy::reverse, from.numel() / block, block, block * 12, data_of<const float>(from), data_of<float>(to));
  return to;
}

Tensor warp_operations(Tensor from) {
  const DeviceCall call(from);
  const Tensor to = fresh(from, {24, 32}, ScalarType::Int);
  launch(toy::warp_operations, 1, 32, 0, data_of<const int>(from), data_of<int>(to));
  return to;
}

Tensor block_votes(Tensor from) {
  const DeviceCall call(from);
  const Tensor to = fresh(from, {3, from.numel()}, ScalarType::Int);
  launch(toy::block_votes, 1, from.numel(), 0, data_of<const int>(from), data_of<int>(to));
  return to;
}

Tensor indices(Tensor from, std::vector<int64_t> grid, std::vector<int64_t> block) {
  const DeviceCall call(from);
  const Tensor to = fresh(from, {grid[0] * grid[1] * grid[2], block[0] * block[1] * block[2]}, ScalarType::Int);
  launch(toy::indices, dim3(grid[0], grid[1], grid[2]), dim3(block[0], block[1], block[2]), 0, data_of<int>(to));
  return to;
}

std::tuple<Tensor, Tensor, Tensor> atomics(Tensor from, int64_t bins) {
  const DeviceCall call(from);
  const Tensor histogram = fresh(from, {bins}, ScalarType::Int), slots = fresh(from, {9}, ScalarType::Int);
  const Tensor total = fresh(from, {1}, ScalarType::Float);
  memset(data_of<void>(histogram), 0, bins * sizeof(int));
  const int begin[] = {INT_MIN, INT_MAX, 0, -1, 0, 0, -1, 0, 0};
  memcpy(data_of<void>(slots), begin, sizeof begin);
  *data_of<float>(total) = 0;
  launch(toy::atomics, (from.numel() + 63) / 64, 64, bins * sizeof(int), data_of<const int>(from), bins, from.numel(),
         data_of<unsigned>(histogram), data_of<int>(slots), data_of<float>(total));
  return {histogram, slots, total};
}

template <class Half, class From>
std::tuple<Tensor, Tensor> converted(Tensor from, ScalarType dtype) {
  const DeviceCall call(from);
  const Tensor rounded = fresh(from, sizes_of(from), dtype), back = fresh(from, sizes_of(from), ScalarType::Float);
  launch(toy::convert<Half, From>, (from.numel() + 255) / 256, 256, 0, data_of<const From>(from),
         data_of<Half>(rounded), data_of<float>(back), from.numel());
  return {rounded, back};
}

std::tuple<Tensor, Tensor> convert(Tensor from, bool bfloat16) {
  const bool wide = from.scalar_type() == ScalarType::Double;
  if (bfloat16) {
    return (wide ? converted<__nv_bfloat16, double> : converted<__nv_bfloat16, float>)(from, ScalarType::BFloat16);
  }
  return (wide ? converted<__half, double> : converted<__half, float>)(from, ScalarType::Half);
}

std::tuple<Tensor, Tensor> racy(Tensor from, int64_t blocks) {
  const DeviceCall call(from);
  const Tensor of_block = fresh(from, {blocks}, ScalarType::Int), of_grid = fresh(from, {1}, ScalarType::Int);
  launch(toy::racy, blocks, 64, 0, data_of<int>(of_block), data_of<int>(of_grid));
  return {of_block, of_grid};
}

Tensor mistaken(std::string mistake, Tensor from) {
  const DeviceCall call(from);
  static const char* const names[] = {
      "reads_behind_the_end",
      "reads_before_the_start",
      "writes_behind_the_end",
      "writes_an_input",
      "loads_a_pack_misaligned",
      "adds_behind_the_end",
      "skips_a_barrier",
      "leaves_a_barrier_waiting",
      "mixes_barriers",
      "leaves_before_a_shuffle",
      "sits_out_a_vote",
      "shuffles_from_outside_the_mask",
      "is_not_in_its_own_mask",
      "names_lanes_beyond_the_block",
      "shuffles_across_odd_segments",
      "reads_unwritten_shared",
      "reads_unwritten_dynamic_shared",
      "indexes_behind_shared",
      "asks_for_too_much_dynamic_shared",
  };
  int number = 0;
  while (mistake != names[number]) ++number;
  const Tensor to = fresh(from, sizes_of(from), ScalarType::Float);
  const int block = static_cast<toy::Mistake>(number) == toy::Mistake::names_lanes_beyond_the_block ? 50 : 64;
  launch(toy::mistaken, from.numel() / block, block, 64 * sizeof(float), static_cast<toy::Mistake>(number),
         data_of<const float>(from), data_of<float>(to));
  return to;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(cuda_on_cpu, m) {
  m.def("toy_copy(Tensor from, int width, int count, int first, int step) -> Tensor");
  m.def("toy_gather(Tensor from, Tensor index) -> Tensor");
  m.def("toy_row_sums(Tensor from) -> Tensor");
  m.def("toy_block_sums(Tensor from, int blocks) -> Tensor");
  m.def("toy_reverse(Tensor from, int block) -> Tensor");
  m.def("toy_warp_operations(Tensor from) -> Tensor");
  m.def("toy_block_votes(Tensor from) -> Tensor");
  m.def("toy_indices(Tensor from, int[] grid, int[] block) -> Tensor");
  m.def("toy_atomics(Tensor from, int bins) -> (Tensor, Tensor, Tensor)");
  m.def("toy_convert(Tensor from, bool bfloat16) -> (Tensor, Tensor)");
  m.def("toy_racy(Tensor from, int blocks) -> (Tensor, Tensor)");
  m.def("toy_mistaken(str mistake, Tensor from) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) {
  m.impl("toy_copy", TORCH_BOX(&copy));
  m.impl("toy_gather", TORCH_BOX(&gather));
  m.impl("toy_row_sums", TORCH_BOX(&row_sums));
  m.impl("toy_block_sums", TORCH_BOX(&block_sums));
  m.impl("toy_reverse", TORCH_BOX(&reverse));
  m.impl("toy_warp_operations", TORCH_BOX(&warp_operations));
  m.impl("toy_block_votes", TORCH_BOX(&block_votes));
  m.impl("toy_indices", TORCH_BOX(&indices));
  m.impl("toy_atomics", TORCH_BOX(&atomics));
  m.impl("toy_convert", TORCH_BOX(&convert));
  m.impl("toy_racy", TORCH_BOX(&racy));
  m.impl("toy_mistaken", TORCH_BOX(&mistaken));
}
