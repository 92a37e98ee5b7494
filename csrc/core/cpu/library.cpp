// What belongs to no op: of which sources the library was built, which SIMD level runs, and memory that is kept.
#include <torch/csrc/stable/library.h>

#include <string>

#include "core/cpu/memory.h"
#include "core/cpu/simd_level.h"

#if defined(MDN_SOURCES)  // see mdnkernels/native/sources.py
extern "C" __attribute__((used)) const char mdnkernels_cpu_sources[] = "mdnkernels sources " MDN_SOURCES;
#endif

STABLE_TORCH_LIBRARY_FRAGMENT(mdnkernels, m) {
  m.def("simd_level() -> str");
  // Freed blocks of memory that are kept for the next large outputs: their bytes, and giving them back.
  m.def("kept_bytes() -> int");
  m.def("release_kept_blocks() -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CompositeExplicitAutograd, m) {
  m.impl("simd_level", TORCH_BOX(&mdn::simd_level_name));
  m.impl("kept_bytes", TORCH_BOX(&mdn::kept_bytes));
  m.impl("release_kept_blocks", TORCH_BOX(&mdn::release_kept_blocks));
}
