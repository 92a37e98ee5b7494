// mixture_mode on the CPU: blocks of positions over threads.
#include "ops/mixture_mode/cpu.h"

#include "core/cpu/simd_level.h"
#include "core/cpu/tensors.h"
#include "core/cpu/turns.h"
#include "ops/mixture_mode/call.h"

namespace mdn {
namespace {

// Long blocks, four pages of a float row, where little is kept of each position; shorter ones where their scratch would
// leave the second-level cache, and where an index names a few positions that all threads should share.
int block_positions(const ModeCall& call) {
  if (call.index) return 64;
  int64_t values = 3 * call.components + call.scales;
  if (call.selection != Selection::weight) values += call.components * call.scales;
  if (call.selection == Selection::mean) values += (call.components + 1) * call.dims;
  int block = largest_mode_block;
  while (block > 64 && block * values * 8 > (512 << 10)) block /= 2;
  return block;
}

struct ModeOnCpu : CpuCall {
  using CpuCall::CpuCall;
  using Call = ModeCall;
  using Allowed = std::vector<unsigned char>;
  static Allowed allow(Call& call, const std::vector<int64_t>& components, const Tensor&);
  static void run(Call& call, const Tensor&);
};

ModeOnCpu::Allowed ModeOnCpu::allow(Call& call, const std::vector<int64_t>& components, const Tensor&) {
  Allowed allowed(call.components);
  for (const int64_t component : components) allowed[component] = 1;
  call.allowed = allowed.data();
  return allowed;
}

void ModeOnCpu::run(Call& call, const Tensor&) {
  call.block = block_positions(call);
  const ModeKernel& kernel = MDN_AT_SIMD_LEVEL(mode_kernel);
  const int64_t scratch_bytes = kernel.scratch_bytes(call);
  const int64_t blocks = (call.batch * call.points + call.block - 1) / call.block;
  take_turns(blocks, [&](Turns& turns) {
    const ThreadScratch scratch(scratch_bytes);
    for (int64_t block = turns.next(); block < blocks; block = turns.next()) kernel.run(call, block, scratch.get());
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mdnkernels, m) { m.def(mixture_mode_schema); }
STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CPU, m) { m.impl("mixture_mode", TORCH_BOX(&mixture_mode<ModeOnCpu>)); }

}  // namespace mdn
