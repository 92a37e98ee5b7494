// The instruction set in use: the best that the machine has, or the one that MDNKERNELS_SIMD names.
#pragma once

#include <string>

namespace mdn {

enum class SimdLevel { baseline, avx2, avx512 };

// Throws std::runtime_error where MDNKERNELS_SIMD names a level that does not exist or that this machine lacks.
SimdLevel simd_level();
std::string simd_level_name();

// The variant of a kernel for the level in use.
template <class Kernel>
const Kernel& at_simd_level(const Kernel& baseline, const Kernel& avx2, const Kernel& avx512) {
  switch (simd_level()) {
    case SimdLevel::avx512:
      return avx512;
    case SimdLevel::avx2:
      return avx2;
    default:
      return baseline;
  }
}

}  // namespace mdn

// The variants of the kernel `name`, as far as this architecture has them.
#if defined(__x86_64__)
#define MDN_AT_SIMD_LEVEL(name) at_simd_level(baseline::name, avx2::name, avx512::name)
#else
#define MDN_AT_SIMD_LEVEL(name) (baseline::name)
#endif
