#include "tensors.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <array>
#include <cstdlib>
#include <cstring>
#include <new>

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

}  // namespace

ScaleActivation activation_of(const std::string& name) {
  if (name == "elu") return ScaleActivation::elu;
  if (name == "softplus") return ScaleActivation::softplus;
  if (name == "exp") return ScaleActivation::exp;
  STD_TORCH_CHECK(name == "identity", "mdnkernels: unknown scale_activation ", name);
  return ScaleActivation::identity;
}

DType dtype_of(const Tensor& tensor) {
  using torch::headeronly::ScalarType;
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::float32;
    case ScalarType::Double:
      return DType::float64;
    case ScalarType::BFloat16:
      return DType::bfloat16;
    case ScalarType::Half:
      return DType::float16;
    case ScalarType::Bool:
      return DType::boolean;
    default:
      STD_TORCH_CHECK(false, "mdnkernels: a dtype that the native kernels do not have");
  }
}

View view_of(const Tensor& tensor, bool gathered) {
  View view;
  view.data = tensor.data_ptr();
  view.dtype = dtype_of(tensor);
  view.batch_stride = tensor.stride(0);
  view.channel_stride = tensor.stride(1);
  view.point_stride = tensor.stride(2);
  view.gathered = gathered;
  return view;
}

Tensor fresh(const Tensor& like, const std::vector<int64_t>& sizes, torch::headeronly::ScalarType dtype) {
  return on_huge_pages(torch::stable::new_empty(like, sizes, dtype));
}

Tensor fresh_like(const Tensor& like) { return on_huge_pages(torch::stable::empty_like(like)); }

bool zero_untouched(const Tensor& tensor) {
#if defined(__linux__)
  const auto begin = reinterpret_cast<uintptr_t>(tensor.data_ptr());
  const uintptr_t end = begin + tensor.numel() * tensor.element_size();
  const uintptr_t page = sysconf(_SC_PAGESIZE);
  const uintptr_t first = (begin + page - 1) / page * page, last = end / page * page;
  // Below this the C library recycles memory, whose pages are there already and are cheaper to overwrite.
  if (end - begin < (uintptr_t(32) << 20)) return false;
  unsigned char resident = 1;
  const uintptr_t middle = (first + last) / 2 / page * page;
  if (mincore(reinterpret_cast<void*>(middle), page, &resident) != 0 || (resident & 1)) return false;
  // Private memory drops what was written; anything else (shared, from a file) would bring it back, and shows it here.
  auto* probe = reinterpret_cast<volatile unsigned char*>(first);
  *probe = 0xa5;
  if (madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED) != 0 || *probe != 0) return false;
  std::memset(reinterpret_cast<void*>(begin), 0, first - begin);
  std::memset(reinterpret_cast<void*>(last), 0, end - last);
  return true;
#else
  (void)tensor;
  return false;
#endif
}

Tensor fresh_zeros(const Tensor& like, const std::vector<int64_t>& sizes, torch::headeronly::ScalarType dtype) {
  const Tensor tensor = fresh(like, sizes, dtype);
  if (!zero_untouched(tensor)) torch::stable::zero_(const_cast<Tensor&>(tensor));
  return tensor;
}

Tensor fresh_strided(const Tensor& like, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
  using torch::stable::detail::from;
  std::array<StableIValue, 7> stack{from(like),         from(sizes),        from(strides),     from(std::nullopt),
                                    from(std::nullopt), from(std::nullopt), from(std::nullopt)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::new_empty_strided", "", stack.data(), TORCH_ABI_VERSION));
  return on_huge_pages(torch::stable::detail::to<Tensor>(stack[0]));
}

ThreadScratch::ThreadScratch(int64_t bytes) : memory_(std::aligned_alloc(64, (bytes + 63) / 64 * 64)) {
  if (memory_ == nullptr) throw std::bad_alloc();
}

ThreadScratch::~ThreadScratch() { std::free(memory_); }

}  // namespace mdn
