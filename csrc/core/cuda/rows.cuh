// The rows of a tile: numbers that all threads of a block see, one row for each channel. They lie in shared memory, or
// in a workspace in device memory where a tile has too many of them.
#pragma once

#include "core/cuda/tiles.cuh"

namespace mdn {

constexpr int64_t up_to(int64_t multiple, int64_t value) { return (value + multiple - 1) / multiple * multiple; }

MDN_ON_BOTH int words_of(int positions) { return (positions + 31) / 32; }

// How a (batch, points) range is cut into tiles.
struct Tiling {
  int positions = 0;   // of a tile, a power of two
  bool shared = true;  // whether its rows fit into shared memory
  Divisor by_image;    // the tiles of an image
  int64_t count = 0;
  int blocks = 0;  // of a launch, each with one tile: all tiles, or as many as have room in the workspace
  int first = 0;   // the first tile of a launch
};

// Kernels number tiles in ints; the ops refuse more.
constexpr int64_t most_tiles = INT32_MAX;

// The tiling whose tiles have as many positions as leave a multiprocessor room for several blocks. A tile takes
// `bytes_of(positions)` of shared memory. The elements of `least` positions fill a sector.
template <class BytesOf>
Tiling tiling_of(int64_t batch, int64_t points, int least, BytesOf bytes_of) {
  constexpr int64_t several = 24 << 10, some = 48 << 10, most = 96 << 10;  // the last is what every GPU since sm_80 has
  constexpr int64_t enough = 264;                                          // blocks, to keep all multiprocessors busy
  Tiling tiling;
  tiling.positions = 256;
  while (tiling.positions > 32 && bytes_of(tiling.positions) > several) tiling.positions /= 2;
  while (tiling.positions > 8 && bytes_of(tiling.positions) > some) tiling.positions /= 2;
  tiling.shared = bytes_of(tiling.positions) <= most;
  if (!tiling.shared) tiling.positions = 32;
  const auto in_image = [&] { return (points + tiling.positions - 1) / tiling.positions; };
  while (tiling.positions > least && (batch * in_image() < enough || tiling.positions / 2 >= points)) {
    tiling.positions /= 2;
  }
  tiling.count = batch * in_image();
  if (tiling.count > 0 && tiling.count <= most_tiles) tiling.by_image = Divisor(static_cast<int>(in_image()));
  const int64_t most_blocks = tiling.shared ? most_tiles : enough;
  tiling.blocks = static_cast<int>(tiling.count < most_blocks ? tiling.count : most_blocks);
  return tiling;
}

// Calls launch(blocks) with the tiling's `first` set, until all tiles of a plan have been launched.
template <class Launch>
void for_each_launch(Tiling& tiling, Launch launch) {
  for (int64_t first = 0; first < tiling.count; first += tiling.blocks) {
    const int64_t left = tiling.count - first;
    tiling.first = static_cast<int>(first);
    launch(left < tiling.blocks ? static_cast<int>(left) : tiling.blocks);
  }
}

// The numbers from a row to the next. Where threads take a tile's elements along the channels, rows begin in different
// banks.
inline int stride_of(const TileView& view, int positions) { return along_channels(view) ? positions + 1 : positions; }

// How many positions fill a sector.
inline int sector_positions(DType dtype) { return element_bytes(dtype) == 2 ? 16 : 8; }

namespace device {

// The one tile of this block. Were a block to go from one tile to the next, whatever does not depend on the tile would
// stay in registers for it.
MDN_ON_DEVICE int own_tile(const Tiling& tiling) { return tiling.first + static_cast<int>(blockIdx.x); }

MDN_ON_DEVICE Tile tile_of(const Tiling& tiling, int64_t points, int number) {
  const int batch = quotient(number, tiling.by_image);
  const int64_t first = int64_t(number - batch * static_cast<int>(tiling.by_image.divisor)) * tiling.positions;
  const int64_t left = points - first;
  return {batch, first, tiling.positions, static_cast<int>(left < tiling.positions ? left : tiling.positions)};
}

// Calls visit(row, position) for `rows` rows of the tile, shared among the threads.
template <class Visit>
MDN_ON_DEVICE void for_each_position(const Tile& tile, int rows, Visit visit) {
  const Column column = column_of<1>(tile);
  for (int row = column.first; row < rows; row += column.step) visit(row, column.position);
}

// Numbers that a block's threads share, in shared memory or in a workspace.
template <class T, bool shared>
class Cells;

template <class T>
class Cells<T, true> {
 public:
  MDN_ON_DEVICE Cells(unsigned char*, int first, int count) : cells_(dynamic_shared<T>(first, count)) {}
  MDN_ON_DEVICE T get(int i) const { return cells_[i]; }
  MDN_ON_DEVICE void set(int i, T value) const { cells_[i] = value; }
  MDN_ON_DEVICE void set_bits(int i, T bits) const { atomicOr(&cells_[i], bits); }

 private:
  DynamicSharedArray<T> cells_;
};

template <class T>
class Cells<T, false> {
 public:
  MDN_ON_DEVICE Cells(unsigned char* memory, int first, int) : cells_(reinterpret_cast<T*>(memory + first)) {}
  MDN_ON_DEVICE T get(int i) const { return load_global_written(cells_ + i); }
  MDN_ON_DEVICE void set(int i, T value) const { store_global(cells_ + i, value); }
  MDN_ON_DEVICE void set_bits(int i, T bits) const { atomicOr(cells_ + i, bits); }

 private:
  T* cells_;
};

template <class T, bool shared>
class TileRows {
 public:
  // Makes `rows` rows from byte `first` on, each `stride` numbers after the one before.
  MDN_ON_DEVICE TileRows(unsigned char* memory, int first, int rows, int stride)
      : stride_(stride), cells_(memory, first, rows * stride), packs_(memory, first, rows * stride / width) {}

  MDN_ON_DEVICE T get(int row, int position) const { return cells_.get(row * stride_ + position); }
  MDN_ON_DEVICE void set(int row, int position, T value) const { cells_.set(row * stride_ + position, value); }

  // get and set of the N positions that a thread moves at a time, from a multiple of N on. N may be more than 1 where
  // rows follow one another without a gap.
  template <int N>
  MDN_ON_DEVICE Values<T, N> get(int row, int position) const {
    Values<T, N> values;
    if constexpr (N == 1) {
      values[0] = get(row, position);
    } else {
      const int at = pack_of(row, position);
#pragma unroll
      for (int k = 0; k < N / width; ++k) {
        const Pack<T, width> pack = packs_.get(at + k);
#pragma unroll
        for (int j = 0; j < width; ++j) values[k * width + j] = pack[j];
      }
    }
    return values;
  }

  template <int N>
  MDN_ON_DEVICE void set(int row, int position, const Values<T, N>& values) const {
    if constexpr (N == 1) {
      set(row, position, values[0]);
    } else {
      const int at = pack_of(row, position);
#pragma unroll
      for (int k = 0; k < N / width; ++k) {
        Pack<T, width> pack;
#pragma unroll
        for (int j = 0; j < width; ++j) pack[j] = values[k * width + j];
        packs_.set(at + k, pack);
      }
    }
  }

 private:
  static constexpr int width = pack_width<T>;
  MDN_ON_DEVICE int pack_of(int row, int position) const {
    return row * static_cast<int>(static_cast<unsigned>(stride_) / width) +
           static_cast<int>(static_cast<unsigned>(position) / width);
  }
  const int stride_;
  const Cells<T, shared> cells_;
  const Cells<Pack<T, width>, shared> packs_;  // the same memory
};

}  // namespace device
}  // namespace mdn
