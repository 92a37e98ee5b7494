// Memory of the CPU's ops beside their tensors (torch_tensors.h).
#pragma once

#include "core/torch_tensors.h"

namespace mdn {

// A call of an op here, for its host code (ops/OP/call.h), as DeviceCall is one on a GPU.
struct CpuCall {
  explicit CpuCall(const Tensor&) {}
  static View view(const Tensor& tensor, bool gathered = false) { return view_of(tensor, gathered); }
};

// Zeroes a dense tensor, in parallel.
void zero(const Tensor& dense);

// Memory for one thread, aligned to a cache line.
class ThreadScratch {
 public:
  explicit ThreadScratch(int64_t bytes);
  ~ThreadScratch();
  ThreadScratch(const ThreadScratch&) = delete;
  ThreadScratch& operator=(const ThreadScratch&) = delete;
  void* get() const { return memory_; }

 private:
  void* memory_;
};

}  // namespace mdn
