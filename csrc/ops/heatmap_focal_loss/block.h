// Loss and gradient of one block of elements, for the kernels of heatmap_focal_loss and center_focal_loss, which find
// the targets in different places.
//
// Memory story: logits, and targets where they are in memory, are read once, side by side, and the gradient is written
// once, past the caches where it is large; nothing else is touched. The block goes by rows of 256 elements. A row
// without a positive, and one without any target, have a loop each that does without what these need. Values of another
// dtype than the arithmetic's go through rows that stay in the first-level cache. The losses of a row are added lane by
// lane, those of rows in double.
#pragma once

#include "ops/heatmap_focal_loss/cpu.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {

constexpr int focal_row = 256;     // elements
constexpr int focal_ahead = 1024;  // elements from those that are computed to those that are asked for
constexpr int no_loss = -10000;    // a logit whose loss at a target of 0 is exactly 0, in any arithmetic

template <class T, class Storage>
MDN_INLINE const T* converted(const void* data, int64_t begin, int count, T* row, T padding) {
  const Storage* from = static_cast<const Storage*>(data) + begin;
  for (int i = 0; i < count; ++i) convert(from[i], row[i]);
  for (int i = count; i < focal_row; ++i) row[i] = padding;
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

// Calls visit(begin, count) for each row of a block.
template <class Visit>
MDN_INLINE void over_rows(const FocalCall& call, int64_t block, Visit visit) {
  const int64_t first = block * focal_block;
  const int64_t last = first + focal_block < call.count ? first + focal_block : call.count;
  for (int64_t begin = first; begin < last; begin += focal_row) {
    visit(begin, static_cast<int>(last - begin < focal_row ? last - begin : focal_row));
  }
}

template <class T>
MDN_INLINE int count_positives(const T* target, int count) {
  Mask<T> positives = {};
  for (int i = 0; i < count; i += lanes<T>) {
    __builtin_prefetch(target + i + focal_ahead);
    positives -= load(target + i) == 1;
  }
  int sum = 0;
  for (int lane = 0; lane < lanes<T>; ++lane) sum += static_cast<int>(positives[lane]);
  return sum;
}

// What a row's targets are: all 0, none of them 1, or anything.
enum class Targets { none, background, any };

template <class T>
struct TargetRow {
  const T* values;
  Targets kind;
};

// The loss of a row, lane by lane; its slopes where `gradient` asks for them.
//
// A logit's way from e^-|logit| to its slope is some 110 cycles long. A loop over all of it would wait for that: no CPU
// holds the instructions of as many vectors as would have to be under way. So the row is walked three times.
template <class T, bool usual, bool gradient, Targets kind>
MDN_INLINE Vector<T> run_row(const FocalCall& call, const T* logits, const T* target, T* slopes, int count,
                             bool past_cache) {
  using V = Vector<T>;
  const T alpha = T(call.alpha), beta = T(call.beta), factor = T(call.gradient_factor);
  alignas(64) T e_row[focal_row], log_rest_row[focal_row];
  for (int i = 0; i < count; i += lanes<T>) {
    __builtin_prefetch(logits + i + focal_ahead);
    store(e_row + i, focal_exp<usual>(load(logits + i)));
  }
  for (int i = 0; i < count; i += lanes<T>) {
    if constexpr (kind != Targets::none) __builtin_prefetch(target + i + focal_ahead);
    store(log_rest_row + i, log1p(load(e_row + i)));
  }
  V loss = {};
  for (int i = 0; i < count; i += lanes<T>) {
    const V logit = load(logits + i), e = load(e_row + i), log_rest = load(log_rest_row + i);
    FocalTerm<V> term;
    if constexpr (kind == Targets::none) {
      term = focal_case<usual>(logit, e, log_rest, 1 + V{}, alpha);
    } else if constexpr (kind == Targets::background) {
      term = focal_background<usual>(logit, e, log_rest, load(target + i), alpha, beta);
    } else {
      term = focal_term<usual>(logit, e, log_rest, load(target + i), alpha, beta);
    }
    loss += rounded(term.loss);
    if (gradient) {
      if (past_cache) {
        store_past_cache(slopes + i, V(term.slope * factor));
      } else {
        store(slopes + i, V(term.slope * factor));
      }
    }
  }
  return loss;
}

// The loss of one block, and its gradient where it is asked for. targets(begin, count) gives the TargetRow<T> of a row.
template <class T, bool usual, bool gradient, class TargetsOf>
MDN_INLINE double run_block_as(const FocalCall& call, int64_t block, TargetsOf targets) {
  alignas(64) T logits_row[focal_row], slopes_row[focal_row];
  LaneSums<T> loss;
  over_rows(call, block, [&](int64_t begin, int count) {
    const T* logits = read_row<T>(call.logits, call.logits_dtype, begin, count, logits_row, T(no_loss));
    const bool in_place = gradient && call.logits_dtype == StorageOf<T>::dtype && count % lanes<T> == 0;
    T* slopes = in_place ? static_cast<T*>(call.gradient) + begin : slopes_row;
    const bool past_cache = in_place && call.past_cache && aligned(slopes);
    const TargetRow<T> row = targets(begin, count);
    if (row.kind == Targets::none) {
      loss.add(run_row<T, usual, gradient, Targets::none>(call, logits, row.values, slopes, count, past_cache));
    } else if (row.kind == Targets::background) {
      loss.add(run_row<T, usual, gradient, Targets::background>(call, logits, row.values, slopes, count, past_cache));
    } else {
      loss.add(run_row<T, usual, gradient, Targets::any>(call, logits, row.values, slopes, count, past_cache));
    }
    if (gradient && !in_place) write_row(call.gradient, call.logits_dtype, begin, count, slopes);
  });
  if (gradient) finish_stores();
  return loss.total();
}

template <class T, class TargetsOf>
MDN_INLINE double run_block(const FocalCall& call, int64_t block, TargetsOf targets) {
  if (call.alpha == 2 && call.beta == 4) {
    return call.gradient ? run_block_as<T, true, true>(call, block, targets)
                         : run_block_as<T, true, false>(call, block, targets);
  }
  return call.gradient ? run_block_as<T, false, true>(call, block, targets)
                       : run_block_as<T, false, false>(call, block, targets);
}

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
