// What csrc/core/cuda/launch.cu is on a GPU: the tensors of a call, whose memory kernels may access until it ends.
#include <string.h>

#include <memory>

#include "core/cuda/launch.h"
#include "engine.h"

namespace mdn {
namespace {

using cuda_on_cpu::Buffer;

// Of the call that runs.
std::vector<std::unique_ptr<const Buffer>> buffers;

// Bytes from a tensor's first element to behind its last.
size_t extent_of(const Tensor& tensor) {
  if (tensor.numel() == 0) return 0;
  int64_t last = 0;
  for (int64_t axis = 0; axis < tensor.dim(); ++axis) last += (tensor.size(axis) - 1) * tensor.stride(axis);
  return static_cast<size_t>(last + 1) * tensor.element_size();
}

// Memory as a GPU hands it out, holding anything: here every byte is 0xff, NaN in every floating-point format.
Tensor writeable(const Tensor& made, int byte = 0xff) {
  const size_t bytes = extent_of(made);
  if (bytes > 0) memset(made.data_ptr(), byte, bytes);
  buffers.push_back(std::make_unique<const Buffer>(made.data_ptr(), bytes, true));
  return made;
}

}  // namespace

DeviceCall::DeviceCall(const Tensor&) {}
DeviceCall::~DeviceCall() { buffers.clear(); }

void* address_of(const Tensor& tensor) {
  void* address = tensor.data_ptr();
  const size_t bytes = extent_of(tensor);
  if (!cuda_on_cpu::is_writeable(address, bytes)) {  // it came from outside or was made by torch: an input
    buffers.push_back(std::make_unique<const Buffer>(address, bytes, false));
  }
  return address;
}

Tensor fresh(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype) {
  return writeable(torch::stable::new_empty(like, sizes, dtype));
}

Tensor fresh_like(const Tensor& like) { return writeable(torch::stable::empty_like(like)); }

Tensor fresh_strided(const Tensor& like, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
  return writeable(new_empty_strided(like, sizes, strides));
}

Tensor zeros(const Tensor& like, const std::vector<int64_t>& sizes) {
  return writeable(torch::stable::new_empty(like, sizes, like.scalar_type()), 0);
}

}  // namespace mdn
