// The CPU's fresh outputs, and scratch memory for its threads.
#pragma once

#include <vector>

#include "core/torch_tensors.h"

namespace mdn {

// An uninitialised tensor of the device of `like`; a large one in recycled memory (memory.h).
Tensor fresh(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype);
// The same of the sizes, strides and dtype of `like`, as torch.empty_like.
Tensor fresh_like(const Tensor& like);
// The same of the dtype of `like`; sizes and strides must be those of a dense tensor.
Tensor fresh_strided(const Tensor& like, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides);

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
