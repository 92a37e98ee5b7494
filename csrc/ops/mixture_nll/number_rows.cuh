// Loss and gradients of mixture_nll of one dimension and one scale, in rows of few components: (N, M) each of logits,
// loc and scale beside N targets, float32.
//
// Memory story. A lane has a row and all of its components in registers; a warp takes 128 rows, 32 at a time. It reads
// them number by number: the lanes' rows follow one another, and the first-level cache gives a sector's other numbers.
// The gradients of 128 rows meet in shared memory and leave 16 bytes a lane, in the order in which they lie there.
#pragma once

#include "ops/mixture_nll/positions.cuh"

namespace mdn {
namespace device {

constexpr int number_warps = 4, rows_of_warp = 4 * warp_lanes;

template <int M>
class NumberRows {
  using T = float;

 public:
  MDN_ON_DEVICE NumberRows(const MixtureCall& call, const MixturePlan& plan, const MixtureNumbers<T>& numbers,
                           const AnyFamily<T>& family)
      : call_(call),
        plan_(plan),
        numbers_(numbers),
        family_(family),
        rows_(dynamic_shared<T>(first_byte(), 3 * M * rows_of_warp)),
        packs_(dynamic_shared<Pack<T, 4>>(first_byte(), 3 * M * rows_of_warp / 4)) {}

  // Returns this thread's part of the weighted sum of the losses.
  MDN_ON_DEVICE double run() {
    const DynamicSharedArray<T> factor = dynamic_shared<T>(plan_.sums + 72, 1);
    if (threadIdx.x < warp_lanes) {
      const double divisor = divisor_of(plan_);
      if (threadIdx.x == 0) factor[0] = static_cast<T>(1 / divisor);
    }
    __syncthreads();
    factor_ = factor[0];
    kappa_ = call_.dim_scale != nullptr ? load_global(static_cast<const T*>(call_.dim_scale)) : T(1);
    inverse_kappa_ = 1 / kappa_;
    constant_ = family_.constant + (family_.log_sigma && call_.dim_scale != nullptr ? log(kappa_) : T(0));
    batch_ = quotient(blockIdx.x, plan_.by_image);
    first_ =
        int64_t(static_cast<int>(blockIdx.x) - static_cast<int>(batch_) * static_cast<int>(plan_.by_image.divisor)) *
            plan_.positions +
        threadIdx.x / warp_lanes * rows_of_warp;
    const int lane = threadIdx.x % warp_lanes,
              count = static_cast<int>(min(int64_t(rows_of_warp), call_.points - first_));
    double sum = 0;
#pragma unroll 1
    for (int row = lane; row < count; row += warp_lanes) sum += static_cast<double>(take(row));
    __syncwarp();
    if (call_.parameter_gradients && count > 0) {
      write(call_.grad_logits, 0, count);
      write(call_.grad_loc, 1, count);
      write(call_.grad_scale, 2, count);
    }
    return sum;
  }

 private:
  MDN_ON_DEVICE int first_byte() const {
    return plan_.rows + static_cast<int>(threadIdx.x) / warp_lanes * (3 * M * rows_of_warp * 4);
  }

  // Where row `row` of the warp begins; the numbers of a row lie side by side.
  MDN_ON_DEVICE const T* row_of(const View& view, int row) const {
    return static_cast<const T*>(view.data) + batch_ * view.batch_stride + (first_ + row) * M;
  }

  MDN_ON_DEVICE void keep(int tensor, int row, int m, T gradient) const {
    rows_[(tensor * rows_of_warp + row) * M + m] = gradient;
  }

  struct Components {
    const T *logits, *parts;
    MDN_ON_DEVICE T logit(int m) const { return logits[m]; }
    MDN_ON_DEVICE T part(int m) const { return parts[m]; }
  };

  // The loss of a row, times its weight, and its gradients.
  MDN_ON_DEVICE T take(int row) const {
    const int64_t point = first_ + row, at = batch_ * call_.points + point;
    const View& mask = call_.mask;
    const bool observed = takes_part(call_, batch_, point) &&
                          (mask.data == nullptr || load_global(static_cast<const unsigned char*>(mask.data) +
                                                               offset_of(mask, batch_, 0, point)) != 0);
    T loss = 0, of_target = 0;
    if (observed) {
      loss = compute(row, point, call_.assigned != nullptr ? load_global(call_.assigned + at) : 0, of_target);
    } else {
#pragma unroll
      for (int m = 0; m < M; ++m) keep(0, row, m, 0), keep(1, row, m, 0), keep(2, row, m, 0);
    }
    if (!call_.reduced) store_global(static_cast<T*>(call_.loss) + at, loss);
    if (call_.target_gradient) {
      store_global(static_cast<T*>(call_.grad_target.data) + offset_of(call_.grad_target, batch_, 0, point), of_target);
    }
    return loss;
  }

