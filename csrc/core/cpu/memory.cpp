#include "core/cpu/memory.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/cpu/memory_kernel.h"
#include "core/cpu/simd_level.h"
#include "core/cpu/turns.h"

#if defined(__linux__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace mdn {
namespace {

constexpr int64_t huge_page = 2 << 20;

int64_t rounded_up(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

// Takes a block from the system that begins at a huge page's border.
void* map_block(int64_t bytes) {
#if defined(__linux__)
  const int64_t reserved = bytes + huge_page;
  void* mapping = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  auto* begin = static_cast<char*>(mapping);
  auto* data = reinterpret_cast<char*>(rounded_up(reinterpret_cast<intptr_t>(begin), huge_page));
  if (data > begin) munmap(begin, data - begin);
  if (begin + reserved > data + bytes) munmap(data + bytes, begin + reserved - (data + bytes));
#if defined(MADV_HUGEPAGE)
  (void)madvise(data, bytes, MADV_HUGEPAGE);  // only advice: a refusal leaves ordinary pages, which are as right
#endif
  return data;
#else
  void* data = std::aligned_alloc(64, bytes);
  if (data == nullptr) throw std::bad_alloc();
  return data;
#endif
}

void unmap_block(void* data, int64_t bytes) {
#if defined(__linux__)
  munmap(data, bytes);
#else
  (void)bytes;
  std::free(data);
#endif
}

int64_t limit_from_environment() {
  const char* text = std::getenv("MDNKERNELS_CACHE_MB");
  if (text == nullptr || *text == '\0') return int64_t(512) << 20;
  char* end = nullptr;
  const long long megabytes = std::strtoll(text, &end, 10);
  if (*end != '\0' || megabytes < 0 || megabytes > (1 << 24)) {
    throw std::runtime_error(std::string("MDNKERNELS_CACHE_MB must be a whole number of megabytes, got ") + text);
  }
  return megabytes << 20;
}

// The blocks of this process: those in use, and freed ones that are kept up to a limit.
class Blocks {
 public:
  // The one instance is never destroyed: tensors may be freed after the library's other statics.
  static Blocks& instance() {
    static Blocks* blocks = new Blocks;
    return *blocks;
  }

  int64_t limit() const { return limit_; }

  void* acquire(int64_t bytes) {
    bytes = rounded_up(bytes, 64 << 10);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      // The best block is the smallest that is large enough and at most a quarter larger. Among equals it is the one
      // freed last, warm in a cache.
      auto best = kept_.end();
      for (auto block = kept_.begin(); block != kept_.end(); ++block) {
        if (block->bytes < bytes || block->bytes > bytes + bytes / 4) continue;
        if (best == kept_.end() || block->bytes <= best->bytes) best = block;
      }
      if (best != kept_.end()) {
        const Free chosen = *best;
        kept_.erase(best);
        kept_bytes_ -= chosen.bytes;
        in_use_[chosen.data] = chosen.bytes;
        return chosen.data;
      }
    }
    void* block = map_block(bytes);
    const std::lock_guard<std::mutex> lock(mutex_);
    in_use_[block] = bytes;
    return block;
  }

  void release(void* block) {
    std::vector<Free> surplus;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto found = in_use_.find(block);
      kept_.push_back({block, found->second});
      kept_bytes_ += found->second;
      in_use_.erase(found);
      surplus = shrink_to(limit_);
    }
    unmap(surplus);
  }

  void release_kept() {
    std::vector<Free> surplus;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      surplus = shrink_to(0);
    }
    unmap(surplus);
  }

  int64_t kept_bytes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return kept_bytes_;
  }

 private:
  struct Free {
    void* data;
    int64_t bytes;
  };

  Blocks() : limit_(limit_from_environment()) {
#if defined(__linux__) || defined(__APPLE__)
    // A child must not inherit the lock from a thread that it does not have.
    pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                   [] { instance().mutex_.unlock(); });
#endif
  }

  // Takes out the blocks freed longest ago until at most `bytes` are kept.
  std::vector<Free> shrink_to(int64_t bytes) {
    auto last = kept_.begin();
    for (; last != kept_.end() && kept_bytes_ > bytes; ++last) kept_bytes_ -= last->bytes;
    std::vector<Free> surplus(kept_.begin(), last);
    kept_.erase(kept_.begin(), last);
    return surplus;
  }

  static void unmap(const std::vector<Free>& blocks) {
    for (const Free& block : blocks) unmap_block(block.data, block.bytes);
  }

  const int64_t limit_;
  std::mutex mutex_;
  std::vector<Free> kept_;  // in the order in which they were freed
  int64_t kept_bytes_ = 0;
  std::unordered_map<void*, int64_t> in_use_;  // bytes
};

}  // namespace

void* acquire_block(int64_t bytes) { return Blocks::instance().acquire(bytes); }
void release_block(void* block) { Blocks::instance().release(block); }
bool blocks_are_kept() { return Blocks::instance().limit() > 0; }
int64_t kept_bytes() { return Blocks::instance().kept_bytes(); }
void release_kept_blocks() { Blocks::instance().release_kept(); }

void zero_memory(void* data, int64_t bytes) {
  constexpr int64_t piece = 1 << 20;
  constexpr int64_t cached = 4 << 20;
  const MemoryKernel& kernel = MDN_AT_SIMD_LEVEL(memory_kernel);
  char* begin = static_cast<char*>(data);
  for_each_range((bytes + piece - 1) / piece, 1, [&](int64_t first, int64_t last) {
    kernel.zero(begin + first * piece, std::min(last * piece, bytes) - first * piece, bytes > cached);
  });
}

}  // namespace mdn
