// Counts what a launch moves between global memory and its warps, in sectors.
#pragma once

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "buffers.h"

namespace cuda_on_cpu {

// The different sectors that one access of a warp touched. Those near the first are bits, the others a list.
class SectorSet {
 public:
  void clear() {
    near_ = 0;
    far_.clear();
  }
  // Whether the sector is new.
  bool add(uintptr_t sector) {
    if (near_ == 0) first_ = sector;
    const uintptr_t at = sector - first_ + 32;
    if (at < 64) {
      const bool fresh = (near_ >> at & 1) == 0;
      near_ |= uint64_t{1} << at;
      return fresh;
    }
    if (std::find(far_.begin(), far_.end(), sector) != far_.end()) return false;
    far_.push_back(sector);
    return true;
  }

 private:
  uintptr_t first_;
  uint64_t near_ = 0;
  std::vector<uintptr_t> far_;
};

// One instruction's executions by one warp: the k-th of each lane are one access.
struct Executions {
  uint32_t of_lane[warpSize] = {};
  uint32_t accesses = 0;
  std::vector<SectorSet> sets;
};

// Instructions by the address they are called from, numbered.
class Instructions {
 public:
  int number(const void* address) {
    size_t slot = reinterpret_cast<uintptr_t>(address) * 0x9e3779b97f4a7c15 >> 20;
    for (;; ++slot) {
      Slot& entry = slots_[slot % slots_.size()];
      if (entry.address == address) return entry.number;
      if (entry.address == nullptr) break;
    }
    if (static_cast<size_t>(count_) * 2 > slots_.size()) grow();
    insert(address, count_);
    return count_++;
  }

 private:
  struct Slot {
    const void* address = nullptr;
    int number = 0;
  };
  void insert(const void* address, int number) {
    size_t slot = reinterpret_cast<uintptr_t>(address) * 0x9e3779b97f4a7c15 >> 20;
    while (slots_[slot % slots_.size()].address != nullptr) ++slot;
    slots_[slot % slots_.size()] = {address, number};
  }
  void grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& entry : old) {
      if (entry.address != nullptr) insert(entry.address, entry.number);
    }
  }
  std::vector<Slot> slots_ = std::vector<Slot>(4096);
  int count_ = 0;
};

class TrafficCounter {
 public:
  void begin_launch(LaunchRecord* record, int warps) {
    record_ = record;
    executions_.resize(std::max(executions_.size(), static_cast<size_t>(warps)));
    for (const std::unique_ptr<Range>& range : all_ranges()) {
      for (std::vector<uint64_t>& bits : range->touched) bits.clear();
    }
  }

  // An access by one lane; `instruction` is where the kernel made it.
  void count(const void* instruction, int warp, int lane, uintptr_t address, unsigned bytes, Access access,
             Range& range) {
    Traffic& traffic = access == Access::read    ? record_->read
                       : access == Access::write ? record_->write
                                                 : record_->atomic;
    Executions& executions = executions_of(warp, instructions_.number(instruction));
    const uint32_t k = executions.of_lane[lane]++;
    if (k == executions.accesses) {
      if (executions.sets.size() == k) executions.sets.emplace_back();
      executions.sets[k].clear();
      ++executions.accesses;
      ++traffic.accesses;
    }
    // Aligned to its size, which is less than a sector: it lies in one.
    const uintptr_t sector = address / sector_bytes;
    traffic.bytes += bytes;
    traffic.sectors += executions.sets[k].add(sector);
    traffic.distinct_sectors += range.touch(access, sector);
  }

  // The next block's warps are others.
  void end_block() {
    for (const auto& [warp, instruction] : executed_) {
      Executions& executions = executions_[warp][instruction];
      memset(executions.of_lane, 0, sizeof executions.of_lane);
      executions.accesses = 0;
    }
    executed_.clear();
  }

 private:
  Executions& executions_of(int warp, int instruction) {
    std::vector<Executions>& of_warp = executions_[warp];
    if (of_warp.size() <= static_cast<size_t>(instruction)) of_warp.resize(instruction + 1);
    Executions& executions = of_warp[instruction];
    if (executions.accesses == 0) executed_.emplace_back(warp, instruction);
    return executions;
  }

  LaunchRecord* record_ = nullptr;
  Instructions instructions_;
  std::vector<std::vector<Executions>> executions_;  // by warp, then by instruction
  std::vector<std::pair<int, int>> executed_;        // warps and instructions of this block
};

}  // namespace cuda_on_cpu
