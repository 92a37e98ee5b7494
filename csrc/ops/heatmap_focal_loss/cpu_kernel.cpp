// Loss and gradient of one block of elements. Built once for each instruction set.
//
// Memory story: logits and target are read once, side by side, and the gradient is written once, past the caches where
// it is large; nothing else is touched. Values of another dtype than the arithmetic's go through rows of 256 that stay
// in the first-level cache. Losses are added up in double, lane by lane.
#include "ops/heatmap_focal_loss/cpu.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {
namespace {

constexpr int row_length = 256;
constexpr int no_loss = -10000;  // a logit whose loss at a target of 0 is exactly 0, in any arithmetic

template <class T, class Storage>
MDN_INLINE const T* converted(const void* data, int64_t begin, int count, T* row, T padding) {
  const Storage* from = static_cast<const Storage*>(data) + begin;
  for (int i = 0; i < count; ++i) convert(from[i], row[i]);
  for (int i = count; i < row_length; ++i) row[i] = padding;
  return row;
}

// `count` elements from `begin` on: in place where they are of type T and fill whole vectors, else copied into `row`,
// followed by `padding`.
template <class T>
MDN_INLINE const T* read_row(const void* data, DType dtype, int64_t begin, int count, T* row, T padding) {
  if constexpr (sizeof(T) == 4) {
    if (dtype == DType::bfloat16) return converted<T, BFloat16>(data, begin, count, row, padding);
    if (dtype == DType::float16) return converted<T, Float16>(data, begin, count, row, padding);
  }
  if (count % lanes<T> == 0) return static_cast<const T*>(data) + begin;
  return converted<T, T>(data, begin, count, row, padding);
}

template <class T, class Storage>
MDN_INLINE void write_row_as(void* data, int64_t begin, int count, const T* row) {
  Storage* to = static_cast<Storage*>(data) + begin;
  for (int i = 0; i < count; ++i) convert(row[i], to[i]);
}

template <class T>
MDN_INLINE void write_row(void* data, DType dtype, int64_t begin, int count, const T* row) {
  if constexpr (sizeof(T) == 4) {
    if (dtype == DType::bfloat16) return write_row_as<T, BFloat16>(data, begin, count, row);
    if (dtype == DType::float16) return write_row_as<T, Float16>(data, begin, count, row);
  }
  write_row_as<T, T>(data, begin, count, row);
}

template <class T>
int64_t sum_of_lanes(Mask<T> counts) {
  int64_t sum = 0;
  for (int lane = 0; lane < lanes<T>; ++lane) sum += counts[lane];
  return sum;
}

// Calls visit(begin, count) for each row of a block.
template <class Visit>
MDN_INLINE void over_rows(const FocalCall& call, int64_t block, Visit visit) {
  const int64_t first = block * focal_block;
  const int64_t last = first + focal_block < call.count ? first + focal_block : call.count;
  for (int64_t begin = first; begin < last; begin += row_length) {
    visit(begin, static_cast<int>(last - begin < row_length ? last - begin : row_length));
  }
}

template <class T>
int64_t count_positives_as(const FocalCall& call, int64_t block) {
  T target_row[row_length];
  Mask<T> positives = {};
  over_rows(call, block, [&](int64_t begin, int count) {
    const T* target = read_row<T>(call.target, call.target_dtype, begin, count, target_row, T(0));
    for (int i = 0; i < count; i += lanes<T>) positives -= load(target + i) == 1;
  });
  return sum_of_lanes<T>(positives);
}

template <class T, bool usual, bool gradient>
FocalSum run_as(const FocalCall& call, int64_t block) {
  using V = Vector<T>;
  constexpr int step = lanes<T>;
  alignas(64) T logits_row[row_length], target_row[row_length], gradient_row[row_length];
  LaneSums<T> loss;
  Mask<T> positives = {};
  const T alpha = T(call.alpha), beta = T(call.beta), factor = T(call.gradient_factor);
  over_rows(call, block, [&](int64_t begin, int count) {
    const T* logits = read_row<T>(call.logits, call.logits_dtype, begin, count, logits_row, T(no_loss));
    const T* target = read_row<T>(call.target, call.target_dtype, begin, count, target_row, T(0));
    const bool in_place = gradient && call.logits_dtype == StorageOf<T>::dtype && count % step == 0;
    T* slopes = in_place ? static_cast<T*>(call.gradient) + begin : gradient_row;
    const bool past_cache = in_place && call.past_cache && aligned(slopes);
    for (int i = 0; i < count; i += step) {
      const V wanted = load(target + i);
      const Mask<T> positive = wanted == 1;
      FocalTerm<V> term;
      if (__builtin_expect(any<T>(positive), 0)) {
        term = focal_term<usual>(load(logits + i), wanted, alpha, beta);
        positives -= positive;
      } else {
        term = focal_background<usual>(load(logits + i), wanted, alpha, beta);
      }
      loss.add(term.loss);
      if (gradient) {
        if (past_cache) {
          store_past_cache(slopes + i, V(term.slope * factor));
        } else {
          store(slopes + i, V(term.slope * factor));
        }
      }
    }
    if (gradient && !in_place) write_row(call.gradient, call.logits_dtype, begin, count, slopes);
  });
  if (gradient) finish_stores();
  return {loss.total(), sum_of_lanes<T>(positives)};
}

int64_t count_positives(const FocalCall& call, int64_t block) {
  return call.double_precision ? count_positives_as<double>(call, block) : count_positives_as<float>(call, block);
}

template <class T>
FocalSum run_in(const FocalCall& call, int64_t block) {
  const bool usual = call.alpha == 2 && call.beta == 4;
  if (call.gradient) return usual ? run_as<T, true, true>(call, block) : run_as<T, false, true>(call, block);
  return usual ? run_as<T, true, false>(call, block) : run_as<T, false, false>(call, block);
}

FocalSum run(const FocalCall& call, int64_t block) {
  return call.double_precision ? run_in<double>(call, block) : run_in<float>(call, block);
}

}  // namespace

const FocalKernel focal_kernel = {count_positives, run};

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
