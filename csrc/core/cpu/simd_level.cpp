#include "core/cpu/simd_level.h"

#include <cstdlib>
#include <stdexcept>

namespace mdn {
namespace {

#if defined(__x86_64__)
const char* const names[] = {"baseline", "avx2", "avx512"};

SimdLevel best() {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? SimdLevel::avx512 : avx2 ? SimdLevel::avx2 : SimdLevel::baseline;
}
#else
// The baseline of AArch64 has NEON.
const char* const names[] = {
#if defined(__aarch64__)
    "neon"
#else
    "baseline"
#endif
};

SimdLevel best() { return SimdLevel::baseline; }
#endif

SimdLevel choose() {
  const char* wanted = std::getenv("MDNKERNELS_SIMD");
  if (wanted == nullptr || *wanted == '\0') return best();
  std::string known;
  for (int level = 0; level <= static_cast<int>(best()); ++level) {
    if (std::string(wanted) == names[level]) return static_cast<SimdLevel>(level);
    known += (known.empty() ? "" : ", ") + std::string(names[level]);
  }
  throw std::runtime_error("MDNKERNELS_SIMD must be one of the levels that this machine has (" + known + "), got '" +
                           wanted + "'");
}

}  // namespace

SimdLevel simd_level() {
  static const SimdLevel level = choose();
  return level;
}

std::string simd_level_name() { return names[static_cast<int>(simd_level())]; }

}  // namespace mdn
