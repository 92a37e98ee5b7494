// heatmap_focal_loss on a GPU.
//
// Memory story. sum_focal_terms reads logits and target once, side by side, 16 bytes a lane, and writes the gradient
// once. The gradient needs the number of positives before its first element is written, so that count_positives reads
// the target beforehand, a third of the bytes; scaling gradients afterwards would read and write them again. The blocks
// of sum_focal_terms go from the end to the beginning: what was counted last may still lie in the second-level cache.
// Without a gradient there is one pass alone.
//
// Every share of the elements has its own place for its sums, which one block adds up in a fixed order, in double: the
// same bits every time, on every GPU.
#include "core/cuda/device.cuh"
#include "core/cuda/dispatch.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/ranges.cuh"
#include "core/cuda/sums.cuh"
#include "ops/heatmap_focal_loss/call.h"
#include "ops/heatmap_focal_loss/formula.h"

namespace mdn {
namespace device {

constexpr int focal_threads = 256;
constexpr int focal_share = 4096;  // elements of a block
constexpr int focal_total_threads = 512;

struct FocalPlan {
  int64_t count;
  double alpha, beta;

  // Each of one block. A launch has room for 2^31 - 1 of them, which are 2^43 elements.
  MDN_ON_BOTH int64_t shares() const { return (count + focal_share - 1) / focal_share; }
};

// What the kernels hand on, in device memory.
struct FocalWorkspace {
  double* divisor;     // [1]: the positives, 1 where there are none
  double* loss;        // [shares]
  int64_t* positives;  // [shares]
};

// In elements of 8 bytes.
inline int64_t focal_workspace_size(const FocalPlan& plan) { return 1 + 2 * plan.shares(); }

inline FocalWorkspace focal_workspace(const FocalPlan& plan, void* memory) {
  auto* words = static_cast<double*>(memory);
  return {words, words + 1, reinterpret_cast<int64_t*>(words + 1 + plan.shares())};
}

template <class Target, int width>
__global__ void __launch_bounds__(focal_threads)
    count_positives(const Target* target, FocalPlan plan, FocalWorkspace workspace) {
  using TargetPack = Pack<Target, width>;
  __shared__ SharedArray<int, focal_threads / warp_lanes> sums_of_warps;
  const int64_t share = blockIdx.x, first = share * focal_share;
  const Target* from = target + first;
  int positives = 0;
  over_packs<width>(
      from, static_cast<int>(min(int64_t(focal_share), plan.count - first)),
      [&](int i) {
        const TargetPack pack = load_global(reinterpret_cast<const TargetPack*>(from + i));
        for (int j = 0; j < width; ++j) positives += to_number(pack[j]) == 1;
      },
      [&](int i) { positives += to_number(load_global(from + i)) == 1; });
  const int total = sum_of_block(positives, sums_of_warps);
  if (threadIdx.x == 0) store_global(workspace.positives + share, int64_t(total));
}

__global__ void __launch_bounds__(focal_total_threads) find_focal_divisor(FocalPlan plan, FocalWorkspace workspace) {
  __shared__ SharedArray<int64_t, focal_total_threads / warp_lanes> sums_of_warps;
  int64_t positives = 0;
  for (int64_t share = threadIdx.x; share < plan.shares(); share += focal_total_threads) {
    positives += load_global(workspace.positives + share);
  }
  positives = sum_of_block(positives, sums_of_warps);
  if (threadIdx.x == 0) store_global(workspace.divisor, positives > 0 ? static_cast<double>(positives) : 1.0);
}

// Blocks of a multiprocessor, as a bound of registers: with eight elements a thread the compiler aims at six blocks of
// itself, on sm_90, and spills for it. 0 leaves it the choice.
template <int width>
constexpr int focal_blocks = width == 8 ? 4 : 0;

// `gradient` is null where it is not wanted; the positives are counted here then. `usual`: alpha = 2 and beta = 4.
template <class Logits, class Target, int width, bool usual>
__global__ void __launch_bounds__(focal_threads, focal_blocks<width>)
    sum_focal_terms(const Logits* logits, const Target* target, Logits* gradient, FocalPlan plan,
                    FocalWorkspace workspace) {
  using T = typename ArithmeticOf<Logits>::Type;
  using LogitsPack = Pack<Logits, width>;
  using TargetPack = Pack<Target, width>;
  __shared__ SharedArray<double, focal_threads / warp_lanes> losses_of_warps;
  __shared__ SharedArray<int, focal_threads / warp_lanes> positives_of_warps;
  const T alpha = static_cast<T>(plan.alpha), beta = static_cast<T>(plan.beta);
  const T factor = gradient != nullptr ? static_cast<T>(1 / load_global(workspace.divisor)) : T(1);
  const int64_t share = plan.shares() - 1 - blockIdx.x, first = share * focal_share;
  double loss = 0;
  int positives = 0;
  const auto slope_of = [&](Logits logit, Target wanted) {
    const T value = to_number(wanted);
    const T here = to_number(logit), e = focal_exp<usual>(here);
    const FocalTerm<T> term = focal_term<usual>(here, e, log1p(e), value, alpha, beta);
    loss += static_cast<double>(term.loss);
    positives += value == 1;
    Logits slope;
    to_element(term.slope * factor, slope);
    return slope;
  };
  over_packs<width, 1>(
      logits + first, static_cast<int>(min(int64_t(focal_share), plan.count - first)),
      [&](int i) {
        const LogitsPack here = load_global(reinterpret_cast<const LogitsPack*>(logits + first + i));
        const TargetPack wanted = load_global(reinterpret_cast<const TargetPack*>(target + first + i));
        LogitsPack slopes;
        for (int j = 0; j < width; ++j) slopes[j] = slope_of(here[j], wanted[j]);
        if (gradient != nullptr) store_global(reinterpret_cast<LogitsPack*>(gradient + first + i), slopes);
      },
      [&](int i) {
        const Logits slope = slope_of(load_global(logits + first + i), load_global(target + first + i));
        if (gradient != nullptr) store_global(gradient + first + i, slope);
      });
  const double total = sum_of_block(loss, losses_of_warps);
  if (threadIdx.x == 0) store_global(workspace.loss + share, total);
  if (gradient == nullptr) {
    const int all = sum_of_block(positives, positives_of_warps);
    if (threadIdx.x == 0) store_global(workspace.positives + share, int64_t(all));
  }
}

template <class T>
__global__ void __launch_bounds__(focal_total_threads)
    finish_focal_loss(FocalPlan plan, FocalWorkspace workspace, T* loss) {
  __shared__ SharedArray<double, focal_total_threads / warp_lanes> sums_of_warps;
  double sum = 0;
  for (int64_t share = threadIdx.x; share < plan.shares(); share += focal_total_threads) {
    sum += load_global(workspace.loss + share);
  }
  sum = sum_of_block(sum, sums_of_warps);
  if (threadIdx.x == 0) store_global(loss, static_cast<T>(sum / load_global(workspace.divisor)));
}

}  // namespace device

struct FocalCall {
  DType logits_dtype, target_dtype;
  const void *logits, *target;  // walked in the order of memory, which is the same for both
  void* gradient;               // of logits' dtype; null where it is not wanted
  void* loss;
  int64_t count;
  double alpha, beta;
};

template <class Logits, class Target, class Launch>
void run_focal_loss_as(const FocalCall& call, const device::FocalPlan& plan, const device::FocalWorkspace& workspace,
                       Launch launch) {
  using namespace device;
  using T = typename ArithmeticOf<Logits>::Type;
  constexpr int width = pack_width<Logits> < pack_width<Target> ? pack_width<Logits> : pack_width<Target>;
  const auto* logits = static_cast<const Logits*>(call.logits);
  const auto* target = static_cast<const Target*>(call.target);
  auto* gradient = static_cast<Logits*>(call.gradient);
  const bool aligned = (reinterpret_cast<uintptr_t>(logits) | reinterpret_cast<uintptr_t>(target) |
                        reinterpret_cast<uintptr_t>(gradient)) %
                           16 ==
                       0;
  const int shares = static_cast<int>(plan.shares());
  if (gradient != nullptr && shares > 0) {
    launch(aligned ? count_positives<Target, width> : count_positives<Target, 1>, shares, focal_threads, 0, target,
           plan, workspace);
    launch(find_focal_divisor, 1, focal_total_threads, 0, plan, workspace);
  }
  if (shares > 0) {
    auto* kernel = sum_focal_terms<Logits, Target, 1, false>;
    const bool usual = plan.alpha == 2 && plan.beta == 4;
    if (usual) kernel = sum_focal_terms<Logits, Target, 1, true>;
    if (aligned) kernel = sum_focal_terms<Logits, Target, width, false>;
    if (aligned && usual) kernel = sum_focal_terms<Logits, Target, width, true>;
    launch(kernel, shares, focal_threads, 0, logits, target, gradient, plan, workspace);
  }
  if (gradient == nullptr || shares == 0) launch(find_focal_divisor, 1, focal_total_threads, 0, plan, workspace);
  launch(finish_focal_loss<T>, 1, focal_total_threads, 0, plan, workspace, static_cast<T*>(call.loss));
}

// The launches of a call: launch(kernel, blocks, threads, shared bytes, arguments...).
template <class Launch>
void run_focal_loss(const FocalCall& call, const device::FocalPlan& plan, const device::FocalWorkspace& workspace,
                    Launch launch) {
  with_element_type(call.logits_dtype, [&](auto type) {
    using Logits = typename decltype(type)::Type;
    if (call.logits_dtype == call.target_dtype) {
      run_focal_loss_as<Logits, Logits>(call, plan, workspace, launch);
    } else if constexpr (sizeof(Logits) == 2) {
      run_focal_loss_as<Logits, float>(call, plan, workspace, launch);
    }
  });
}

namespace {

struct FocalOnGpu : DeviceCall {
  using DeviceCall::DeviceCall;
  using Call = FocalCall;
  void run(Call& call, const Tensor& loss) const;
};

void FocalOnGpu::run(Call& call, const Tensor& loss) const {
  call.loss = address_of(loss);
  const device::FocalPlan plan = {call.count, call.alpha, call.beta};
  const Tensor memory = fresh(loss, {device::focal_workspace_size(plan)}, ScalarType::Double);
  run_focal_loss(call, plan, device::focal_workspace(plan, address_of(memory)), Launcher{*this, "heatmap_focal_loss"});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) {
  m.impl("heatmap_focal_loss", TORCH_BOX(&heatmap_focal_loss<FocalOnGpu>));
}

}  // namespace mdn
