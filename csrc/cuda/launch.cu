#include <dlfcn.h>

#include <array>

#include "launch.h"

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

Tensor fresh_strided(const Tensor& like, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
  using torch::stable::detail::from;
  std::array<StableIValue, 7> stack{from(like),         from(sizes),        from(strides),     from(std::nullopt),
                                    from(std::nullopt), from(std::nullopt), from(std::nullopt)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::new_empty_strided", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

DType dtype_of(const Tensor& tensor) {
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
      STD_TORCH_CHECK(false, "mdnkernels: a dtype that the CUDA kernels do not have");
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
  view.channels = static_cast<int>(tensor.size(1));
  view.walk = walk_of(view, tensor.size(0));
  return view;
}

DeviceCall::DeviceCall(const Tensor& on) : guard_(on.get_device()), stream_(current_stream(on.get_device())) {}

void check_launch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "mdnkernels: launching ", kernel, ": ", cudaGetErrorString(error));
}

}  // namespace mdn
