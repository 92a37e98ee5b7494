// Loss and gradients of mixture_nll in planar maps of float32 whose mixtures are small, of sizes known at compile time.
//
// Memory story. A lane has two neighbouring positions: it reads 8 bytes of every channel, computes one position after
// the other, all in registers, and writes 8 bytes of every gradient. Nothing but the sum of the loss is shared. Two
// positions of which nothing is observed are not read. Four would take 211 registers a lane.
#pragma once

#include "ops/mixture_nll/small_mixture.cuh"

namespace mdn {
namespace device {

constexpr int small_map_threads = 128, small_map_width = 2;

template <int M, int C, bool pairs>
class SmallMaps {
  using T = float;
  using Mixture = SmallMixture<T, M, C, pairs>;
  static constexpr int width = small_map_width;
  using Numbers = Pack<T, width>;

 public:
  MDN_ON_DEVICE SmallMaps(const MixtureCall& call, const MixturePlan& plan, const MixtureNumbers<T>& numbers,
                          const AnyFamily<T>& family)
      : call_(call),
        plan_(plan),
        numbers_(numbers),
        family_(family),
        terms_(small_terms<C>(call, plan, family, dynamic_shared<T>(plan.sums + 72, 1))) {}

  // Returns this thread's part of the weighted sum of the losses.
  MDN_ON_DEVICE double run() {
    double sum = 0;
#pragma unroll 1
    for (int tile = blockIdx.x; tile < plan_.tiles; tile += static_cast<int>(gridDim.x)) {
      batch_ = quotient(tile, plan_.by_image);
      point_ = int64_t(tile - static_cast<int>(batch_) * static_cast<int>(plan_.by_image.divisor)) * plan_.positions +
               static_cast<int>(threadIdx.x) * width;
      if (point_ < call_.points) sum += static_cast<double>(take());
    }
    return sum;
  }

 private:
  // The sum of the losses of the lane's positions.
  MDN_ON_DEVICE T take() const {
    const uint32_t seen = look();
    Numbers logits[M], loc[M * C], scale[M * C], target[C], tril[M];
    if (seen != 0) {
      read(call_.logits, logits);
      read(call_.loc, loc);
      read(call_.scale, scale);
      read(call_.target, target);
      if constexpr (pairs) read(call_.tril, tril);
    }
    Numbers losses;
#pragma unroll
    for (int j = 0; j < width; ++j) {
      Mixture mixture;
      if ((seen >> (8 * j) & 0xff) != 0) {
        move(mixture.logits, logits, j), move(mixture.loc, loc, j), move(mixture.scale, scale, j);
        move(mixture.target, target, j);
        if constexpr (pairs) move(mixture.tril, tril, j);
        losses[j] = compute(point_ + j, mixture);
      } else {
        mixture.clear();
        losses[j] = 0;
      }
      move(logits, mixture.logits, j), move(loc, mixture.loc, j), move(scale, mixture.scale, j);
      move(target, mixture.target, j);
      if constexpr (pairs) move(tril, mixture.tril, j);
    }
    if (call_.parameter_gradients) {
      write(call_.grad_logits, logits);
      write(call_.grad_loc, loc);
      write(call_.grad_scale, scale);
      if constexpr (pairs) write(call_.grad_tril, tril);
    }
    if (call_.posterior.data != nullptr) write(call_.posterior, logits);
    if (call_.target_gradient) write(call_.grad_target, target);
    if (!call_.reduced) {
      store_global(reinterpret_cast<Numbers*>(static_cast<T*>(call_.loss) + batch_ * call_.points + point_), losses);
    }
    return losses[0] + losses[1];
  }

  // What is observed, a byte for each position.
  MDN_ON_DEVICE uint32_t look() const {
    uint32_t seen = 0x0101;
    if (call_.mask.data != nullptr) {
      const unsigned char* mask = static_cast<const unsigned char*>(call_.mask.data);
      const int64_t at = batch_ * call_.mask.batch_stride + point_;
      seen = ones_of(load_global(reinterpret_cast<const uint16_t*>(mask + at)));
    }
    if (call_.assigned != nullptr) {
#pragma unroll 1
      for (int j = 0; j < width; ++j) {
        if (!takes_part(call_, batch_, point_ + j)) seen &= ~(uint32_t(0xff) << (8 * j));
      }
    }
    return seen;
  }

  MDN_ON_DEVICE T compute(int64_t point, Mixture& mixture) const {
    const int64_t assigned =
        call_.assigned != nullptr ? load_global(call_.assigned + batch_ * call_.points + point) : 0;
    const T weight = call_.weight.data != nullptr
                         ? static_cast<T>(load_number(call_.weight, offset_of(call_.weight, batch_, 0, point)))
                         : T(1);
    return differentiate(call_, numbers_, family_, terms_, assigned, weight, mixture);
  }

  template <int N>
  MDN_ON_DEVICE static void move(T (&to)[N], const Numbers (&from)[N], int j) {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = from[i][j];
  }
  template <int N>
  MDN_ON_DEVICE static void move(Numbers (&to)[N], const T (&from)[N], int j) {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i][j] = from[i];
  }

  // The address of a channel's numbers at this lane's positions. A channel takes less than 2^32 bytes: is_planar
  // refuses others.
  MDN_ON_DEVICE uint64_t address_of(const View& view, int channel) const {
    const T* first = static_cast<const T*>(view.data) + batch_ * view.batch_stride + point_;
    return reinterpret_cast<uint64_t>(first) +
           uint64_t(4 * static_cast<uint32_t>(view.channel_stride)) * static_cast<uint32_t>(channel);
  }
  template <int N>
  MDN_ON_DEVICE void read(const View& view, Numbers (&numbers)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) numbers[i] = load_global(reinterpret_cast<const Numbers*>(address_of(view, i)));
  }
  template <int N>
  MDN_ON_DEVICE void write(const View& view, const Numbers (&numbers)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) store_global(reinterpret_cast<Numbers*>(address_of(view, i)), numbers[i]);
  }

  const MixtureCall& call_;
  const MixturePlan& plan_;
  const MixtureNumbers<T>& numbers_;
  const AnyFamily<T>& family_;
  const SmallTerms<T, C> terms_;
  int64_t batch_, point_;  // of the first of this lane's positions
};

template <int M, int C, bool pairs>
__global__ void __launch_bounds__(small_map_threads, 4)
    small_maps_nll(const __grid_constant__ MixtureCall call, const __grid_constant__ MixturePlan plan,
                   const __grid_constant__ MixtureNumbers<float> numbers,
                   const __grid_constant__ AnyFamily<float> family) {
  SmallMaps<M, C, pairs> maps(call, plan, numbers, family);
  finish_loss<float>(call, plan, maps.run());
}

}  // namespace device
}  // namespace mdn
