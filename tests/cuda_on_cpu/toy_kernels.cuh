// Small kernels that do one thing each, right or wrong, to show what the emulator computes, counts and reports.
#pragma once

#include "core/cuda/device.cuh"

namespace toy {

using mdn::device::all_lanes;
using mdn::device::dynamic_shared;
using mdn::device::DynamicSharedArray;
using mdn::device::load_global;
using mdn::device::Pack;
using mdn::device::SharedArray;
using mdn::device::store_global;

MDN_ON_DEVICE int64_t thread_of_grid() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

// to[i] = from[first + step * i], with N elements for one.
template <class T, int N>
__global__ void __launch_bounds__(256) copy(const T* from, T* to, int64_t count, int64_t first, int64_t step) {
  const int64_t i = thread_of_grid();
  if (i >= count) return;
  using P = Pack<T, N>;
  store_global(reinterpret_cast<P*>(to) + i, load_global(reinterpret_cast<const P*>(from + first) + step * i));
}

// to[i] = from[index[i]].
__global__ void gather(const float* from, const int64_t* index, float* to) {
  const int64_t i = thread_of_grid();
  store_global(to + i, load_global(from + load_global(index + i)));
}

// A row of `columns` for each warp: its lanes read it in turns, and those beyond the end sit out.
__global__ void __launch_bounds__(256) row_sums(const float* from, float* to, int64_t columns) {
  const int lane = threadIdx.x % 32;
  const int64_t row = thread_of_grid() / 32;
  float total = 0;
  for (int64_t i = lane; i < columns; i += 32) total += load_global(from + row * columns + i);
  for (int reach = 16; reach > 0; reach /= 2) total += __shfl_xor_sync(all_lanes, total, reach);
  if (lane == 0) store_global(to + row, total);
}

// One partial sum a block: through shuffles within a warp, through shared memory between warps.
__global__ void __launch_bounds__(256) block_sums(const float* from, double* to, int64_t count) {
  __shared__ SharedArray<double, 8> of_warp;
  double total = 0;
  for (int64_t i = thread_of_grid(); i < count; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    total += load_global(from + i);
  }
  for (int reach = 16; reach > 0; reach /= 2) total += __shfl_down_sync(all_lanes, total, reach);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = total;
  __syncthreads();
  if (threadIdx.x == 0) {
    double of_block = 0;
    for (int warp = 0; warp < static_cast<int>(blockDim.x / 32); ++warp) of_block += of_warp[warp];
    store_global(to + blockIdx.x, of_block);
  }
}

// Each block turns its part around, through dynamic shared memory that two arrays of different types share.
__global__ void reverse(const float* from, float* to) {
  const int threads = blockDim.x, thread = threadIdx.x;
  const DynamicSharedArray<double> wide = dynamic_shared<double>(0, threads);
  const DynamicSharedArray<float> narrow = dynamic_shared<float>(threads * static_cast<int>(sizeof(double)), threads);
  wide[thread] = load_global(from + thread_of_grid());
  __syncthreads();
  const double value = wide[threads - 1 - thread];
  narrow[thread] = static_cast<float>(value);
  store_global(to + thread_of_grid(), static_cast<float>(narrow[thread]));
}

// What the warp's operations give each lane, one row of 32 for each of them.
__global__ void warp_operations(const int* from, int* to) {
  const int lane = threadIdx.x;
  const int value = load_global(from + lane);
  const unsigned bits = static_cast<unsigned>(value);
  const int results[] = {
      __shfl_sync(all_lanes, value, lane * 7 + 3),
      __shfl_sync(all_lanes, value, 5, 8),
      __shfl_down_sync(all_lanes, value, 3),
      __shfl_down_sync(all_lanes, value, 3, 16),
      __shfl_up_sync(all_lanes, value, 2),
      __shfl_up_sync(all_lanes, value, 2, 4),
      __shfl_xor_sync(all_lanes, value, 9),
      __shfl_xor_sync(all_lanes, value, 5, 4),
      static_cast<int>(__ballot_sync(all_lanes, value > 0)),
      __all_sync(all_lanes, value > 0),
      __all_sync(all_lanes, value < 1000),
      __any_sync(all_lanes, value > 1000),
      __any_sync(all_lanes, value > 0),
      __reduce_add_sync(all_lanes, value),
      __reduce_min_sync(all_lanes, value),
      __reduce_max_sync(all_lanes, value),
      static_cast<int>(__reduce_min_sync(all_lanes, bits)),
      static_cast<int>(__reduce_max_sync(all_lanes, bits)),
      static_cast<int>(__reduce_and_sync(all_lanes, bits | 1)),
      static_cast<int>(__reduce_or_sync(all_lanes, bits & 12)),
      static_cast<int>(__reduce_xor_sync(all_lanes, bits)),
      static_cast<int>(__match_any_sync(all_lanes, value % 3)),
  };
  int row = 0;
  for (const int result : results) store_global(to + 32 * row++ + lane, result);
  // Half of the warp among themselves; 64 bits, and a lane's own 16.
  if (lane < 16) store_global(to + 32 * row + lane, __shfl_xor_sync(0xffffu, value, 1));
  __syncwarp();
  const double exact = __shfl_sync(all_lanes, value + 0.25, 31 - lane);
  store_global(to + 32 * (row + 1) + lane, static_cast<int>(exact * 4));
}

__global__ void block_votes(const int* from, int* to) {
  const int value = load_global(from + threadIdx.x);
  store_global(to + threadIdx.x, __syncthreads_count(value > 0));
  store_global(to + blockDim.x + threadIdx.x, __syncthreads_and(value > 0));
  store_global(to + 2 * blockDim.x + threadIdx.x, __syncthreads_or(value > 0));
}

// Where each thread thinks it is.
__global__ void indices(int* to) {
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  store_global(to + block * (blockDim.x * blockDim.y * blockDim.z) + thread, block * 1000 + thread);
}

// A histogram, first of each block in shared memory; then each of the other atomics on a slot of its own.
__global__ void atomics(const int* from, int bins, int64_t count, unsigned* histogram, int* slots, float* total) {
  const DynamicSharedArray<unsigned> of_block = dynamic_shared<unsigned>(0, bins);
  for (int bin = threadIdx.x; bin < bins; bin += blockDim.x) of_block[bin] = 0;
  __syncthreads();
  const int64_t i = thread_of_grid();
  if (i < count) {
    const int value = load_global(from + i);
    atomicAdd(&of_block[value % bins], 1);
    atomicMax(slots, value);
    atomicMin(slots + 1, value);
    atomicOr(slots + 2, value);
    atomicAnd(slots + 3, value | 8);
    atomicXor(slots + 4, value);
    atomicSub(slots + 5, value);
    if (atomicCAS(slots + 6, -1, 7) == -1) atomicAdd(slots + 7, 1);  // one thread alone finds the -1
    atomicExch(slots + 8, 5);
    atomicAdd(total, 0.5f);
  }
  __syncthreads();
  for (int bin = threadIdx.x; bin < bins; bin += blockDim.x) atomicAdd(histogram + bin, of_block[bin]);
}

template <class Half, class From>
__global__ void convert(const From* from, Half* rounded, float* back, int64_t count) {
  const int64_t i = thread_of_grid();
  if (i >= count) return;
  const Half value(load_global(from + i));
  store_global(rounded + i, value);
  store_global(back + i, static_cast<float>(value));
}

// The last thread to come wins: its number in shared memory, its block's in global memory.
__global__ void racy(int* of_block, int* of_grid) {
  __shared__ SharedArray<int, 1> last;
  last[0] = static_cast<int>(threadIdx.x);
  store_global(of_grid, static_cast<int>(blockIdx.x));
  __syncthreads();
  store_global(of_block + blockIdx.x, static_cast<int>(last[0]));
}

enum class Mistake {
  reads_behind_the_end,
  reads_before_the_start,
  writes_behind_the_end,
  writes_an_input,
  loads_a_pack_misaligned,
  adds_behind_the_end,
  skips_a_barrier,
  leaves_a_barrier_waiting,
  mixes_barriers,
  leaves_before_a_shuffle,
  sits_out_a_vote,
  shuffles_from_outside_the_mask,
  is_not_in_its_own_mask,
  names_lanes_beyond_the_block,
  shuffles_across_odd_segments,
  reads_unwritten_shared,
  reads_unwritten_dynamic_shared,
  indexes_behind_shared,
  asks_for_too_much_dynamic_shared,
};

// Thread 37 of block 1 makes the mistake, in blocks of 64; `from` and `to` have an element for each thread.
__global__ void mistaken(Mistake mistake, const float* from, float* to) {
  __shared__ SharedArray<float, 64> shared;
  const int thread = threadIdx.x;
  const int64_t i = thread_of_grid(), count = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const bool wrong = blockIdx.x == 1 && thread == 37;
  float value = load_global(from + i);
  if (!wrong) shared[thread] = value;
  switch (mistake) {
    case Mistake::reads_behind_the_end:
      if (wrong) value = load_global(from + count);
      break;
    case Mistake::reads_before_the_start:
      if (wrong) value = load_global(from - 1);
      break;
    case Mistake::writes_behind_the_end:
      if (wrong) store_global(to + count, value);
      break;
    case Mistake::writes_an_input:
      if (wrong) store_global(const_cast<float*>(from) + i, value);
      break;
    case Mistake::loads_a_pack_misaligned:
      if (wrong) value = load_global(reinterpret_cast<const Pack<float, 2>*>(from + 1))[0];
      break;
    case Mistake::adds_behind_the_end:
      if (wrong) atomicAdd(to + count, value);
      break;
    case Mistake::skips_a_barrier:
      if (!wrong) __syncthreads();
      __syncthreads();
      break;
    case Mistake::leaves_a_barrier_waiting:
      if (wrong) {
        value = __shfl_sync(all_lanes, value, 0);
      } else {
        __syncthreads();
      }
      break;
    case Mistake::mixes_barriers:
      if (wrong) {
        value += static_cast<float>(__syncthreads_count(1));
      } else {
        __syncthreads();
      }
      break;
    case Mistake::leaves_before_a_shuffle:
      if (wrong) return;
      value = __shfl_down_sync(all_lanes, value, 1);
      break;
    case Mistake::sits_out_a_vote:
      if (!wrong) value += static_cast<float>(__any_sync(all_lanes, value > 0));
      __syncthreads();
      break;
    case Mistake::shuffles_from_outside_the_mask:
      if (wrong) value = __shfl_sync(1u << 5, value, 6);
      break;
    case Mistake::is_not_in_its_own_mask:
      if (wrong) value = __shfl_sync(1u << 6, value, 6);
      break;
    case Mistake::names_lanes_beyond_the_block:
      value = __shfl_sync(all_lanes, value, 0);
      break;
    case Mistake::shuffles_across_odd_segments:
      if (wrong) value = __shfl_sync(1u << 5, value, 5, 3);
      break;
    case Mistake::reads_unwritten_shared:
      __syncthreads();
      value = shared[thread];
      break;
    case Mistake::reads_unwritten_dynamic_shared: {
      const DynamicSharedArray<float> dynamic = dynamic_shared<float>(0, 64);
      if (!wrong) dynamic[thread] = value;
      __syncthreads();
      value = dynamic[thread];
      break;
    }
    case Mistake::indexes_behind_shared:
      if (wrong) shared[64] = value;
      break;
    case Mistake::asks_for_too_much_dynamic_shared:
      if (wrong) dynamic_shared<float>(4, 64)[0] = value;
      break;
  }
  store_global(to + i, value);
}

}  // namespace toy
