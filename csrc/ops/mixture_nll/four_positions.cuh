// The numbers that a lane of planar.cuh has of a channel: those of four neighbouring positions, which move as one.
#pragma once

#include "ops/mixture_nll/positions.cuh"

namespace mdn {
namespace device {

using FourNumbers = Values<float, 4>;

template <class From>
MDN_ON_DEVICE FourNumbers load_four(const From* from) {
  const Pack<From, 4> pack = load_global(reinterpret_cast<const Pack<From, 4>*>(from));
  FourNumbers numbers;
#pragma unroll
  for (int j = 0; j < 4; ++j) numbers[j] = to_number(pack[j]);
  return numbers;
}

MDN_ON_DEVICE Pack<float, 4> packed(const FourNumbers& numbers) {
  Pack<float, 4> pack;
#pragma unroll
  for (int j = 0; j < 4; ++j) pack[j] = numbers[j];
  return pack;
}

MDN_ON_DEVICE void store_four(float* to, const FourNumbers& numbers) {
  store_global(reinterpret_cast<Pack<float, 4>*>(to), packed(numbers));
}

// `seen` has a byte for each position, which is 0 where a dimension is not observed.
MDN_ON_DEVICE bool has(uint32_t seen, int j) { return (seen & (uint32_t(0xff) << (8 * j))) != 0; }

// Standardised residuals of a dimension, 0 where it is not observed.
MDN_ON_DEVICE FourNumbers standardised(const FourNumbers& target, const FourNumbers& loc, const FourNumbers& inverse,
                                       uint32_t seen) {
  FourNumbers z;
#pragma unroll
  for (int j = 0; j < 4; ++j) z[j] = has(seen, j) ? (target[j] - loc[j]) * inverse[j] : 0.0f;
  return z;
}

// The slopes dv / dz of a correlated pair from its residuals and its entry of L, and what that entry's gradient is for
// a share of one. Takes the pair's v off log phi.
template <class Density>
MDN_ON_DEVICE void take_pair(const Density& density, const FourNumbers (&z)[2], const FourNumbers& entry, uint32_t seen,
                             FourNumbers (&slopes)[2], FourNumbers& of_entry, FourNumbers& part) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float own = has(seen, j) ? entry[j] : 0.0f, w = z[1][j] + own * z[0][j];
    slopes[1][j] = density.slope(w, w);
    slopes[0][j] = density.slope(z[0][j], z[0][j]) + own * slopes[1][j];
    of_entry[j] = slopes[1][j] * z[0][j];
    part[j] -= has(seen, j) ? density.value(z[0][j], z[0][j]) + density.value(w, w) : 0.0f;
  }
}

}  // namespace device
}  // namespace mdn
