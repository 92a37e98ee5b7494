// What of a tile was observed: its mask and its index as bits.
#pragma once

#include "core/cuda/rows.cuh"

namespace mdn {

struct Observed {
  TileView mask;         // (B, G, points); absent where all is observed: data is null
  const int64_t* index;  // (B, points), contiguous, or null; -1 is padding, where nothing is observed
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

  // Reads index and mask of a tile. Returns whether anything in it is observed.
  MDN_ON_DEVICE bool look(const Tile& tile) {
    const int thread = threadIdx.x, threads = blockDim.x;
    if (call_.index != nullptr) {
      const int64_t* index = call_.index + tile.batch * call_.points + tile.first;
      for (int i = thread; i < tile.positions; i += threads) {
        chosen_[i] = i < tile.count ? load_global(index + i) : int64_t(-1);
      }
    }
    for (int i = thread; i < words_; i += threads) observed_[i] = 0;
    const bool along_channels = call_.mask.walk == Walk::channels;
    if (along_channels) {
      for (int i = thread; i < groups_ * words_; i += threads) seen_.set(i, 0);
    }
    __syncthreads();
    bool any = false;
    if (along_channels) {
      any = look_along_channels(tile);
    } else {
      any = look_along_points(tile);
    }
    return __syncthreads_or(any) != 0;
  }

  // Whether dimension `dim` was observed at `position`: the lowest bit; at the positions that follow: those above.
  MDN_ON_DEVICE uint32_t seen(int dim, int position) const {
    return seen_.get(quotient(dim, call_.by_group_dims) * words_ + (position >> 5)) >> (position & 31);
  }

  MDN_ON_DEVICE PositionSet<DynamicSharedArray<uint32_t>> observed() const { return {observed_}; }

  // Where the index points for a position that is observed.
  MDN_ON_DEVICE int64_t chosen(int position) const { return chosen_[position]; }

 private:
  // Adds the positions of one group to those with anything observed; returns whether there are any.
  MDN_ON_DEVICE bool note(int word, uint32_t bits) const {
    if (bits == 0) return false;
    atomicOr(&observed_[word], bits);
    return true;
  }

  // Whether the tile has that position and the index names a point there.
  MDN_ON_DEVICE bool exists(const Tile& tile, int position) const {
    return position < tile.count && (call_.index == nullptr || static_cast<int64_t>(chosen_[position]) >= 0);
  }

  MDN_ON_DEVICE const unsigned char* mask_of(const Tile& tile, int group, int position) const {
    return static_cast<const unsigned char*>(call_.mask.data) + offset_of(call_.mask, tile, group, position);
  }

  // A warp takes 32 positions of a group, or all positions of some groups; each lane stays at its position. The block
  // has a thread for every position.
  MDN_ON_DEVICE bool look_along_points(const Tile& tile) {
    const int shift = __ffs(tile.positions) - 1, lane = threadIdx.x % warp_lanes;
    const int position = threadIdx.x & (tile.positions - 1), step = static_cast<int>(blockDim.x) >> shift;
    const int run = min(tile.positions, warp_lanes), ahead = lane >> shift;
    const bool real = exists(tile, position), masked = call_.mask.data != nullptr;
    int first = static_cast<int>(threadIdx.x - lane) >> shift;
    const unsigned char* mask = masked ? mask_of(tile, first + ahead, position) : nullptr;
    bool any = false;
#pragma unroll 1  // a ballot waits for its load, so that several turns at once only take registers
    for (; first < groups_; first += step) {
      const int group = first + ahead;
      const bool here = group < groups_ && real && (!masked || load_global(mask) != 0);
      const uint32_t bits = __ballot_sync(all_lanes, here) >> (lane & -run) & (0xffffffffu >> (warp_lanes - run));
      if (group < groups_ && (lane & (run - 1)) == 0) {
        seen_.set(group * words_ + (position >> 5), bits);
        any |= note(position >> 5, bits);
      }
      mask += step * call_.mask.channel_stride;
    }
    return any;
  }

  MDN_ON_DEVICE bool look_along_channels(const Tile& tile) {
    const int total = groups_ * tile.count;
    bool any = false;
    for (int at = threadIdx.x; at < total; at += static_cast<int>(blockDim.x)) {
      const int position = quotient(at, call_.by_groups), group = at - position * groups_;
      if (!exists(tile, position) || load_global(mask_of(tile, group, position)) == 0) continue;
      const uint32_t bit = uint32_t(1) << (position & 31);
      seen_.set_bits(group * words_ + (position >> 5), bit);
      any |= note(position >> 5, bit);
    }
    return any;
  }

  const Observed& call_;
  const int words_, groups_;
  const Cells<uint32_t, shared> seen_;
  const DynamicSharedArray<int64_t> chosen_;
  const DynamicSharedArray<uint32_t> observed_;
};

}  // namespace device
}  // namespace mdn