  MDN_ON_DEVICE T compute(int row, int64_t point, int64_t assigned, T& of_target) const {
    const T *logits_at = row_of(call_.logits, row), *loc_at = row_of(call_.loc, row),
            *scale_at = row_of(call_.scale, row);
    const T target = load_global(static_cast<const T*>(call_.target.data) + offset_of(call_.target, batch_, 0, point));
    T logits[M], loc[M], raw[M];
#pragma unroll
    for (int m = 0; m < M; ++m) {
      logits[m] = load_global(logits_at + m);
      loc[m] = load_global(loc_at + m);
      raw[m] = load_global(scale_at + m);
    }
    T inverse[M], relative[M], parts[M], slopes[M], powers[M];
    const T counted = family_.log_sigma ? T(1) : T(0);
    LogScale<T> terms[M];
    find_scale_terms(call_.activation, raw, numbers_, terms);
#pragma unroll
    for (int m = 0; m < M; ++m) {
      inverse[m] = terms[m].inverse;
      relative[m] = terms[m].ratio;
      powers[m] = 1;
      parts[m] = -counted * terms[m].log_sigma;
    }
    if (numbers_.power != 0) {
#pragma unroll
      for (int m = 0; m < M; ++m) {
        const T power = exp(numbers_.power * terms[m].log_sigma);
        relative[m] *= power * numbers_.scale_factor;
        powers[m] = power * numbers_.loc_factor;
      }
    }
    family_.families.visit(family_.number, [&](const auto& type) {
#pragma unroll
      for (int m = 0; m < M; ++m) {
        const T own = inverse[m] * inverse_kappa_, z = (target - loc[m]) * own;
        parts[m] -= type.value(z, own);
        slopes[m] = type.slope(z, own);
        relative[m] *= counted - type.pull(z, own);
      }
      return T(0);
    });
    const T weight = call_.weight.data != nullptr
                         ? static_cast<T>(load_number(call_.weight, offset_of(call_.weight, batch_, 0, point)))
                         : T(1);
    const T factor = factor_ * weight, of_loc = -(call_.objective.natural ? kappa_ : inverse_kappa_);
    const Components components = {logits, parts};
    const T loss = Posterior<T, M, Components>(call_, numbers_, components).find(assigned, [&](int m, T r, T gradient) {
      // A component without a share has no gradients, whatever it holds.
      const T share = r * factor, pull = share != 0 ? share * inverse[m] * slopes[m] : T(0);
      of_target += pull;
      keep(0, row, m, gradient * factor);
      keep(1, row, m, pull * (of_loc * powers[m]));
      keep(2, row, m, share != 0 ? share * relative[m] : T(0));
    });
    of_target *= inverse_kappa_;
    return (loss + constant_) * weight;
  }

  // Writes the gradients of one tensor.
  MDN_ON_DEVICE void write(const View& view, int tensor, int count) const {
    T* to = static_cast<T*>(view.data) + batch_ * view.batch_stride + first_ * M;
    const int lane = threadIdx.x % warp_lanes, first = tensor * rows_of_warp * M;
    if (count == rows_of_warp) {
#pragma unroll
      for (int i = 0; i < M; ++i) {
        const Pack<T, 4> pack = packs_[first / 4 + i * warp_lanes + lane];
        store_global(reinterpret_cast<Pack<T, 4>*>(to) + i * warp_lanes + lane, pack);
      }
    } else {
#pragma unroll 1
      for (int i = lane; i < count * M; i += warp_lanes) {
        const T gradient = rows_[first + i];
        store_global(to + i, gradient);
      }
    }
  }

  const MixtureCall& call_;
  const MixturePlan& plan_;
  const MixtureNumbers<T>& numbers_;
  const AnyFamily<T>& family_;
  T factor_, kappa_, inverse_kappa_, constant_;
  int64_t batch_, first_;
  const DynamicSharedArray<T> rows_;            // [logits, loc, scale][rows of the warp][M]
  const DynamicSharedArray<Pack<T, 4>> packs_;  // the same memory
};

template <int M>
__global__ void __launch_bounds__(number_warps* warp_lanes, 4)
    number_rows_nll(const __grid_constant__ MixtureCall call, const __grid_constant__ MixturePlan plan,
                    const __grid_constant__ MixtureNumbers<float> numbers,
                    const __grid_constant__ AnyFamily<float> family) {
  NumberRows<M> rows(call, plan, numbers, family);
  finish_loss<float>(call, plan, rows.run());
}

}  // namespace device
}  // namespace mdn
