// What of a tile was observed: its mask and its index as bits.
#pragma once

#include "rows.cuh"

namespace mdn {

struct Observed {
  TileView mask;         // (B, G, points); absent where all is observed: data is null
  const int64_t* index;  // (B, points), contiguous, or null; -1 is padding, where nothing is observed
  // The same as bits, a tile after the other, from the launch that counted what was observed to the one that computes:
  // an eighth of the mask. Null where nothing is counted.
  uint32_t* bits;
  int64_t points;
  Divisor by_groups, by_group_dims;  // G, or 1 without a mask, and the dimensions of a group
};

// Fills in what follows from the mask.
inline void plan_groups(Observed& call, int64_t points, int dims) {
  const int groups = call.mask.data != nullptr ? call.mask.channels : 1;
  call.points = points;
  call.by_groups = Divisor(groups);
  call.by_group_dims = Divisor(dims / groups);
}

// Words of a tile's bits.
inline int64_t bits_of(const Observed& call, int positions) {
  return int64_t(call.by_groups.divisor) * words_of(positions);
}

// Bytes of a tile's bits among the rows, and of the rest in shared memory.
inline int64_t seen_bytes(const Observed& call, int positions) { return up_to(16, bits_of(call, positions) * 4); }
inline int64_t chosen_bytes(int positions) { return up_to(16, positions * 8 + words_of(positions) * 4); }

namespace device {

// Which positions of a tile the index names and which of their dimensions were observed.
template <bool shared>
class Observation {
 public:
  // `seen` is where its words begin among the rows, `chosen` where the rest does in shared memory.
  MDN_ON_DEVICE Observation(const Observed& call, int positions, unsigned char* memory, int seen, int chosen)
      : call_(call),
        words_((positions + 31) / 32),
        groups_(static_cast<int>(call.by_groups.divisor)),
        seen_(memory, seen, groups_ * words_),
        chosen_(dynamic_shared<int64_t>(chosen, positions)),
        observed_(dynamic_shared<uint32_t>(chosen + positions * 8, words_)) {}

  // Reads index and mask of the tile of that number, or the bits that `keep` left. Returns whether anything in it is
  // observed.
  MDN_ON_DEVICE bool look(const Tile& tile, int64_t number, bool from_bits) {
    const int thread = threadIdx.x, threads = blockDim.x;
    if (call_.index != nullptr) {
      const int64_t* index = call_.index + tile.batch * call_.points + tile.first;
      for (int i = thread; i < tile.positions; i += threads) {
        chosen_[i] = i < tile.count ? load_global(index + i) : int64_t(-1);
      }
    }
    const bool along_channels = call_.mask.walk == Walk::channels && !from_bits;
    if (along_channels) {
      for (int i = thread; i < groups_ * words_; i += threads) seen_.set(i, 0);
    }
    __syncthreads();
    if (from_bits) {
      const uint32_t* bits = call_.bits + number * (groups_ * words_);
      for (int i = thread; i < groups_ * words_; i += threads) seen_.set(i, load_global(bits + i));
    } else if (along_channels) {
      look_along_channels(tile);
    } else {
      look_along_points(tile);
    }
    __syncthreads();
    bool any = false;
    for (int word = thread; word < words_; word += threads) {
      uint32_t bits = 0;
      for (int g = 0; g < groups_; ++g) bits |= seen_.get(g * words_ + word);
      observed_[word] = bits;
      any |= bits != 0;
    }
    return __syncthreads_or(any) != 0;
  }

  // Leaves the bits of the tile that was looked at for later launches.
  MDN_ON_DEVICE void keep(int64_t number) const {
    uint32_t* bits = call_.bits + number * (groups_ * words_);
    for (int i = threadIdx.x; i < groups_ * words_; i += static_cast<int>(blockDim.x)) {
      store_global(bits + i, seen_.get(i));
    }
  }

  // Whether dimension `dim` was observed at `position`: the lowest bit; at the positions that follow: those above.
  MDN_ON_DEVICE uint32_t seen(int dim, int position) const {
    return seen_.get(quotient(dim, call_.by_group_dims) * words_ + (position >> 5)) >> (position & 31);
  }

  MDN_ON_DEVICE PositionSet<DynamicSharedArray<uint32_t>> observed() const { return {observed_}; }

  // Where the index points for a position that is observed.
  MDN_ON_DEVICE int64_t chosen(int position) const { return chosen_[position]; }

 private:
  MDN_ON_DEVICE bool here(const Tile& tile, int group, int position) const {
    if (position >= tile.count) return false;
    if (call_.index != nullptr && static_cast<int64_t>(chosen_[position]) < 0) return false;
    if (call_.mask.data == nullptr) return true;
    const unsigned char* mask = static_cast<const unsigned char*>(call_.mask.data);
    return load_global(mask + offset_of(call_.mask, tile, group, position)) != 0;
  }

  // A warp takes 32 positions of a group, or all positions of some groups.
  MDN_ON_DEVICE void look_along_points(const Tile& tile) {
    const int threads = blockDim.x, lane = threadIdx.x % warp_lanes;
    const int shift = __ffs(tile.positions) - 1, total = groups_ << shift;
    const int run = tile.positions < warp_lanes ? tile.positions : warp_lanes;
    for (int first = threadIdx.x - lane; first < total; first += threads) {
      const int at = first + lane, group = at >> shift, position = at & (tile.positions - 1);
      const uint32_t bits = __ballot_sync(all_lanes, at < total && here(tile, group, position));
      if (at < total && (lane & (run - 1)) == 0) {
        seen_.set(group * words_ + (position >> 5), bits >> lane & (0xffffffffu >> (warp_lanes - run)));
      }
    }
  }

  MDN_ON_DEVICE void look_along_channels(const Tile& tile) {
    const int total = groups_ * tile.count;
    for (int at = threadIdx.x; at < total; at += static_cast<int>(blockDim.x)) {
      const int position = quotient(at, call_.by_groups), group = at - position * groups_;
      if (here(tile, group, position)) seen_.set_bits(group * words_ + (position >> 5), uint32_t(1) << (position & 31));
    }
  }

  const Observed& call_;
  const int words_, groups_;
  const Cells<uint32_t, shared> seen_;
  const DynamicSharedArray<int64_t> chosen_;
  const DynamicSharedArray<uint32_t> observed_;
};

}  // namespace device
}  // namespace mdn
