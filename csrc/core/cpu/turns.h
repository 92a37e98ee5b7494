// Work over threads, in turns that each thread takes when it is free.
//
// Halves fixed in advance wait for the slower of two threads: where another process keeps one of the cores busy, that
// thread may not run for many milliseconds while the other has long been done.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace mdn {

// Hands out 0, 1, 2, ... to any number of threads, each number once.
class Turns {
 public:
  int64_t next() { return next_.fetch_add(1, std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> next_{0};
};

// Calls work(turns) on as many threads as torch uses, at most `count`: each takes turns until it is given `count` or
// more. Work of one turn stays on the thread that calls.
template <class Work>
void take_turns(int64_t count, Work work) {
  Turns turns;
  const int64_t threads = std::min<int64_t>(count, torch::stable::get_num_threads());
  if (threads <= 1) {
    if (count > 0) work(turns);
    return;
  }
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) work(turns);
  });
}

// Calls work(begin, end) for ranges of at most `grain` of 0 to `count`.
template <class Work>
void for_each_range(int64_t count, int64_t grain, Work work) {
  const int64_t ranges = (count + grain - 1) / grain;
  take_turns(ranges, [&](Turns& turns) {
    for (int64_t range = turns.next(); range < ranges; range = turns.next()) {
      work(range * grain, std::min((range + 1) * grain, count));
    }
  });
}

}  // namespace mdn
