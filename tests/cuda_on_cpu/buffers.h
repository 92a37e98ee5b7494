// The memory that kernels may access.
#pragma once

#include <stdint.h>

#include <memory>
#include <string>
#include <vector>

#include "engine.h"

namespace cuda_on_cpu {

constexpr unsigned sector_bytes = 32;

struct Range {
  uintptr_t begin, end;
  bool writeable;
  int users;  // buffers of exactly this range
  // One bit for each sector that this launch touched, by the kind of access.
  std::vector<uint64_t> touched[3];

  bool touch(Access access, uintptr_t sector) {
    std::vector<uint64_t>& bits = touched[static_cast<int>(access)];
    const uintptr_t at = sector - begin / sector_bytes;
    if (bits.empty()) bits.resize((end / sector_bytes - begin / sector_bytes) / 64 + 1);
    const bool fresh = (bits[at / 64] >> at % 64 & 1) == 0;
    bits[at / 64] |= uint64_t{1} << at % 64;
    return fresh;
  }
};

const std::vector<std::unique_ptr<Range>>& all_ranges();

// The range that allows this access, or null.
Range* find_range(uintptr_t address, unsigned bytes, Access access);

// What is wrong with an access that no range allows.
std::string nearest_range(uintptr_t address, Access access);

}  // namespace cuda_on_cpu
