// Loss and gradient of one block of elements, whose targets lie in memory. Built once for each instruction set.
#include "ops/heatmap_focal_loss/block.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {
namespace {

template <class T>
int64_t count_positives_as(const FocalCall& call, int64_t block) {
  T row[focal_row];
  int64_t positives = 0;
  over_rows(call, block, [&](int64_t begin, int count) {
    positives += count_positives(read_row<T>(call.target, call.target_dtype, begin, count, row, T(0)), count);
  });
  return positives;
}

template <class T>
FocalSum run_as(const FocalCall& call, int64_t block, bool any_positives) {
  T row[focal_row];
  int64_t positives = 0;
  const double loss = run_block<T>(call, block, [&](int64_t begin, int count) {
    const T* target = read_row<T>(call.target, call.target_dtype, begin, count, row, T(0));
    const int here = any_positives ? count_positives(target, count) : 0;
    positives += here;
    return TargetRow<T>{target, here > 0 ? Targets::any : Targets::background};
  });
  return {loss, positives};
}

int64_t count_positives(const FocalCall& call, int64_t block) {
  return call.double_precision ? count_positives_as<double>(call, block) : count_positives_as<float>(call, block);
}

FocalSum run(const FocalCall& call, int64_t block, bool any_positives) {
  return call.double_precision ? run_as<double>(call, block, any_positives) : run_as<float>(call, block, any_positives);
}

}  // namespace

const FocalKernel focal_kernel = {count_positives, run};

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
