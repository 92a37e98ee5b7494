// Loss and gradients of one span of positions, block by block. Built once for each instruction set.
//
// Memory story. With M components, C dimensions, S scales, Q entries of L and P positions the floor is reading
// M (1 + C + S + Q) + C values a position (and the mask) and writing M (1 + C + S + Q): 1,024 bytes for a pose of 34
// dimensions, 3 components and 2 scales in float32. Both happen once. A block of up to 256 positions keeps the slope of
// each residual, M C values a position, in scratch that stays in the second-level cache; gradients go past the caches.
//
// Reading and writing happen in one loop: where a residual's slope of the block before lies, its gradient is written
// and the new slope put in its place (Block::Pending). A vector of residuals takes 4 loads (loc, target, the slope
// before, and a quarter of what four dimensions share), 6 operations and 2 stores, where memory takes 24 cycles at 40
// GB/s. A scale takes about 75 operations a vector and a component of a position about 60; memory waits for these, so
// they are kept in short loops, several turns of which a core works on at once (cpu_combine.h).
//
// Of rows with an assigned component each that component's parameters are read alone, and its gradients written beside
// zeros: 2 (M + 1 + C + S + Q) + C values and M (C + S + Q) zeros a row.
//
// A block with nothing observed reads no parameter at all; of one wholly observed no mask is kept.
#include "mixture/correlation.h"
#include "ops/mixture_nll/cpu_combine.h"
#include "ops/mixture_nll/cpu_differentiate.h"
#include "ops/mixture_nll/cpu_standardise.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {
namespace {

template <bool masked, bool log_sigma, class T>
void read_scales(Block<T>& block) {
  switch (block.call.activation) {
    case ScaleActivation::elu:
      return read_scales<ScaleActivation::elu, masked, log_sigma>(block);
    case ScaleActivation::softplus:
      return read_scales<ScaleActivation::softplus, masked, log_sigma>(block);
    case ScaleActivation::exp:
      return read_scales<ScaleActivation::exp, masked, log_sigma>(block);
    case ScaleActivation::identity:
      return read_scales<ScaleActivation::identity, masked, log_sigma>(block);
  }
}

template <class T, class Density>
void standardise_masked_or_not(Block<T>& block, const Density& density) {
  if (block.masked) {
    standardise<true>(block, density);
  } else {
    standardise<false>(block, density);
  }
}

// Whether some sigma is so small that a subnormal residual is more than nothing beside it.
template <class T>
bool subnormal_residuals_count(const Block<T>& block) {
  const MixtureCall& call = block.call;
  Mask<T> ordinary = Vector<T>{} == Vector<T>{};
  for (int64_t ms = 0; ms < int64_t(call.evaluated) * call.scales; ++ms) {
    const T* inverse = block.work.inverse[ms];
    for (int i = 0; i < block.padded; i += lanes<T>) ordinary &= load(inverse + i) < T(1e25);
  }
  return any<T>(~ordinary);
}

template <class T, class Density>
double run_block(Block<T>& block, const Density& density, int64_t end) {
  constexpr bool log_sigma = Density::log_sigma;
  const MixtureCall& call = block.call;
  double sum = 0;
  if (block.prepare(end)) {
    sum_constants(block, log_sigma);
    if (block.masked) {
      read_scales<true, log_sigma>(block);
    } else {
      read_scales<false, log_sigma>(block);
    }
    if (subnormal_residuals_count(block)) {
      standardise_masked_or_not(block, density);
    } else {
      const FlushSubnormals flush;
      standardise_masked_or_not(block, density);
    }
    const FlushSubnormals flush;
    sum = combine(block);
    if (call.parameter_gradients || call.target_gradient) differentiate(block, log_sigma);
  } else {
    block.write_zeros();
  }
  block.finish_outputs();
  return sum;
}

int64_t scratch_bytes(const MixtureCall& call) {
  return call.double_precision ? Workspace<double>(call, nullptr).bytes : Workspace<float>(call, nullptr).bytes;
}

// Calls visit(begin, end) for the blocks of the spans that `spans` hands out, one after the other, and keeps the sum of
// what it gives for each span.
template <class T, class Visit>
void visit_blocks(const Block<T>& block, const Spans& spans, Visit visit) {
  const MixtureCall& call = block.call;
  const int64_t total = call.batch * call.points;
  for (int64_t span = spans.next(spans.turns); span < spans.count; span = spans.next(spans.turns)) {
    const int64_t end = (span + 1) * call.span < total ? (span + 1) * call.span : total;
    double sum = 0;
    for (int64_t begin = span * call.span; begin < end; begin += block.count()) sum += visit(begin, end);
    spans.sums[span] = sum;
  }
}

template <class T>
void observed_weight_of(const MixtureCall& call, const Spans& spans, void* scratch) {
  Block<T> block(call, scratch);
  visit_blocks(block, spans, [&](int64_t begin, int64_t end) { return block.observe(begin, end); });
}

template <class T>
void run_spans(const MixtureCall& call, const Spans& spans, void* scratch) {
  Block<T> block(call, scratch);
  with_density<T>(call.family, call.dimensions.block, [&](const auto& density) {
    prepare_constants(call, block.work, density.constant);
    visit_blocks(block, spans, [&](int64_t begin, int64_t end) {
      block.observe(begin, end);
      return run_block(block, density, end);
    });
    write_pending(block);
    finish_stores();
  });
}

void observed_weight(const MixtureCall& call, const Spans& spans, void* scratch) {
  if (call.double_precision) return observed_weight_of<double>(call, spans, scratch);
  observed_weight_of<float>(call, spans, scratch);
}

void run(const MixtureCall& call, const Spans& spans, void* scratch) {
  if (call.double_precision) return run_spans<double>(call, spans, scratch);
  run_spans<float>(call, spans, scratch);
}

}  // namespace

const MixtureKernel mixture_kernel = {scratch_bytes, observed_weight, run};

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
