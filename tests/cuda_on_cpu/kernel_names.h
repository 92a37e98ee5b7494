// What a kernel is called, from its address.
#pragma once

#include <string>

namespace cuda_on_cpu {

// The mangled name, or null where it has none.
const char* symbol_of(const void* kernel);

// The name and its template arguments, without its parameters.
std::string kernel_name(const void* kernel);

}  // namespace cuda_on_cpu
