#include "buffers.h"

#include <algorithm>

namespace cuda_on_cpu {
namespace {

std::vector<std::unique_ptr<Range>> ranges;
Range* last_range = nullptr;  // found last: most accesses are to it

}  // namespace

Buffer::Buffer(const void* begin, size_t bytes, bool writeable) {
  if (bytes == 0) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(begin);
  const auto same = [&](const std::unique_ptr<Range>& range) {
    return range->begin == address && range->end == address + bytes && range->writeable == writeable;
  };
  const auto found = std::find_if(ranges.begin(), ranges.end(), same);
  if (found == ranges.end()) {
    ranges.emplace_back(new Range{address, address + bytes, writeable, 0, {}});
    range_ = ranges.back().get();
  } else {
    range_ = found->get();
  }
  ++range_->users;
}

Buffer::~Buffer() {
  if (range_ == nullptr || --range_->users > 0) return;
  if (last_range == range_) last_range = nullptr;
  ranges.erase(std::find_if(ranges.begin(), ranges.end(), [&](const auto& range) { return range.get() == range_; }));
}

const std::vector<std::unique_ptr<Range>>& all_ranges() { return ranges; }

Range* find_range(uintptr_t address, unsigned bytes, Access access) {
  const auto allows = [&](const Range& range) {
    return address >= range.begin && address + bytes <= range.end && (range.writeable || access == Access::read);
  };
  if (last_range != nullptr && allows(*last_range)) return last_range;
  const auto found = std::find_if(ranges.begin(), ranges.end(), [&](const auto& range) { return allows(*range); });
  if (found == ranges.end()) return nullptr;
  last_range = found->get();
  return last_range;
}

bool is_writeable(const void* begin, size_t bytes) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(begin);
  return std::any_of(ranges.begin(), ranges.end(), [&](const std::unique_ptr<Range>& range) {
    return range->writeable && address >= range->begin && address + bytes <= range->end;
  });
}

std::string nearest_range(uintptr_t address, Access access) {
  const Range* nearest = nullptr;
  uintptr_t least = ~uintptr_t{0};
  for (const std::unique_ptr<Range>& range : ranges) {
    const uintptr_t distance = address < range->begin ? range->begin - address
                               : address < range->end ? 0
                                                      : address - range->end;
    if (nearest == nullptr || distance < least) {
      nearest = range.get();
      least = distance;
    }
  }
  if (nearest == nullptr) return "and there is no buffer";
  const std::string buffer = "a buffer of " + std::to_string(nearest->end - nearest->begin) + " bytes";
  if (least == 0 && access != Access::read && !nearest->writeable) return "in " + buffer + " that is an input";
  if (address < nearest->begin) return std::to_string(least) + " bytes before " + buffer;
  if (address < nearest->end) return "across the end of " + buffer;
  return std::to_string(least) + " bytes behind the end of " + buffer;
}

}  // namespace cuda_on_cpu
