// Moves a block of positions from tensors of any strides and dtype into rows of float or double, one row a channel, and
// back.
#pragma once

#include "core/cpu/transpose.h"
#include "core/simd.h"
#include "core/view.h"

namespace mdn {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

constexpr int most_positions = 4096;  // in a block

// At most one block of (batch, point) pairs.
struct Positions {
  int64_t first_batch, first_point;
  int count;
  bool one_batch;
  const int64_t* batch;   // [count]
  const int64_t* point;   // [count], in the tensor itself
  const int64_t* chosen;  // [count], the index's value, -1 for padding; null without an index
  // [count], where each position has the channels of one component alone, that component, -1 for none; else null
  const int64_t* component = nullptr;
};

namespace MDN_SIMD_LEVEL {

// Rows of numbers, of which row r starts at data + r * stride.
template <class T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;
  MDN_INLINE T* operator[](int64_t row) const { return data + row * stride; }
};

MDN_INLINE float from_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

MDN_INLINE uint32_t to_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

MDN_INLINE void convert(double from, double& to) { to = from; }
MDN_INLINE void convert(float from, float& to) { to = from; }
MDN_INLINE void convert(uint8_t from, float& to) { to = from != 0 ? 1.0f : 0.0f; }
MDN_INLINE void convert(uint8_t from, double& to) { to = from != 0 ? 1.0 : 0.0; }
MDN_INLINE void convert(BFloat16 from, float& to) { to = from_bits(uint32_t(from.bits) << 16); }

MDN_INLINE void convert(float from, BFloat16& to) {
  const uint32_t bits = to_bits(from);
  const uint32_t nearest_even = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to.bits = uint16_t(from == from ? nearest_even : 0x7fc0);
}

MDN_INLINE void convert(Float16 from, float& to) {
  const uint32_t magnitude = (from.bits & 0x7fffu) << 13;
  // A multiplication by 2^112 moves the exponent's bias and makes subnormals normal.
  const uint32_t finite = to_bits(from_bits(magnitude) * from_bits((127 + 112) << 23));
  const uint32_t special = magnitude | 0x7f800000u;
  to = from_bits(((from.bits & 0x8000u) << 16) | (magnitude >= 0x0f800000u ? special : finite));
}

MDN_INLINE void convert(float from, Float16& to) {
  const uint32_t sign = (to_bits(from) >> 16) & 0x8000u;
  const uint32_t bits = to_bits(from) & 0x7fffffffu;
  // Below 2^-14: adding 0.5 shifts the mantissa to where a half's subnormals lie, rounding to nearest even.
  const uint32_t subnormal = to_bits(from_bits(bits) + 0.5f) - to_bits(0.5f);
  const uint32_t normal = (bits - (112u << 23) + 0xfff + ((bits >> 13) & 1)) >> 13;
  const uint32_t special = bits > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t half = bits >= 0x477ff000u ? special : (bits < 0x38800000u ? subnormal : normal);
  to.bits = uint16_t(sign | half);
}

template <class T>
struct StorageOf {
  static constexpr DType dtype = sizeof(T) == 4 ? DType::float32 : DType::float64;
};

// Whether the points of this block lie one point's stride apart in `view`.
MDN_INLINE bool in_order(const View& view, const Positions& positions) {
  return positions.one_batch && !view.gathered && !positions.component;
}

// Whether they lie side by side.
MDN_INLINE bool side_by_side(const View& view, const Positions& positions) {
  return view.point_stride == 1 && in_order(view, positions);
}

MDN_INLINE int64_t origin(const View& view, const Positions& positions) {
  return positions.first_batch * view.batch_stride + positions.first_point * view.point_stride;
}

// Where the first of the `channels` of the block's i-th position lies. Padding lies at the image's first point and has
// the first component, which are read but not used.
MDN_INLINE int64_t offset_of(const View& view, const Positions& positions, int64_t channels, int i) {
  const int64_t point = view.gathered ? positions.chosen[i] : positions.point[i];
  const int64_t component = positions.component ? positions.component[i] : 0;
  return positions.batch[i] * view.batch_stride + (point < 0 ? 0 : point) * view.point_stride +
         (component < 0 ? 0 : component) * channels * view.channel_stride;
}

// Points of a non-contiguous block are moved in tiles this long, so that a line fetched for one channel still lies in
// the first-level cache when the next channel, its neighbour in a channels_last map, is wanted.
constexpr int tile_points = 16;
// The most channels of a tile that is put together before it is written.
constexpr int most_staged = 128;

// Converts a row. `from` and `to` do not overlap: bytes may alias anything, and would keep this loop from becoming
// vectors.
template <class T, class Storage>
MDN_INLINE void convert_row(const Storage* __restrict from, T* __restrict to, int count) {
  for (int i = 0; i < count; ++i) convert(from[i], to[i]);
}

// Asks memory for the positions that lie a block behind these tile_points: the block that follows will want them.
template <class Storage>
MDN_INLINE void ask_for_block_ahead(const Storage* first, int64_t point_stride, int64_t channels, int count) {
  const int64_t line = 64 / int64_t(sizeof(Storage));
  const Storage* ahead = first + count * point_stride;
  const bool apart = point_stride > 2 * channels;
  const int64_t runs = apart ? tile_points : 1, length = apart ? channels : tile_points * point_stride;
  for (int64_t run = 0; run < runs; ++run, ahead += point_stride) {
    for (int64_t at = 0; at < length; at += line) __builtin_prefetch(ahead + at);
  }
}

// Whether the positions lie one behind the other, without a gap between their channels.
MDN_INLINE bool is_dense(const View& view, const Positions& positions, int64_t channels) {
  return in_order(view, positions) && view.channel_stride == 1 && view.point_stride == channels;
}

// Reads as many of the block's first positions as can be moved as vectors of such memory; returns how many.
template <class T, class Storage>
int read_dense(const View& view, const Positions& positions, const Storage* data, int64_t channels, Rows<T> to) {
  if constexpr (transposes<T, Storage>) {
    const int count = positions.count / tile_points * tile_points;
    const Storage* from = data + origin(view, positions);
    if (is_dense(view, positions, channels) && read_dense_positions(from, channels, count, to[0], to.stride)) {
      for (int64_t at = 0; at < count * channels; at += 16) __builtin_prefetch(from + count * channels + at);
      return count;
    }
  }
  return 0;
}

// The same of writing.
template <class T, class Storage>
int write_dense(const View& view, const Positions& positions, Storage* data, int64_t channels, Rows<T> from) {
  if constexpr (transposes<T, Storage>) {
    const int count = positions.count / tile_points * tile_points;
    if (is_dense(view, positions, channels) &&
        write_dense_positions(from[0], from.stride, channels, count, data + origin(view, positions))) {
      return count;
    }
  }
  return 0;
}

template <class T, class Storage>
void read_rows(const View& view, const Positions& positions, int64_t channels, Rows<T> to, int padded) {
  const Storage* data = static_cast<const Storage*>(view.data);
  if (side_by_side(view, positions)) {
    data += origin(view, positions);
    for (int64_t c = 0; c < channels; ++c) {
      convert_row(data + c * view.channel_stride, to[c], positions.count);
    }
  } else if (view.channel_stride == 1) {
    for (int begin = read_dense(view, positions, data, channels, to); begin < positions.count; begin += tile_points) {
      const int count = positions.count - begin < tile_points ? positions.count - begin : tile_points;
      const Storage* from[tile_points];
      if (in_order(view, positions)) {
        const Storage* first = data + origin(view, positions) + begin * view.point_stride;
        for (int i = 0; i < count; ++i) from[i] = first + i * view.point_stride;
      } else {
        for (int i = 0; i < count; ++i) from[i] = data + offset_of(view, positions, channels, begin + i);
      }
      if constexpr (transposes<T, Storage>) {
        if (count == tile_points) {
          for (int i = 0; i < tile_points; i += lanes<T>)
            read_positions(from + i, channels, to[0] + begin + i, to.stride);
          if (in_order(view, positions)) {
            ask_for_block_ahead(from[0], view.point_stride, channels, positions.count);
          }
          continue;
        }
      }
      for (int64_t c = 0; c < channels; ++c) {
        T* row = to[c] + begin;
        for (int i = 0; i < count; ++i) convert(from[i][c], row[i]);
      }
    }
  } else {
    int64_t offset[most_positions];
    for (int i = 0; i < positions.count; ++i) offset[i] = offset_of(view, positions, channels, i);
    // Points of an index lie anywhere, each on a line of its own. The lines of a later channel are asked for meanwhile.
    const int64_t ahead = view.gathered ? (1 + 128 / (positions.count + 1)) * view.channel_stride : 0;
    for (int64_t c = 0; c < channels; ++c) {
      const Storage* channel = data + c * view.channel_stride;
      T* row = to[c];
      if (ahead != 0) {
        for (int i = 0; i < positions.count; ++i) __builtin_prefetch(channel + offset[i] + ahead);
      }
      for (int i = 0; i < positions.count; ++i) convert(channel[offset[i]], row[i]);
    }
  }
  for (int64_t c = 0; c < channels; ++c) {
    for (int i = positions.count; i < padded; ++i) to[c][i] = 0;
  }
}

// The block's rows of `view`. They are in place where they lie side by side in the arithmetic type and fill whole
// vectors. Otherwise they are copied into `scratch`.
template <class T>
Rows<const T> rows_of(const View& view, const Positions& positions, int64_t channels, Rows<T> scratch) {
  const int padded = (positions.count + lanes<T> - 1) / lanes<T> * lanes<T>;
  if (view.dtype == StorageOf<T>::dtype && side_by_side(view, positions) && padded == positions.count) {
    return {static_cast<const T*>(view.data) + origin(view, positions), view.channel_stride};
  }
  switch (view.dtype) {
    case DType::boolean:
      read_rows<T, uint8_t>(view, positions, channels, scratch, padded);
      break;
    case DType::bfloat16:
      if constexpr (sizeof(T) == 4) read_rows<T, BFloat16>(view, positions, channels, scratch, padded);
      break;
    case DType::float16:
      if constexpr (sizeof(T) == 4) read_rows<T, Float16>(view, positions, channels, scratch, padded);
      break;
    default:
      read_rows<T, T>(view, positions, channels, scratch, padded);
  }
  return {scratch.data, scratch.stride};
}

// Where the block's rows of an output are computed: in place under the conditions of rows_of, else in `scratch`.
// write_rows moves them from there.
template <class T>
Rows<T> output_rows(const View& view, const Positions& positions, Rows<T> scratch) {
  const bool whole = positions.count % lanes<T> == 0;
  if (view.dtype == StorageOf<T>::dtype && side_by_side(view, positions) && whole) {
    return {static_cast<T*>(view.data) + origin(view, positions), view.channel_stride};
  }
  return scratch;
}

template <class T, class Storage>
void write_rows_as(const View& view, const Positions& positions, int64_t channels, Rows<T> from) {
  Storage* data = static_cast<Storage*>(view.data);
  for (int begin = write_dense(view, positions, data, channels, from); begin < positions.count; begin += tile_points) {
    const int count = positions.count - begin < tile_points ? positions.count - begin : tile_points;
    if constexpr (transposes<T, Storage>) {
      if (view.channel_stride == 1 && count == tile_points) {
        Storage* to[tile_points];
        if (in_order(view, positions)) {
          Storage* first = data + origin(view, positions) + begin * view.point_stride;
          for (int i = 0; i < tile_points; ++i) to[i] = first + i * view.point_stride;
        } else {
          for (int i = 0; i < tile_points; ++i) to[i] = data + offset_of(view, positions, channels, begin + i);
        }
        // Positions that follow one another without a gap fill whole lines, which go past the caches.
        Storage* const out = to[0];
        const bool streamed = in_order(view, positions) && to[1] - out == channels && channels <= most_staged &&
                              to[tile_points - 1] - out == (tile_points - 1) * channels && aligned(out);
        alignas(64) Storage staged[tile_points * most_staged];
        if (streamed) {
          for (int i = 0; i < tile_points; ++i) to[i] = staged + i * channels;
        }
        for (int i = 0; i < tile_points; i += lanes<T>) {
          write_positions(from[0] + begin + i, from.stride, channels, to + i);
        }
        if (streamed) {
          for (int64_t at = 0; at < tile_points * channels; at += lanes<T>)
            store_past_cache(out + at, load(staged + at));
        }
        continue;
      }
    }
    for (int64_t c = 0; c < channels; ++c) {
      const T* row = from[c] + begin;
      for (int i = 0; i < count; ++i) {
        convert(row[i], data[offset_of(view, positions, channels, begin + i) + c * view.channel_stride]);
      }
    }
  }
}

template <class T>
void write_rows(const View& view, const Positions& positions, int64_t channels, Rows<T> from, Rows<T> scratch) {
  if (from.data != scratch.data) return;  // computed in place
  if constexpr (sizeof(T) == 4) {
    if (view.dtype == DType::bfloat16) return write_rows_as<T, BFloat16>(view, positions, channels, from);
    if (view.dtype == DType::float16) return write_rows_as<T, Float16>(view, positions, channels, from);
  }
  write_rows_as<T, T>(view, positions, channels, from);
}

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
