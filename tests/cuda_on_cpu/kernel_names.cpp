#include "kernel_names.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <stdlib.h>

#include <sstream>

namespace cuda_on_cpu {

const char* symbol_of(const void* kernel) {
  Dl_info info;
  return dladdr(kernel, &info) != 0 && info.dli_saddr == kernel ? info.dli_sname : nullptr;
}

std::string kernel_name(const void* kernel) {
  const char* symbol = symbol_of(kernel);
  if (symbol == nullptr) {
    std::ostringstream unnamed;
    unnamed << "kernel at " << kernel;
    return unnamed.str();
  }
  int status = 0;
  char* demangled = abi::__cxa_demangle(symbol, nullptr, nullptr, &status);
  std::string name = status == 0 ? demangled : symbol;
  free(demangled);
  // "void mdn::device::kernel<float>(float const*)": the name and its template arguments alone.
  int depth = 0;
  for (size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '<') ++depth;
    if (name[i] == '>') --depth;
    if (name[i] == '(' && depth == 0 && name.compare(i, 21, "(anonymous namespace)") != 0) {
      name.resize(i);
      break;
    }
  }
  return name.compare(0, 5, "void ") == 0 ? name.substr(5) : name;
}

}  // namespace cuda_on_cpu
