#include <dlfcn.h>

#include "core/cuda/launch.h"

#if defined(MDN_SOURCES)  // see mdnkernels/native/sources.py
extern "C" __attribute__((used)) const char mdnkernels_cuda_sources[] = "mdnkernels sources " MDN_SOURCES;
#endif

namespace mdn {
namespace {

// torch's current stream. Its function lives in the part of torch that has CUDA, which this library is not linked with,
// so that it also builds beside a torch without; where the library is loaded, that part is.
using CurrentStream = AOTITorchError (*)(int32_t device, void** stream);

CurrentStream find_current_stream() {
  void* torch_cuda = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  void* function = torch_cuda != nullptr ? dlsym(torch_cuda, "aoti_torch_get_current_cuda_stream") : nullptr;
  STD_TORCH_CHECK(function != nullptr, "mdnkernels: this torch has no aoti_torch_get_current_cuda_stream: is it built ",
                  "with CUDA?");
  return reinterpret_cast<CurrentStream>(function);
}

cudaStream_t current_stream(int32_t device) {
  static const CurrentStream find = find_current_stream();
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(find(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

}  // namespace

DeviceCall::DeviceCall(const Tensor& on) : guard_(on.get_device()), stream_(current_stream(on.get_device())) {}
DeviceCall::~DeviceCall() = default;

void* address_of(const Tensor& tensor) { return tensor.data_ptr(); }

Tensor fresh(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype) {
  return torch::stable::new_empty(like, sizes, dtype);
}

Tensor fresh_like(const Tensor& like) { return torch::stable::empty_like(like); }

Tensor fresh_strided(const Tensor& like, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
  return new_empty_strided(like, sizes, strides);
}

Tensor zeros(const Tensor& like, const std::vector<int64_t>& sizes) {
  return torch::stable::new_zeros(like, sizes, like.scalar_type());
}

}  // namespace mdn
