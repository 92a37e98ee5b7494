// Rows of channels of as many positions as a vector has lanes, turned into a vector for each channel, and back: the way
// of channels_last maps and of (N, K) rows. Four channels at a time: a position's four are one load of 16 bytes, and
// eight shuffles within the 16-byte lanes serve them all, at two or three instructions a vector. Where a vector may be
// put together from any lanes of two others (AVX-512), rows of up to eight channels without a gap need no loads of 16
// bytes: 16 positions of K channels are K vectors, in one order and in the other.
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

#if MDN_VECTOR_BYTES == 64
// Where the lanes of K vectors come from when 16 positions of K channels change between both orders. Lane i of the
// vector of channel c is number K i + c in memory; the number j of memory's vector v is position (16 v + j) / K of
// channel (16 v + j) % K. Vectors are taken in pairs of 32 lanes; the last of an odd K is alone.
template <int K>
struct LanesOfRows {
  static constexpr int pairs = (K + 1) / 2;
  alignas(64) int32_t in_memory[K][16] = {}, in_channels[K][16] = {};
  uint16_t pair_in_memory[K][pairs] = {}, pair_in_channels[K][pairs] = {};  // which lanes come from a pair
  constexpr LanesOfRows() {
    for (int v = 0; v < K; ++v) {
      for (int j = 0; j < 16; ++j) {
        const int at = K * j + v, channel = (16 * v + j) % K;
        in_memory[v][j] = at % 32;
        pair_in_memory[v][at / 32] |= uint16_t(1 << j);
        in_channels[v][j] = channel % 2 * 16 + (16 * v + j) / K;
        pair_in_channels[v][channel / 2] |= uint16_t(1 << j);
      }
    }
  }
};
template <int K>
constexpr LanesOfRows<K> lanes_of_rows;

// A vector of lanes of K others.
template <int K>
MDN_INLINE Vector<float> choose_lanes(const Vector<float> (&from)[K], const int32_t (&lanes)[16],
                                      const uint16_t (&of_pair)[LanesOfRows<K>::pairs]) {
  const uint16_t all = 0xffff;
  const __m512i at = _mm512_load_si512(lanes);
  Vector<float> chosen = _mm512_maskz_permutex2var_ps(all, from[0], at, from[1]);
  for (int pair = 1; 2 * pair + 1 < K; ++pair) {
    const Vector<float> other = _mm512_maskz_permutex2var_ps(all, from[2 * pair], at, from[2 * pair + 1]);
    chosen = _mm512_mask_mov_ps(chosen, of_pair[pair], other);
  }
  return K % 2 == 0 ? chosen : _mm512_mask_permutexvar_ps(chosen, of_pair[K / 2], at, from[K - 1]);
}

// visit(ChannelCount<K>{}) where choose_lanes takes fewer instructions than four channels at a time; false for others.
template <int K>
struct ChannelCount {
  static constexpr int value = K;
};
template <class Visit>
MDN_INLINE bool with_few_channels(int64_t channels, Visit visit) {
  switch (channels) {
    case 2:
      return visit(ChannelCount<2>{}), true;
    case 3:
      return visit(ChannelCount<3>{}), true;
    case 4:
      return visit(ChannelCount<4>{}), true;
    case 5:
      return visit(ChannelCount<5>{}), true;
    case 6:
      return visit(ChannelCount<6>{}), true;
    case 8:
      return visit(ChannelCount<8>{}), true;
    default:
      return false;
  }
}

// to[c][i] = from[channels i + c] for `count` positions i, a multiple of lanes<float>. False where there are too many
// channels.
MDN_INLINE bool read_dense_positions(const float* from, int64_t channels, int count, float* to, int64_t stride) {
  return with_few_channels(channels, [&](auto number) {
    constexpr int K = decltype(number)::value;
    for (int i = 0; i < count; i += 16) {
      Vector<float> in_memory[K];
      for (int v = 0; v < K; ++v) in_memory[v] = load(from + K * i + 16 * v);
      for (int c = 0; c < K; ++c) {
        store(to + c * stride + i,
              choose_lanes<K>(in_memory, lanes_of_rows<K>.in_memory[c], lanes_of_rows<K>.pair_in_memory[c]));
      }
    }
  });
}

// to[channels i + c] = from[c][i], past the caches where `to` is aligned.
MDN_INLINE bool write_dense_positions(const float* from, int64_t stride, int64_t channels, int count, float* to) {
  return with_few_channels(channels, [&](auto number) {
    constexpr int K = decltype(number)::value;
    const bool streamed = aligned(to);
    for (int i = 0; i < count; i += 16) {
      Vector<float> of_channel[K];
      for (int c = 0; c < K; ++c) of_channel[c] = load(from + c * stride + i);
      for (int v = 0; v < K; ++v) {
        const Vector<float> numbers =
            choose_lanes<K>(of_channel, lanes_of_rows<K>.in_channels[v], lanes_of_rows<K>.pair_in_channels[v]);
        if (streamed) {
          store_past_cache(to + K * i + 16 * v, numbers);
        } else {
          store(to + K * i + 16 * v, numbers);
        }
      }
    }
  });
}
#else
MDN_INLINE bool read_dense_positions(const float*, int64_t, int, float*, int64_t) { return false; }
MDN_INLINE bool write_dense_positions(const float*, int64_t, int64_t, int, float*) { return false; }
#endif

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
