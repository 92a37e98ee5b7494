// What a lane of planar_nll has of a channel: four neighbouring positions, 16 bytes of float32.
#pragma once

#include "ops/mixture_nll/positions.cuh"

namespace mdn {
namespace device {

constexpr int lane_positions = 4;
using LaneNumbers = Values<float, lane_positions>;

// Which of the positions are observed: a byte for each, 1 or 0.
constexpr uint32_t all_seen = 0x01010101;
MDN_ON_DEVICE bool has(uint32_t seen, int j) { return (seen & (uint32_t(0xff) << (8 * j))) != 0; }

template <class From>
MDN_ON_DEVICE LaneNumbers load_lane(const From* from) {
  const Pack<From, lane_positions> pack = load_global(reinterpret_cast<const Pack<From, lane_positions>*>(from));
  LaneNumbers numbers;
#pragma unroll
  for (int j = 0; j < lane_positions; ++j) numbers[j] = to_number(pack[j]);
  return numbers;
}

MDN_ON_DEVICE Pack<float, lane_positions> packed(const LaneNumbers& numbers) {
  Pack<float, lane_positions> pack;
#pragma unroll
  for (int j = 0; j < lane_positions; ++j) pack[j] = numbers[j];
  return pack;
}

MDN_ON_DEVICE void store_lane(float* to, const LaneNumbers& numbers) {
  store_global(reinterpret_cast<Pack<float, lane_positions>*>(to), packed(numbers));
}

// Standardised residuals of a dimension, 0 where it is not observed.
MDN_ON_DEVICE LaneNumbers standardised(const LaneNumbers& target, const LaneNumbers& loc, const LaneNumbers& inverse,
                                       uint32_t seen) {
  LaneNumbers z;
#pragma unroll
  for (int j = 0; j < lane_positions; ++j) z[j] = has(seen, j) ? (target[j] - loc[j]) * inverse[j] : 0.0f;
  return z;
}

// What a position's posterior follows from, of the warp's positions: for each component a row of log phi and one of
// logits.
struct WarpParts {
  static constexpr int row = lane_positions * warp_lanes;

  const DynamicSharedArray<float>& parts;
  int position;
  MDN_ON_DEVICE float part(int m) const { return parts[2 * m * row + position]; }
  MDN_ON_DEVICE float logit(int m) const { return parts[(2 * m + 1) * row + position]; }
};

}  // namespace device
}  // namespace mdn
