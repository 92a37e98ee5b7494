// Rows of channels of as many positions as a vector has lanes, turned into a vector for each channel, and back: the way
// of channels_last maps and of (N, K) rows. Four channels at a time: a position's four are one load of 16 bytes, and
// eight shuffles within the 16-byte lanes serve them all, at two or three instructions a vector.
#pragma once

#include "core/simd.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {

// Whether this instruction set has it, for rows of T in memory.
template <class T, class Storage>
constexpr bool transposes = false;

#if MDN_VECTOR_BYTES >= 32
template <>
constexpr bool transposes<float, float> = true;

// The first `count` of four channels.
template <bool four>
MDN_INLINE __m128 load_channels(const float* from, __m128i present) {
  return four ? _mm_loadu_ps(from) : _mm_maskload_ps(from, present);
}

template <bool four>
MDN_INLINE void store_channels(float* to, __m128i present, __m128 value) {
  if (four) {
    _mm_storeu_ps(to, value);
  } else {
    _mm_maskstore_ps(to, present, value);
  }
}

// Swaps position and channel within each 16-byte lane of four vectors.
#if MDN_VECTOR_BYTES == 64
MDN_INLINE void swap_in_lanes(Vector<float> (&v)[4]) {
  const uint16_t all = 0xffff;
  const uint8_t all_pairs = 0xff;
  const __m512d a = _mm512_castps_pd(_mm512_maskz_unpacklo_ps(all, v[0], v[1]));
  const __m512d b = _mm512_castps_pd(_mm512_maskz_unpackhi_ps(all, v[0], v[1]));
  const __m512d c = _mm512_castps_pd(_mm512_maskz_unpacklo_ps(all, v[2], v[3]));
  const __m512d d = _mm512_castps_pd(_mm512_maskz_unpackhi_ps(all, v[2], v[3]));
  v[0] = _mm512_castpd_ps(_mm512_maskz_unpacklo_pd(all_pairs, a, c));
  v[1] = _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(all_pairs, a, c));
  v[2] = _mm512_castpd_ps(_mm512_maskz_unpacklo_pd(all_pairs, b, d));
  v[3] = _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(all_pairs, b, d));
}

// The channels of four positions, side by side.
template <bool four>
MDN_INLINE Vector<float> join(const float* const* from, int64_t channel, __m128i present) {
  __m512 v = _mm512_maskz_broadcast_f32x4(0xffff, load_channels<four>(from[0] + channel, present));
  v = _mm512_mask_broadcast_f32x4(v, 0x00f0, load_channels<four>(from[4] + channel, present));
  v = _mm512_mask_broadcast_f32x4(v, 0x0f00, load_channels<four>(from[8] + channel, present));
  return _mm512_mask_broadcast_f32x4(v, 0xf000, load_channels<four>(from[12] + channel, present));
}

template <bool four>
MDN_INLINE void split(float* const* to, int64_t channel, __m128i present, Vector<float> v) {
  store_channels<four>(to[0] + channel, present, _mm512_maskz_extractf32x4_ps(0xf, v, 0));
  store_channels<four>(to[4] + channel, present, _mm512_maskz_extractf32x4_ps(0xf, v, 1));
  store_channels<four>(to[8] + channel, present, _mm512_maskz_extractf32x4_ps(0xf, v, 2));
  store_channels<four>(to[12] + channel, present, _mm512_maskz_extractf32x4_ps(0xf, v, 3));
}
#else
MDN_INLINE void swap_in_lanes(Vector<float> (&v)[4]) {
  const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(v[0], v[1]));
  const __m256d b = _mm256_castps_pd(_mm256_unpackhi_ps(v[0], v[1]));
  const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(v[2], v[3]));
  const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(v[2], v[3]));
  v[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
  v[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
  v[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
  v[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
}

template <bool four>
MDN_INLINE Vector<float> join(const float* const* from, int64_t channel, __m128i present) {
  const __m128 low = load_channels<four>(from[0] + channel, present);
  const __m128 high = load_channels<four>(from[4] + channel, present);
  return _mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1);
}

template <bool four>
MDN_INLINE void split(float* const* to, int64_t channel, __m128i present, Vector<float> v) {
  store_channels<four>(to[0] + channel, present, _mm256_castps256_ps128(v));
  store_channels<four>(to[4] + channel, present, _mm256_extractf128_ps(v, 1));
}
#endif

// The channels that are moved together: with four or more the last four overlap those before.
template <class Move>
MDN_INLINE void for_each_four(int64_t channels, Move move) {
  for (int64_t c = 0; c + 4 <= channels; c += 4) move(c);
  if (channels > 4 && channels % 4 != 0) move(channels - 4);
}

// to[c][i] = from[i][c] for lanes<float> positions i.
template <bool four>
MDN_INLINE void rows_from_positions(const float* const* from, int64_t channels, float* to, int64_t stride) {
  const __m128i present = _mm_setr_epi32(-1, channels > 1 ? -1 : 0, channels > 2 ? -1 : 0, 0);
  const auto move = [&](int64_t c) {
    Vector<float> v[4];
    for (int j = 0; j < 4; ++j) v[j] = join<four>(from + j, c, present);
    swap_in_lanes(v);
    for (int j = 0; j < 4 && (four || j < channels); ++j) store(to + (c + j) * stride, v[j]);
  };
  if (four) {
    for_each_four(channels, move);
  } else {
    move(0);
  }
}

MDN_INLINE void read_positions(const float* const* from, int64_t channels, float* to, int64_t stride) {
  if (channels >= 4) {
    rows_from_positions<true>(from, channels, to, stride);
  } else {
    rows_from_positions<false>(from, channels, to, stride);
  }
}

// to[i][c] = from[c][i].
template <bool four>
MDN_INLINE void positions_from_rows(const float* from, int64_t stride, int64_t channels, float* const* to) {
  const __m128i present = _mm_setr_epi32(-1, channels > 1 ? -1 : 0, channels > 2 ? -1 : 0, 0);
  const auto move = [&](int64_t c) {
    Vector<float> v[4];
    for (int j = 0; j < 4; ++j) v[j] = four || j < channels ? load(from + (c + j) * stride) : Vector<float>{};
    swap_in_lanes(v);
    for (int j = 0; j < 4; ++j) split<four>(to + j, c, present, v[j]);
  };
  if (four) {
    for_each_four(channels, move);
  } else {
    move(0);
  }
}

MDN_INLINE void write_positions(const float* from, int64_t stride, int64_t channels, float* const* to) {
  if (channels >= 4) {
    positions_from_rows<true>(from, stride, channels, to);
  } else {
    positions_from_rows<false>(from, stride, channels, to);
  }
}
#endif

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
