// What the kernels of mixture_nll share: a call, how it is cut into tiles, and all that a tile's positions go through
// once their components are known: counts of what is observed, the posterior, the loss and its sum.
#pragma once

#include <cmath>

#include "core/cuda/rows.cuh"
#include "core/cuda/sums.cuh"
#include "mixture/correlation.h"
#include "mixture/dimensions.h"
#include "mixture/objective.h"
#include "mixture/scale.h"

namespace mdn {

struct MixtureCall {
  // Views of (B, channels, points). With an index, logits, loc, scale and tril are read at its points; all else, the
  // gradients included, has a point for each entry of the index.
  TileView logits, loc, scale, target, tril, weight;  // tril and weight may be absent: data is null
  TileView grad_logits, grad_loc, grad_scale, grad_target, grad_tril;
  TileView posterior;       // (B, M, points), where it is all that is wanted
  const int64_t* assigned;  // (B, points), contiguous, for Assign::given
  View mask;                // (B, G, points); absent where all is observed: data is null
  const int64_t* index;     // (B, points), contiguous, or null; -1 is padding, where nothing is observed
  void* loss;               // one number, or (B, points), contiguous, where it is not reduced
  bool reduced;             // else the loss of each position is wanted
  bool mean;                // of all positions with something observed; else their sum
  bool parameter_gradients, target_gradient;
  const void* dim_scale;  // [dims] of the arithmetic type, or null
  int64_t batch, points;
  int components, dims, scales;
  Dimensions dimensions;
  Objective objective;
  Family family;
  ScaleActivation activation;
  double min_scale;
};

// Where staged.cuh keeps the numbers of a tile, each row after the one before. Those of a tensor's channels have a row
// for each position, all others one for each channel.
struct StagedRows {
  int loc, loc_stride;        // [positions][M C] in the end their gradients; in between standardised residuals z
  int scale, scale_stride;    // [positions][M S] 1 / sigma; in the end their gradients
  int logits, logits_stride;  // [positions][M] in the end their gradients, or the posterior
  int target, target_stride;  // [positions][C] in the end its gradient
  int tril, tril_stride;      // [positions][M Q] in the end its gradient
  int slopes, pulls;          // [positions][M C] of correlated dimensions: g = dv / dw, and h = dv / dz
  int parts;                  // [M][positions] log phi; in the end r times the position's factor
  int relative;               // [M S][positions] what r times the factor gives the gradient of the raw scale
  int pulled;                 // [M S][positions] sums of the scale's pulls
  int counts;                 // [S + 1][positions] observed dimensions of each scale, and of all
  int end;
};

// A tensor of which staged.cuh keeps a tile's rows, one for each position.
struct StagedTensor {
  TileView view;
  int at, stride;  // where the rows begin, in numbers, and how far they are apart
  Divisor channels;
};

// How a call is launched. A block takes a tile of positions of one image; a warp takes 32 lanes' positions and one
// component after the other.
struct MixturePlan {
  int positions;     // of a tile
  int warps;         // that share the components of the same positions
  int tiles;         // of the call
  int blocks;        // of a launch
  int threads;       // of a block
  Divisor by_image;  // the tiles of an image
  Divisor by_warps, by_groups, by_group_dims, by_scales, by_of_scale;
  bool masked;               // whether anything may be unobserved
  bool mask_packed;          // whether four bytes of the mask, of neighbouring positions, move as one
  bool mask_along_channels;  // whether its groups lie side by side
  bool scales_in_pairs;      // whether dimensions of scales 2 n and 2 n + 1 are neighbours that are observed together
  int64_t loc_step, target_step, to_step;  // of planar.cuh: the same in bytes, of loc, target and the gradient of loc
  int step;                                // from a dimension to the next of the same scale
  int of_scale;                            // dimensions of a scale
  int entries;                             // of L in a block of dimensions
  double known_divisor;                    // what the loss is divided by, where it is not counted
  int counting_tiles;                      // in which it is counted
  Divisor by_counting_image;
  int counting_blocks;  // whose parts add up to it; 0 where it is known
  // Where things begin in shared memory, in bytes.
  int sums, dims, seen, counts, parts, kept, rows, tril, shared;
  // Of staged.cuh: what is read into rows and written out of them, and where the rows of a tile begin, in numbers.
  StagedTensor inputs[5], outputs[5];
  int input_count, output_count;
  StagedRows staged;
  // In the workspace, as place_workspace points them.
  double* counted;        // [counting_blocks]
  double* partial;        // [blocks of the launch]; null where the loss is not reduced
  unsigned* ticket;       // how many blocks have added their part of the loss
  unsigned char* memory;  // a block's rows each, where they do not fit into shared memory
  int row_bytes;          // of a block there, or in planar.cuh of the warps that have the same positions
};

// Numbers of a call in the type of the arithmetic.
template <class T>
struct MixtureNumbers {
  bool few;  // dimensions to a scale, so that an approximate logarithm of it is enough
  T min_scale, log_min_scale, temperature, inverse_temperature, power, loc_factor, scale_factor;
  explicit MixtureNumbers(const MixtureCall& call)
      : few(call.dims <= 4 * call.scales),
        min_scale(T(call.min_scale)),
        log_min_scale(T(std::log(call.min_scale))),
        temperature(T(call.objective.temperature)),
        inverse_temperature(T(1 / call.objective.temperature)),
        power(T(call.objective.power)),
        loc_factor(T(call.objective.loc_factor)),
        scale_factor(T(call.objective.scale_factor)) {}
};

namespace device {

// A number of a companion of the parameters: of their type, or float32 beside half precision.
MDN_ON_DEVICE double load_number(const View& view, int64_t offset) {
  switch (view.dtype) {
    case DType::float64:
      return load_global(static_cast<const double*>(view.data) + offset);
    case DType::bfloat16:
      return to_number(load_global(static_cast<const __nv_bfloat16*>(view.data) + offset));
    case DType::float16:
      return to_number(load_global(static_cast<const __half*>(view.data) + offset));
    default:
      return load_global(static_cast<const float*>(view.data) + offset);
  }
}

MDN_ON_DEVICE int64_t offset_of(const View& view, int64_t batch, int channel, int64_t point) {
  return batch * view.batch_stride + channel * view.channel_stride + point * view.point_stride;
}

// 1 in each byte of a word that is not 0.
MDN_ON_DEVICE uint32_t ones_of(uint32_t word) {
  constexpr uint32_t low = 0x7f7f7f7f;
  return ((((word & low) + low) | word) >> 7) & 0x01010101;
}

// Whether any dimension may be observed at a point: neither its index nor its assignment leaves it out.
MDN_ON_DEVICE bool takes_part(const MixtureCall& call, int64_t batch, int64_t point) {
  const int64_t at = batch * call.points + point;
  return (call.index == nullptr || load_global(call.index + at) >= 0) &&
         (call.assigned == nullptr || load_global(call.assigned + at) >= 0);
}

// What a density asks of a scale, in the GPU's own instructions for 1 / x and, of a `few` dimensions, log x.
template <class T>
MDN_ON_DEVICE LogScale<T> scale_terms(ScaleActivation activation, T raw, const MixtureNumbers<T>& numbers, bool few) {
  if (activation == ScaleActivation::exp) return log_scale_of_exp<T, T>(raw, numbers.log_min_scale);
  const Scale<T> scale = activate<T, T>(activation, raw, numbers.min_scale);
  const T inverse = reciprocal(scale.sigma);
  return {inverse, few ? log_of_few(scale.sigma) : log(scale.sigma), scale.derivative * inverse};
}

// The terms of N scales. Which activation they have is asked once for all.
template <class T, int N>
MDN_ON_DEVICE void find_scale_terms(ScaleActivation activation, const T (&raw)[N], const MixtureNumbers<T>& numbers,
                                    bool few, LogScale<T> (&terms)[N]) {
  const auto find = [&](ScaleActivation known) {
#pragma unroll
    for (int i = 0; i < N; ++i) terms[i] = scale_terms<T>(known, raw[i], numbers, few);
  };
  switch (activation) {
    case ScaleActivation::elu:
      return find(ScaleActivation::elu);
    case ScaleActivation::softplus:
      return find(ScaleActivation::softplus);
    case ScaleActivation::exp:
      return find(ScaleActivation::exp);
    default:
      return find(ScaleActivation::identity);
  }
}

// What a dimension has beside its residual.
template <class T>
struct alignas(4 * sizeof(T)) DimensionTerms {
  T inverse_kappa;
  T loc_factor;  // what the gradient of loc is multiplied by beside share / sigma: 1 / kappa, or kappa where natural
  T constant;    // log kappa and the density's constant
  int seen;      // where its group begins among what is observed
};

template <class T, class Density>
MDN_ON_DEVICE DimensionTerms<T> dimension_terms(const MixtureCall& call, const MixturePlan& plan,
                                                const Density& density, int d, int group_step) {
  const T* dim_scale = static_cast<const T*>(call.dim_scale);
  const T kappa = dim_scale != nullptr ? load_global(dim_scale + d) : T(1);
  const T log_kappa = dim_scale != nullptr && density.log_sigma ? log(kappa) : T(0);
  return {1 / kappa, call.objective.natural ? kappa : 1 / kappa, log_kappa + density.constant,
          quotient(d, plan.by_group_dims) * group_step};
}

// Fills in the terms of all dimensions, by all threads of a block.
template <class T, class Density>
MDN_ON_DEVICE void find_dimension_terms(const MixtureCall& call, const MixturePlan& plan, const Density& density,
                                        const DynamicSharedArray<DimensionTerms<T>>& terms, int group_step) {
#pragma unroll 1
  for (int d = threadIdx.x; d < call.dims; d += static_cast<int>(blockDim.x)) {
    terms[d] = dimension_terms<T>(call, plan, density, d, group_step);
  }
}

// The reciprocal of what the loss is divided by, found by one warp: the parts that were counted, in their order.
MDN_ON_DEVICE double divisor_of(const MixturePlan& plan) {
  if (plan.counting_blocks == 0) return plan.known_divisor;
  double sum = 0;
#pragma unroll 1
  for (int i = threadIdx.x % warp_lanes; i < plan.counting_blocks; i += warp_lanes)
    sum += load_global(plan.counted + i);
  sum = sum_of_warp(sum);
  return sum == 0 ? 1 : sum;
}

// Adds up the blocks' parts of the loss: the last block to come here does, in their order. All threads of all blocks
// call it.
template <class T>
MDN_ON_DEVICE void finish_loss(const MixtureCall& call, const MixturePlan& plan, double sum) {
  if (plan.partial == nullptr) return;
  const DynamicSharedArray<double> of_warps = dynamic_shared<double>(plan.sums, 8);
  const DynamicSharedArray<int> last = dynamic_shared<int>(plan.sums + 64, 1);
  sum = sum_of_block(sum, of_warps);
  if (threadIdx.x == 0) {
    store_global(plan.partial + blockIdx.x, sum);
    __threadfence();
    last[0] = atomicAdd(plan.ticket, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (static_cast<int>(last[0]) == 0) return;
  __threadfence();
  sum = 0;
#pragma unroll 1
  for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) sum += load_global_written(plan.partial + i);
  sum = sum_of_block(sum, of_warps);
  const double divisor = threadIdx.x < warp_lanes ? divisor_of(plan) : 1;
  if (threadIdx.x == 0) store_global(static_cast<T*>(call.loss), static_cast<T>(sum / divisor));
}

// The rows of one position of a tile, a number for each component: `logits`, and `parts`, log phi up to the constant,
// which in the end are r times the position's factor.
template <class T, int M, class Rows>
class Posterior {
 public:
  MDN_ON_DEVICE Posterior(const MixtureCall& call, const MixtureNumbers<T>& numbers, const Rows& rows)
      : call_(call), numbers_(numbers), rows_(rows) {
    if constexpr (M > 0) {
#pragma unroll
      for (int m = 0; m < M; ++m) logits_[m] = rows.logit(m), parts_[m] = rows.part(m);
    }
  }

  // The loss of the position but for the constant. `assigned`: its component, where the caller gives it. Gives each
  // component's r and gradient of the logits to use(m, r, gradient).
  template <class Use>
  MDN_ON_DEVICE T find(int64_t assigned, Use use) {
    const int count = M > 0 ? M : call_.components;
    const T nothing = -static_cast<T>(INFINITY);
    T top = logit(0);
#pragma unroll
    for (int m = 1; m < count; ++m) top = max(top, logit(m));  // a NaN comes back with its own exponential
    T total = 0, best = nothing;
#pragma unroll
    for (int m = 0; m < count; ++m) {
      const T difference = logit(m) - top;
      total += exp_of_rounded(difference);
      best = max(best, difference + part(m));
    }
    const T inverse_total = reciprocal(total);
    const auto alpha = [&](int m) { return exp_of_rounded(logit(m) - top) * inverse_total; };
    if (call_.objective.assign == Assign::likelihood) {
      if (best == nothing) best = 0;  // no density at all: the loss is inf, not inf - inf
      const auto likelihood = [&](int m) {
        return exp_of_rounded((logit(m) - top + part(m) - best) * numbers_.inverse_temperature);
      };
      T sum = 0;
#pragma unroll
      for (int m = 0; m < count; ++m) sum += likelihood(m);
      const T inverse_sum = reciprocal(sum);
#pragma unroll
      for (int m = 0; m < count; ++m) {
        const T r = likelihood(m) * inverse_sum;
        use(m, r, alpha(m) - r);
      }
      return log_of_few(total) - best - numbers_.temperature * log_of_few(sum);
    }
    int winner = call_.objective.assign == Assign::given ? static_cast<int>(assigned) : -1;
    T evidence = static_cast<T>(NAN);  // where there is no such component
#pragma unroll
    for (int m = 0; m < count; ++m) {
      const T own = logit(m) - top + part(m);
      const bool wins = call_.objective.assign == Assign::given ? m == winner : m == 0 || own > evidence || own != own;
      if (wins) evidence = own, winner = m;
    }
#pragma unroll
    for (int m = 0; m < count; ++m) {
      const T r = m == winner ? T(1) : T(0);
      use(m, r, alpha(m) - r);
    }
    return log_of_few(total) - evidence;
  }

 private:
  MDN_ON_DEVICE T logit(int m) const {
    if constexpr (M > 0) return logits_[m];
    return rows_.logit(m);
  }
  MDN_ON_DEVICE T part(int m) const {
    if constexpr (M > 0) return parts_[m];
    return rows_.part(m);
  }

  const MixtureCall& call_;
  const MixtureNumbers<T>& numbers_;
  const Rows& rows_;
  T logits_[M > 0 ? M : 1], parts_[M > 0 ? M : 1];
};

// visit(Count<M>{}) with the number of components as a constant where there are few: their numbers then stay in
// registers. Else Count<0>.
template <class Visit>
MDN_ON_DEVICE void with_components(int components, Visit visit) {
  switch (components) {
    case 1:
      return visit(Count<1>{});
    case 2:
      return visit(Count<2>{});
    case 3:
      return visit(Count<3>{});
    case 5:
      return visit(Count<5>{});
    default:
      return visit(Count<0>{});
  }
}

// A family that only the call knows.
template <class T, template <class> class First, template <class> class... Rest>
struct AnyOf {
  First<T> first;
  AnyOf<T, Rest...> rest;
  explicit AnyOf(double parameter) : first(parameter), rest(parameter) {}
  template <class Visit>
  MDN_ON_DEVICE T visit(int number, Visit visit) const {
    return number == 0 ? visit(first) : rest.visit(number - 1, visit);
  }
};
template <class T, template <class> class Last>
struct AnyOf<T, Last> {
  Last<T> last;
  explicit AnyOf(double parameter) : last(parameter) {}
  template <class Visit>
  MDN_ON_DEVICE T visit(int, Visit visit) const {
    return visit(last);
  }
};

template <class T, template <class> class... Types>
AnyOf<T, Types...> any_of(FamilyTable<Types...>, double parameter) {
  return AnyOf<T, Types...>(parameter);
}

template <class T>
struct AnyFamily {
  static constexpr T value_of_pull = T(0);
  int number;
  bool log_sigma;
  T constant;
  decltype(any_of<T>(Families{}, 0.0)) families;
  explicit AnyFamily(Family family) : number(family.number), families(any_of<T>(Families{}, family.parameter)) {
    with_family<T>(family, Families{}, [this](const auto& type) {
      log_sigma = type.log_sigma;
      constant = type.constant;
    });
  }
  MDN_ON_DEVICE T value(T z, T inverse) const {
    return families.visit(number, [=](const auto& type) { return type.value(z, inverse); });
  }
  MDN_ON_DEVICE T slope(T z, T inverse) const {
    return families.visit(number, [=](const auto& type) { return type.slope(z, inverse); });
  }
  MDN_ON_DEVICE T pull(T z, T inverse) const {
    return families.visit(number, [=](const auto& type) { return type.pull(z, inverse); });
  }
};

}  // namespace device
}  // namespace mdn
