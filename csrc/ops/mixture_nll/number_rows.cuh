// Loss and gradients of mixture_nll of one dimension and one scale, in rows of few components: (N, M) each of logits,
// loc and scale beside N targets, float32.
//
// Memory story. A lane has a row and all of its components in registers; a warp takes 128 rows, 32 at a time. It reads
// them number by number: the lanes' rows follow one another, and the first-level cache gives a sector's other numbers.
// The gradients of 128 rows meet in shared memory and leave 16 bytes a lane, in the order in which they lie there.
#pragma once

#include "ops/mixture_nll/small_mixture.cuh"

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
        terms_(small_terms<1>(call, plan, family, dynamic_shared<T>(plan.sums + 72, 1))),
        rows_(dynamic_shared<T>(first_byte(), 3 * M * rows_of_warp)),
        packs_(dynamic_shared<Pack<T, 4>>(first_byte(), 3 * M * rows_of_warp / 4)) {}

  // Returns this thread's part of the weighted sum of the losses.
  MDN_ON_DEVICE double run() {
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

  // The numbers of row `row` of the warp, which lie side by side.
  MDN_ON_DEVICE void read(const View& view, int row, T (&numbers)[M]) const {
    const T* from = static_cast<const T*>(view.data) + batch_ * view.batch_stride + (first_ + row) * M;
#pragma unroll
    for (int m = 0; m < M; ++m) numbers[m] = load_global(from + m);
  }

  MDN_ON_DEVICE void keep(int row, const T (&logits)[M], const T (&loc)[M], const T (&scale)[M]) const {
    const T* const of_tensors[] = {logits, loc, scale};
#pragma unroll
    for (int tensor = 0; tensor < 3; ++tensor) {
#pragma unroll
      for (int m = 0; m < M; ++m) rows_[(tensor * rows_of_warp + row) * M + m] = of_tensors[tensor][m];
    }
  }

  // The loss of a row, times its weight, and its gradients.
  MDN_ON_DEVICE T take(int row) const {
    const int64_t point = first_ + row, at = batch_ * call_.points + point;
    const View& mask = call_.mask;
    const bool observed = takes_part(call_, batch_, point) &&
                          (mask.data == nullptr || load_global(static_cast<const unsigned char*>(mask.data) +
                                                               offset_of(mask, batch_, 0, point)) != 0);
    T loss = 0, of_target = 0;
    if (observed) {
      SmallMixture<T, M, 1, false> mixture;
      read(call_.logits, row, mixture.logits);
      read(call_.loc, row, mixture.loc);
      read(call_.scale, row, mixture.scale);
      mixture.target[0] =
          load_global(static_cast<const T*>(call_.target.data) + offset_of(call_.target, batch_, 0, point));
      const int64_t assigned = call_.assigned != nullptr ? load_global(call_.assigned + at) : 0;
      const T weight = call_.weight.data != nullptr
                           ? static_cast<T>(load_number(call_.weight, offset_of(call_.weight, batch_, 0, point)))
                           : T(1);
      loss = differentiate(call_, numbers_, family_, terms_, assigned, weight, mixture);
      keep(row, mixture.logits, mixture.loc, mixture.scale);
      of_target = mixture.target[0];
    } else {
      const T zeros[M] = {};
      keep(row, zeros, zeros, zeros);
    }
    if (!call_.reduced) store_global(static_cast<T*>(call_.loss) + at, loss);
    if (call_.target_gradient) {
      store_global(static_cast<T*>(call_.grad_target.data) + offset_of(call_.grad_target, batch_, 0, point), of_target);
    }
    return loss;
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
  const SmallTerms<T, 1> terms_;
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
