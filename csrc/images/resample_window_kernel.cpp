// Makes one row of the output: two rows of the image are blended into one, whose pixels are then blended with their
// neighbours. This file is built once for each instruction set. It computes in whole numbers, rounded once, so that
// each set gives the same bytes.
#include "core/simd.h"
#include "images/resample_window.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {
namespace {

constexpr int sum_bits = 2 * weight_bits;
constexpr int half = 1 << (sum_bits - 1);

void blend_rows(const uint8_t* __restrict upper, const uint8_t* __restrict lower, uint16_t past,
                uint16_t* __restrict blend, int64_t count) {
  const uint16_t rest = (1 << weight_bits) - past;
  for (int64_t i = 0; i < count; ++i) blend[i] = upper[i] * rest + lower[i] * past;
}

#if MDN_VECTOR_BYTES >= 32
// The weighted sums of the left and the right pixel of two columns. Each column has 32-bit sums of four channels, of
// which the last is not used.
MDN_INLINE __m256i sums_of(const uint16_t* blend, const ResampleColumn& one, const ResampleColumn& other) {
  const auto pixels_at = [&](const ResampleColumn& column) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(blend + column.offset));
  };
  const auto weights_of = [](const ResampleColumn& column) {
    int32_t both;
    __builtin_memcpy(&both, &column.left, sizeof both);
    return _mm_set1_epi32(both);
  };
  const __m256i beside =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1));
  const __m256i pixels = _mm256_shuffle_epi8(_mm256_set_m128i(pixels_at(other), pixels_at(one)), beside);
  const __m256i sums = _mm256_madd_epi16(pixels, _mm256_set_m128i(weights_of(other), weights_of(one)));
  return _mm256_srli_epi32(_mm256_add_epi32(sums, _mm256_set1_epi32(half)), sum_bits);
}

// Writes four pixels, and two bytes beyond them.
MDN_INLINE void blend_four(const uint16_t* blend, const ResampleColumn* columns, uint8_t* to) {
  const __m256i words =
      _mm256_packus_epi32(sums_of(blend, columns[0], columns[2]), sums_of(blend, columns[1], columns[3]));
  const __m256i bytes = _mm256_packus_epi16(words, words);
  const __m256i close =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 4, 5, 6, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
  const __m256i pixels = _mm256_shuffle_epi8(bytes, close);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(pixels));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to + 6), _mm256_extracti128_si256(pixels, 1));
}
#endif

void blend_columns(const uint16_t* blend, const ResampleColumn* columns, uint8_t* to, int64_t count) {
  int64_t i = 0;
#if MDN_VECTOR_BYTES >= 32
  for (; i + 5 <= count; i += 4) blend_four(blend, columns + i, to + 3 * i);
#endif
  for (; i < count; ++i) {
    const ResampleColumn column = columns[i];
    const uint16_t* pixels = blend + column.offset;
    for (int c = 0; c < 3; ++c) {
      to[3 * i + c] = (pixels[c] * column.left + pixels[3 + c] * column.right + half) >> sum_bits;
    }
  }
}

}  // namespace

const ResampleWindowKernel resample_window_kernel = {blend_rows, blend_columns};

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
