// What torch's stable API lacks in the older of the versions that the library is compiled with and runs in. The oldest
// is 2.10. TORCH_TARGET_VERSION (setup.py) keeps everything else to what 2.10 has.
#pragma once

#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/shim_utils.h>

// Raises where a call into torch failed. The macro is torch 2.13's, and raises with the message of torch's own error.
// The older macro names the call alone.
#if !defined(STABLE_TORCH_ERROR_CODE_CHECK)
#define STABLE_TORCH_ERROR_CODE_CHECK(call) TORCH_ERROR_CODE_CHECK(call)
#endif

// A function of torch 2.11, which the target version hides. It is null where the library runs in torch 2.10.
extern "C" __attribute__((weak)) AOTITorchError torch_from_blob(
    void* data, int64_t dimensions, const int64_t* sizes, const int64_t* strides, int64_t storage_offset, int32_t dtype,
    int32_t device_type, int32_t device_index, AtenTensorHandle* result, int32_t layout, const uint8_t* opaque_metadata,
    int64_t opaque_metadata_size, void (*deleter)(void* data, void* context), void* context);
