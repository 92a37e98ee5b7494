// The kernels of toy_kernels.cuh, for test_emulator.py.
#include "bindings.h"
#include "toy_kernels.cuh"

namespace {

using cuda_on_cpu::DType;
using cuda_on_cpu::launch;
using cuda_on_cpu::new_empty;
using cuda_on_cpu::Tensor;

template <class T, int N>
Tensor copied(const Tensor& from, int64_t count, int64_t first, int64_t step) {
  const Tensor to = new_empty({count * N}, from.dtype());
  launch(toy::copy<T, N>, (count + 255) / 256, 256, 0, from.data<T>(), to.data<T>(), count, first, step);
  return to;
}

Tensor copy(const Tensor& from, int64_t width, int64_t count, int64_t first, int64_t step) {
  return (width == 4 ? copied<float, 4> : copied<float, 1>)(from, count, first, step);
}

Tensor row_sums(const Tensor& from) {
  const Tensor to = new_empty({from.size(0)}, DType::float32);
  launch(toy::row_sums, from.size(0), 32, 0, from.data<float>(), to.data<float>(), from.size(1));
  return to;
}

Tensor block_sums(const Tensor& from, int64_t blocks) {
  const Tensor to = new_empty({blocks}, DType::float64);
  launch(toy::block_sums, blocks, 256, 0, from.data<float>(), to.data<double>(), from.numel());
  return to;
}

Tensor reverse(const Tensor& from, int64_t block) {
  const Tensor to = new_empty(from.sizes(), DType::float32);
  launch(toy::reverse, from.numel() / block, block, block * 12, from.data<float>(), to.data<float>());
  return to;
}

Tensor warp_operations(const Tensor& from) {
  const Tensor to = new_empty({24, 32}, DType::int32);
  launch(toy::warp_operations, 1, 32, 0, from.data<int>(), to.data<int>());
  return to;
}

Tensor block_votes(const Tensor& from) {
  const Tensor to = new_empty({3, from.numel()}, DType::int32);
  launch(toy::block_votes, 1, from.numel(), 0, from.data<int>(), to.data<int>());
  return to;
}

Tensor indices(std::array<unsigned, 3> grid, std::array<unsigned, 3> block) {
  const Tensor to = new_empty({grid[0] * grid[1] * grid[2], block[0] * block[1] * block[2]}, DType::int32);
  launch(toy::indices, dim3(grid[0], grid[1], grid[2]), dim3(block[0], block[1], block[2]), 0, to.data<int>());
  return to;
}

std::tuple<Tensor, Tensor, Tensor> atomics(const Tensor& from, int bins) {
  const Tensor histogram = new_empty({bins}, DType::int32), slots = new_empty({9}, DType::int32);
  const Tensor total = new_empty({1}, DType::float32);
  memset(histogram.data(), 0, bins * sizeof(int));
  const int begin[] = {INT_MIN, INT_MAX, 0, -1, 0, 0, -1, 0, 0};
  memcpy(slots.data(), begin, sizeof begin);
  *total.data<float>() = 0;
  launch(toy::atomics, (from.numel() + 63) / 64, 64, bins * sizeof(int), from.data<int>(), bins, from.numel(),
         histogram.data<unsigned>(), slots.data<int>(), total.data<float>());
  return {histogram, slots, total};
}

template <class Half, class From>
std::tuple<Tensor, Tensor> converted(const Tensor& from, DType dtype) {
  const Tensor rounded = new_empty(from.sizes(), dtype), back = new_empty(from.sizes(), DType::float32);
  launch(toy::convert<Half, From>, (from.numel() + 255) / 256, 256, 0, from.data<From>(), rounded.data<Half>(),
         back.data<float>(), from.numel());
  return {rounded, back};
}

std::tuple<Tensor, Tensor> convert(const Tensor& from, bool bfloat16) {
  const bool wide = from.dtype() == DType::float64;
  if (bfloat16) {
    return (wide ? converted<__nv_bfloat16, double> : converted<__nv_bfloat16, float>)(from, DType::bfloat16);
  }
  return (wide ? converted<__half, double> : converted<__half, float>)(from, DType::float16);
}

std::tuple<Tensor, Tensor> racy(int64_t blocks) {
  const Tensor of_block = new_empty({blocks}, DType::int32), of_grid = new_empty({1}, DType::int32);
  launch(toy::racy, blocks, 64, 0, of_block.data<int>(), of_grid.data<int>());
  return {of_block, of_grid};
}

Tensor mistaken(const std::string& mistake, const Tensor& from) {
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
  const Tensor to = new_empty(from.sizes(), DType::float32);
  const int block = static_cast<toy::Mistake>(number) == toy::Mistake::names_lanes_beyond_the_block ? 50 : 64;
  launch(toy::mistaken, from.numel() / block, block, 64 * sizeof(float), static_cast<toy::Mistake>(number),
         from.data<float>(), to.data<float>());
  return to;
}

}  // namespace

CUDA_ON_CPU_BINDINGS {
  module.def("toy_copy", &copy);
  module.def("toy_row_sums", &row_sums);
  module.def("toy_block_sums", &block_sums);
  module.def("toy_reverse", &reverse);
  module.def("toy_warp_operations", &warp_operations);
  module.def("toy_block_votes", &block_votes);
  module.def("toy_indices", &indices);
  module.def("toy_atomics", &atomics);
  module.def("toy_convert", &convert);
  module.def("toy_racy", &racy);
  module.def("toy_mistaken", &mistaken);
}
