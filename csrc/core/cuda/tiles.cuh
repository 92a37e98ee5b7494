// Tiles of positions: a block of threads moves the (channel, position) elements of one tile between tensors of any
// strides and rows of float or double that all its threads see.
//
// Neighbouring threads take elements that are neighbours in memory: along the positions of a planar tensor, and along
// the channels of a channels_last one. Each takes 16 bytes where these lie side by side and aligned. So each 32-byte
// sector is moved once in either layout, and the rows transpose.
#pragma once

#include "core/cuda/device.cuh"
#include "core/view.h"

namespace mdn {

// The order in which the threads take a tile's elements.
enum class Walk {
  points,           // one each, along the positions
  points_packed,    // 16 bytes each, of one channel
  channels,         // one each, along the channels of a position
  channels_packed,  // 16 bytes each, along channels and positions that follow one another without a gap
};

inline Walk walk_of(const View& view, int64_t batch) {
  const int64_t width = 16 / element_bytes(view.dtype);
  const bool along_channels = view.channels > 1 && view.point_stride != 1 &&
                              (view.channel_stride == 1 || view.channel_stride < view.point_stride);
  const bool aligned = !view.gathered && view.dtype != DType::boolean &&
                       reinterpret_cast<uintptr_t>(view.data) % 16 == 0 &&
                       (batch == 1 || view.batch_stride % width == 0);
  if (along_channels) {
    const bool dense = view.channel_stride == 1 && view.point_stride == view.channels;
    return aligned && dense ? Walk::channels_packed : Walk::channels;
  }
  const bool side_by_side = view.point_stride == 1 && (view.channels == 1 || view.channel_stride % width == 0);
  return aligned && side_by_side ? Walk::points_packed : Walk::points;
}

// A view that tiles are cut from.
struct TileView : View {
  Walk walk = Walk::points;
  TileView() = default;
  TileView(const View& view, int64_t batch) : View(view), walk(walk_of(view, batch)) {}
};

MDN_ON_BOTH bool along_channels(const TileView& view) {
  return view.walk == Walk::channels || view.walk == Walk::channels_packed;
}

// Takes away the packs of positions beside a tensor that is walked along its channels. The rows then have a gap, which
// no 16 bytes of positions may reach over.
template <class... Views>
void respect_gaps(const TileView& beside, Views&... views) {
  if (!along_channels(beside)) return;
  for (TileView* view : {&views...}) {
    if (view->walk == Walk::points_packed) view->walk = Walk::points;
  }
}

// The threads of every block that works on tiles, and the most positions of a tile.
constexpr int tile_threads = 256;

// A divisor that a launch knows, for dividends below 2^31; it divides by a multiplication (Granlund and Montgomery,
// 1994). 2^shift is the least power of two that is not below the divisor, so that magic = ceil(2^(31 + shift) /
// divisor) has 32 bits.
struct Divisor {
  uint32_t divisor = 1, magic = uint32_t(1) << 31, shift = 0;
  Divisor() = default;
  explicit Divisor(int d) : divisor(static_cast<uint32_t>(d)) {
    while ((uint64_t(1) << shift) < divisor) ++shift;
    magic = static_cast<uint32_t>(((uint64_t(1) << (31 + shift)) + divisor - 1) / divisor);
  }
};

namespace device {

MDN_ON_DEVICE int quotient(int n, const Divisor& by) {
  return static_cast<int>(__umulhi(2 * static_cast<uint32_t>(n), by.magic) >> by.shift);
}

MDN_ON_DEVICE float to_number(float value) { return value; }
MDN_ON_DEVICE double to_number(double value) { return value; }
MDN_ON_DEVICE float to_number(__half value) { return __half2float(value); }
MDN_ON_DEVICE float to_number(__nv_bfloat16 value) { return __bfloat162float(value); }
MDN_ON_DEVICE bool to_number(unsigned char value) { return value != 0; }

MDN_ON_DEVICE void to_element(float value, float& element) { element = value; }
MDN_ON_DEVICE void to_element(double value, double& element) { element = value; }
MDN_ON_DEVICE void to_element(float value, __half& element) { element = __float2half_rn(value); }
MDN_ON_DEVICE void to_element(float value, __nv_bfloat16& element) { element = __float2bfloat16_rn(value); }

// The type that elements are computed in.
template <class Element>
struct ArithmeticOf {
  using Type = float;
};
template <>
struct ArithmeticOf<double> {
  using Type = double;
};

// A number as a type.
template <int N>
struct Count {
  static constexpr int value = N;
};

template <class T, int N>
struct Values {
  T elements[N];
  MDN_ON_DEVICE T& operator[](int i) { return elements[i]; }
  MDN_ON_DEVICE const T& operator[](int i) const { return elements[i]; }
};

// A tile of one image: `positions` positions, a power of two, of which `count` exist.
struct Tile {
  int64_t batch, first;
  int positions, count;
};

MDN_ON_DEVICE int64_t offset_of(const View& view, const Tile& tile, int channel, int position) {
  return tile.batch * view.batch_stride + (tile.first + position) * view.point_stride + channel * view.channel_stride;
}

// The way of a thread through the rows of a tile: at one position, or at `width` positions from there on, along every
// `step`-th row. What depends on the position alone is then found once.
struct Column {
  int first, position, step;
};

template <int width>
MDN_ON_DEVICE Column column_of(const Tile& tile) {
  const int shift = __ffs(tile.positions) - 1, at = static_cast<int>(threadIdx.x) * width;
  return {at >> shift, at & (tile.positions - 1), (tile_threads * width) >> shift};
}

// A set of the positions of a tile.
template <class Words>
struct PositionSet {
  Words words;  // one bit a position
  // The bits of the `count` positions from `position` on, a multiple of `count`. `count` is at most 32.
  MDN_ON_DEVICE uint32_t among(int position, int count) const {
    const uint32_t word = words[position >> 5];
    return word >> (position & 31) & (0xffffffffu >> (32 - count));
  }
  MDN_ON_DEVICE bool has(int position) const { return among(position, 1) != 0; }
};

// The n-th position of a tile as a point of a tensor that has all of them.
struct OwnPoints {
  int64_t first;
  MDN_ON_DEVICE int64_t operator()(int position) const { return first + position; }
};

// Gives each of the tile's `channels` x `positions` elements to one thread, by calls of use(Count<N>, channel,
// position, values) for the N positions from `position` on. Elements whose position is not in `wanted` may come as
// zeros, and a piece of memory that nobody wants is not read. `wanted` holds no position beyond the tile's count.
// `point_of(position)` is the point of `view` to read there.
template <class Element, class Wanted, class Points, class Use>
MDN_ON_DEVICE void read_tile(const TileView& view, const Tile& tile, const Divisor& channels, const Wanted& wanted,
                             Points point_of, Use use) {
  using T = decltype(to_number(Element{}));
  constexpr int width = pack_width<Element>;
  const Element* data = static_cast<const Element*>(view.data) + tile.batch * view.batch_stride;
  const int lines = static_cast<int>(channels.divisor), total = lines * tile.positions;
  const auto address = [&](int channel, int position) {
    return data + point_of(position) * view.point_stride + channel * view.channel_stride;
  };
  const auto read_one = [&](int channel, int position) {
    return wanted.has(position) ? to_number(load_global(address(channel, position))) : T(0);
  };
  if (view.walk == Walk::points_packed) {
    const Column column = column_of<width>(tile);
    const int position = column.position;
    const uint32_t here = wanted.among(position, width);
    const bool whole = here != 0 && position + width <= tile.count;
    const Element* from = data + tile.first + position + column.first * view.channel_stride;
    for (int channel = column.first; channel < lines; channel += column.step) {
      Values<T, width> values;
      if (whole) {
        const Pack<Element, width> pack = load_global(reinterpret_cast<const Pack<Element, width>*>(from));
#pragma unroll
        for (int j = 0; j < width; ++j) values[j] = to_number(pack[j]);
      } else {
#pragma unroll
        for (int j = 0; j < width; ++j) values[j] = (here >> j & 1) != 0 ? to_number(load_global(from + j)) : T(0);
      }
      use(Count<width>{}, channel, position, values);
      from += column.step * view.channel_stride;
    }
  } else if (view.walk == Walk::channels_packed) {
    const Element* first = data + tile.first * view.point_stride;
    for (int at = threadIdx.x * width; at < total; at += tile_threads * width) {
      int position = quotient(at, channels), channel = at - position * lines;
      const int last = quotient(at + width - 1, channels);
      bool any = false;
      for (int p = position; p <= last; ++p) any |= wanted.has(p);
      const bool whole = any && at + width <= tile.count * lines;
      Pack<Element, width> pack = {};
      if (whole) pack = load_global(reinterpret_cast<const Pack<Element, width>*>(first + at));
#pragma unroll
      for (int j = 0; j < width; ++j) {
        use(Count<1>{}, channel, position,
            Values<T, 1>{{whole ? to_number(pack[j])
                          : any ? read_one(channel, position)
                                : T(0)}});
        if (++channel == lines) channel = 0, ++position;
      }
    }
  } else if (view.walk == Walk::channels) {
    for (int at = threadIdx.x; at < total; at += tile_threads) {
      const int position = quotient(at, channels), channel = at - position * lines;
      use(Count<1>{}, channel, position, Values<T, 1>{{read_one(channel, position)}});
    }
  } else {
    const Column column = column_of<1>(tile);
    const int position = column.position;
    const bool here = wanted.has(position);
    const Element* from = here ? address(column.first, position) : data;
    for (int channel = column.first; channel < lines; channel += column.step) {
      use(Count<1>{}, channel, position, Values<T, 1>{{here ? to_number(load_global(from)) : T(0)}});
      from += column.step * view.channel_stride;
    }
  }
}

// The elements of which a thread may write 16 bytes at a time.
enum class Packs { none, points };

// Writes make(Count<N>, channel, position), the values of the N positions from `position` on, to every element of the
// tile. Where `packs` are of points, N may be more than 1, and the last positions may lie beyond the tile's count.
template <class Element, Packs packs, class Make>
MDN_ON_DEVICE void write_tile(const TileView& view, const Tile& tile, const Divisor& channels, Make make) {
  constexpr int width = pack_width<Element>;
  Element* data = static_cast<Element*>(view.data) + tile.batch * view.batch_stride + tile.first * view.point_stride;
  const int lines = static_cast<int>(channels.divisor), total = lines * tile.count;
  const auto element_at = [&](int channel, int position) {
    Element element;
    to_element(make(Count<1>{}, channel, position)[0], element);
    return element;
  };
  if (packs != Packs::none && view.walk == Walk::points_packed) {
    const Column column = column_of<width>(tile);
    const int position = column.position, left = tile.count - position;
    if (left <= 0) return;
    Element* to = data + position + column.first * view.channel_stride;
    for (int channel = column.first; channel < lines; channel += column.step) {
      const auto values = make(Count<width>{}, channel, position);
      Pack<Element, width> pack;
#pragma unroll
      for (int j = 0; j < width; ++j) to_element(values[j], pack[j]);
      if (width <= left) {
        store_global(reinterpret_cast<Pack<Element, width>*>(to), pack);
      } else {
#pragma unroll
        for (int j = 0; j < width; ++j) {
          if (j < left) store_global(to + j, pack[j]);
        }
      }
      to += column.step * view.channel_stride;
    }
  } else if (along_channels(view)) {
    for (int at = threadIdx.x; at < total; at += tile_threads) {
      const int position = quotient(at, channels), channel = at - position * lines;
      store_global(data + position * view.point_stride + channel * view.channel_stride, element_at(channel, position));
    }
  } else {
    const Column column = column_of<1>(tile);
    if (column.position >= tile.count) return;
    Element* to = data + column.position * view.point_stride + column.first * view.channel_stride;
    for (int channel = column.first; channel < lines; channel += column.step) {
      store_global(to, element_at(channel, column.position));
      to += column.step * view.channel_stride;
    }
  }
}

}  // namespace device
}  // namespace mdn
