#include "core/cpu/tensors.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <numeric>

#include "core/cpu/memory.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace mdn {
namespace {

constexpr uintptr_t huge_page = 2 << 20;

const Tensor& on_huge_pages(const Tensor& tensor) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const auto begin = reinterpret_cast<uintptr_t>(tensor.data_ptr());
  const uintptr_t end = begin + tensor.numel() * tensor.element_size();
  const uintptr_t first = (begin + huge_page - 1) / huge_page * huge_page;
  const uintptr_t last = end / huge_page * huge_page;
  // Only advice: a refusal leaves ordinary pages, which are as right.
  if (first < last) (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return tensor;
}

int64_t element_size(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Long:
    case ScalarType::Double:
      return 8;
    case ScalarType::Float:
      return 4;
    case ScalarType::BFloat16:
    case ScalarType::Half:
      return 2;
    default:
      STD_TORCH_CHECK(false, "mdnkernels: a dtype that no native op gives");
  }
}

int64_t bytes_of(const std::vector<int64_t>& sizes, int64_t element) {
  return std::accumulate(sizes.begin(), sizes.end(), element, std::multiplies<int64_t>());
}

bool in_recycled_memory(int64_t bytes) {
  return bytes >= smallest_block && blocks_are_kept() && torch_from_blob != nullptr;
}

// A dense tensor in recycled memory.
Tensor recycled(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, ScalarType dtype,
                int64_t bytes) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  const auto number = [](auto value) { return to<int32_t>(from(value)); };
  void* block = acquire_block(bytes);
  AtenTensorHandle handle = nullptr;
  const AOTITorchError error = torch_from_blob(
      block, sizes.size(), sizes.data(), strides.data(), 0, number(dtype), number(torch::headeronly::DeviceType::CPU),
      -1, &handle, number(torch::headeronly::Layout::Strided), nullptr, 0,
      [](void* data, void*) { release_block(data); }, nullptr);
  if (error != AOTI_TORCH_SUCCESS) release_block(block);
  STABLE_TORCH_ERROR_CODE_CHECK(error);
  return Tensor(handle);
}

std::vector<int64_t> contiguous_strides(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= std::max<int64_t>(sizes[d], 1);
  }
  return strides;
}

// Whether the elements fill one range of memory, each its own place.
bool dense(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
  std::vector<size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return strides[a] < strides[b]; });
  int64_t expected = 1;
  for (const size_t d : order) {
    if (sizes[d] == 1) continue;
    if (strides[d] != expected) return false;
    expected *= sizes[d];
  }
  return true;
}

}  // namespace

void* address_of(const Tensor& tensor) { return tensor.data_ptr(); }

Tensor fresh(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype) {
  const int64_t bytes = bytes_of(sizes, element_size(dtype));
  if (in_recycled_memory(bytes)) return recycled(sizes, contiguous_strides(sizes), dtype, bytes);
  return on_huge_pages(torch::stable::new_empty(like, sizes, dtype));
}

Tensor fresh_like(const Tensor& like) {
  const int64_t bytes = like.numel() * static_cast<int64_t>(like.element_size());
  if (in_recycled_memory(bytes)) {
    const std::vector<int64_t> sizes(like.sizes().begin(), like.sizes().end());
    const std::vector<int64_t> strides(like.strides().begin(), like.strides().end());
    if (dense(sizes, strides)) return recycled(sizes, strides, like.scalar_type(), bytes);
  }
  return on_huge_pages(torch::stable::empty_like(like));
}

Tensor fresh_strided(const Tensor& like, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
  const int64_t bytes = bytes_of(sizes, like.element_size());
  if (in_recycled_memory(bytes)) return recycled(sizes, strides, like.scalar_type(), bytes);
  return on_huge_pages(new_empty_strided(like, sizes, strides));
}

void zero(const Tensor& dense) {
  zero_memory(dense.data_ptr(), dense.numel() * static_cast<int64_t>(dense.element_size()));
}

Tensor zeros(const Tensor& like, const std::vector<int64_t>& sizes) {
  const Tensor tensor = fresh(like, sizes, like.scalar_type());
  zero(tensor);
  return tensor;
}

ThreadScratch::ThreadScratch(int64_t bytes) : memory_(std::aligned_alloc(64, (bytes + 63) / 64 * 64)) {
  if (memory_ == nullptr) throw std::bad_alloc();
}

ThreadScratch::~ThreadScratch() { std::free(memory_); }

}  // namespace mdn
