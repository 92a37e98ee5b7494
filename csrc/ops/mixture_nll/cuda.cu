// Loss and gradients of mixture_nll in one pass.
//
// Memory story. With M components, C dimensions and S scales the floor is reading M (1 + C + S) + C values a position
// (and its mask) and writing M (1 + C + S). Both happen once: a block of 256 threads takes a tile of positions, keeps
// its standardised residuals z, M C values a position, in shared memory, and computes the gradients from them. A tile
// is 8 to 256 positions, as many as leave a multiprocessor room for several blocks; where even 8 do not fit, rows lie
// in a workspace in device memory, which the second-level cache holds for as long as it can. What nobody observed is
// not read: neither a tile, nor a piece of 16 bytes. The mean's divisor is known before any gradient is written, from
// a pass over mask and weight alone, which leaves the mask as bits; it and all sums are in double, in an order that the
// shapes alone determine.
#include "core/cuda/dispatch.cuh"
#include "core/cuda/launch.h"
#include "mixture/correlation.h"
#include "mixture/observation.cuh"
#include "mixture/scale.h"
#include "ops/mixture_nll/call.h"

namespace mdn {

struct MixtureCall {
  // Views of (B, channels, points). With an index, logits, loc and scale are read at its points; all else, the
  // gradients included, has a point for each entry of the index.
  TileView logits, loc, scale, target, weight;  // weight may be absent: data is null
  TileView grad_logits, grad_loc, grad_scale, grad_target;
  Observed observed;
  void* loss;    // one number, or (B, points), contiguous, where it is not reduced
  bool reduced;  // else the loss of each position is wanted
  bool mean;     // of all positions with something observed; else their sum
  bool parameter_gradients, target_gradient;
  TileView tril, grad_tril;  // the entries of L and their gradients; absent where no dimensions are correlated
  TileView posterior;        // (B, M, points), where it is all that is wanted
  const int64_t* assigned;   // (B, points), contiguous, for Assign::given
  Dimensions dimensions;
  Objective objective;
  const void* dim_scale;  // [dims] of the arithmetic type, or null
  int64_t batch, points;
  int components, dims, scales;
  Family family;
  ScaleActivation activation;
  double min_scale;
};

// How what was observed is counted: threads of a block, one for each position of its tile, and where things begin in
// shared memory. The mask's bits lie there, or in the workspace, as they do later.
struct WeightPlan {
  int threads, seen, chosen, of_warps, shared;
};

// How a call is launched.
struct MixturePlan {
  Tiling tiling;
  Divisor by_logits, by_loc, by_scale, by_dims, by_scales;
  // Where things begin, in bytes: rows, kappa and the mask's bits in shared memory or in a block's part of the
  // workspace, of `large` bytes; chosen points and sums always in shared memory.
  int stride, kappa, seen, large, chosen, of_warps, shared;
  WeightPlan weight;
  double known_divisor;  // what the loss is divided by, where `divisor` is null
  // In the workspace, as place_workspace points them.
  double* divisor;           // the same where mask, weight or index decide it
  double* sums;              // [tiles]; null where the loss is not reduced
  unsigned char* workspace;  // a block's rows each, where they do not fit into shared memory
};

// Rows of one number a position; each begins where the one before ends.
struct MixtureRows {
  int z, target, inverse, term, part, logits, evidence, count, constant, weight, end;
  MDN_ON_BOTH MixtureRows(int m, int c, int s) {
    z = 0;                   // [M * C] standardised residuals, 0 where not observed
    target = z + m * c;      // [C]
    inverse = target + c;    // [M * S] 1 / sigma; in the end times the component's share
    term = inverse + m * s;  // [M * S] d sigma / d raw; in the end times what the scale's residuals pull
    part = term + m * s;     // [M * S] what the scale's dimensions add to log phi
    logits = part + m * s;   // [M] in the end their gradients
    evidence = logits + m;   // [M] log alpha + log phi; in the end the posterior share times the position's factor
    count = evidence + m;    // [S] observed dimensions of each scale
    constant = count + s;    // [S] sum over these of log kappa and the density's constant
    weight = constant + s;   // [1]
    end = weight + 1;
  }
};

// Fills in all of a plan but its workspaces.
inline MixturePlan plan_mixture(const MixtureCall& call) {
  const int64_t element = call.loc.dtype == DType::float64 ? 8 : 4;
  const int64_t rows = MixtureRows(call.components, call.dims, call.scales).end;
  const auto kappa_of = [&](int positions) { return up_to(16, rows * stride_of(call.loc, positions) * element); };
  const auto seen_of = [&](int positions) { return up_to(16, kappa_of(positions) + (2 * call.dims + 1) * element); };
  const auto large_of = [&](int positions) { return seen_of(positions) + seen_bytes(call.observed, positions); };
  const int64_t sum_bytes = tile_threads / 32 * 8;
  MixturePlan plan = {};
  plan.tiling = tiling_of(call.batch, call.points, sector_positions(call.loc.dtype),
                          [&](int positions) { return large_of(positions) + chosen_bytes(positions) + sum_bytes; });
  const int positions = plan.tiling.positions;
  plan.stride = stride_of(call.loc, positions);
  plan.kappa = static_cast<int>(kappa_of(positions));
  plan.seen = static_cast<int>(seen_of(positions));
  plan.large = static_cast<int>(large_of(positions));
  plan.chosen = plan.tiling.shared ? plan.large : 0;
  plan.of_warps = plan.chosen + static_cast<int>(chosen_bytes(positions));
  plan.shared = plan.of_warps + static_cast<int>(sum_bytes);
  WeightPlan& weight = plan.weight;
  weight.threads = positions < 32 ? 32 : positions;
  weight.seen = plan.tiling.shared ? 0 : plan.seen;
  weight.chosen = plan.tiling.shared ? static_cast<int>(seen_bytes(call.observed, positions)) : 0;
  weight.of_warps = weight.chosen + static_cast<int>(chosen_bytes(positions));
  weight.shared = weight.of_warps + static_cast<int>(sum_bytes);
  plan.by_logits = Divisor(call.components);
  plan.by_loc = Divisor(call.components * call.dims);
  plan.by_scale = Divisor(call.components * call.scales);
  plan.by_dims = Divisor(call.dims);
  plan.by_scales = Divisor(call.scales);
  plan.known_divisor = call.mean && call.batch * call.points > 0 ? static_cast<double>(call.batch * call.points) : 1;
  return plan;
}

// Bytes of the workspaces: sums, bits of the mask, and rows that do not fit into shared memory.
struct MixtureWorkspace {
  int64_t bits, rows, bytes;
};

// Whether mask, weight or index decide what a mean is divided by.
inline bool divisor_is_counted(const MixtureCall& call) {
  return call.mean && (call.observed.mask.data || call.observed.index || call.weight.data);
}

inline MixtureWorkspace workspace_of(const MixtureCall& call, const MixturePlan& plan) {
  const Tiling& tiling = plan.tiling;
  const bool keeps_bits = divisor_is_counted(call) && call.observed.mask.data;
  MixtureWorkspace workspace;
  workspace.bits = up_to(16, (tiling.count + 1) * 8);
  workspace.rows =
      workspace.bits + up_to(16, keeps_bits ? tiling.count * bits_of(call.observed, tiling.positions) * 4 : 0);
  workspace.bytes = workspace.rows + (tiling.shared ? 0 : int64_t(tiling.blocks) * plan.large);
  return workspace;
}

// Points call and plan to their workspace of workspace_of(call, plan).bytes bytes.
inline void place_workspace(MixtureCall& call, MixturePlan& plan, unsigned char* memory) {
  const MixtureWorkspace workspace = workspace_of(call, plan);
  double* sums = reinterpret_cast<double*>(memory);
  plan.divisor = divisor_is_counted(call) ? sums + plan.tiling.count : nullptr;
  plan.sums = call.reduced ? sums : nullptr;
  plan.workspace = memory + workspace.rows;
  call.observed.bits = workspace.rows > workspace.bits ? reinterpret_cast<uint32_t*>(memory + workspace.bits) : nullptr;
}

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

// The weight (or count) of each tile's positions with something observed, into `sums`.
template <bool shared>
__global__ void __launch_bounds__(tile_threads)
    observed_weight(const __grid_constant__ MixtureCall call, const __grid_constant__ MixturePlan plan) {
  unsigned char* memory = shared ? nullptr : plan.workspace + int64_t(blockIdx.x) * plan.large;
  Observation<shared> observation(call.observed, plan.tiling.positions, memory, plan.weight.seen, plan.weight.chosen);
  const DynamicSharedArray<double> of_warps = dynamic_shared<double>(plan.weight.of_warps, tile_threads / warp_lanes);
  const int number = own_tile(plan.tiling), position = threadIdx.x;
  const Tile tile = tile_of(plan.tiling, call.points, number);
  observation.look(tile, number, false);
  if (call.observed.bits != nullptr) observation.keep(number);
  double sum = 0;
  if (position < tile.count && observation.observed().has(position)) {
    sum = call.weight.data != nullptr ? load_number(call.weight, offset_of(call.weight, tile, 0, position)) : 1;
  }
  sum = sum_of_block(sum, of_warps);
  if (threadIdx.x == 0) store_global(plan.sums + number, sum);
}

// One block: the sum of `count` numbers, as a divisor that is not 0, or divided by one as the loss.
template <class T>
__global__ void __launch_bounds__(tile_threads) finish_sums(const double* sums, int64_t count, double* new_divisor,
                                                            const double* divisor, double known_divisor, T* loss) {
  const DynamicSharedArray<double> of_warps = dynamic_shared<double>(0, tile_threads / warp_lanes);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += tile_threads) sum += load_global(sums + i);
  sum = sum_of_block(sum, of_warps);
  if (threadIdx.x != 0) return;
  if (new_divisor != nullptr) {
    store_global(new_divisor, sum == 0 ? 1 : sum);
  } else {
    store_global(loss, static_cast<T>(sum / (divisor != nullptr ? load_global(divisor) : known_divisor)));
  }
}

// One block at work on its tile. A member function is one pass over the tile; barriers stand between.
template <class Element, class Density, bool shared>
class MixtureBlock {
  using T = typename ArithmeticOf<Element>::Type;

 public:
  MDN_ON_DEVICE MixtureBlock(const MixtureCall& call, const MixturePlan& plan, const Density& density,
                             unsigned char* memory)
      : call_(call),
        plan_(plan),
        density_(density),
        rows_(call.components, call.dims, call.scales),
        observation_(call.observed, plan.tiling.positions, memory, plan.seen, plan.chosen),
        cells_(memory, 0, rows_.end, plan.stride),
        constants_(memory, plan.kappa, 2 * call.dims + 1) {}

  // What all positions share: for each dimension log kappa with the density's constant and 1 / kappa, and the factor of
  // the reduction.
  MDN_ON_DEVICE void prepare() {
    const T* dim_scale = static_cast<const T*>(call_.dim_scale);
    for (int d = threadIdx.x; d < call_.dims; d += tile_threads) {
      const T kappa = dim_scale != nullptr ? load_global(dim_scale + d) : T(1);
      constants_.set(d, (dim_scale != nullptr ? log(kappa) : T(0)) + density_.constant);
      constants_.set(call_.dims + d, 1 / kappa);
    }
    if (threadIdx.x == 0) {
      const double divisor = plan_.divisor != nullptr ? load_global(plan_.divisor) : plan_.known_divisor;
      constants_.set(2 * call_.dims, static_cast<T>(1 / divisor));
    }
  }

  // Loss and gradients of the tile of that number. Returns this thread's part of the weighted sum of its losses.
  MDN_ON_DEVICE double run(int number) {
    tile_ = tile_of(plan_.tiling, call_.points, number);
    const bool any = observation_.look(tile_, number, call_.observed.bits != nullptr);
    double sum = 0;
    if (any) {
      count_observed();
      __syncthreads();
      read_scales();
      read_logits_and_targets();
      __syncthreads();
      read_residuals();
      __syncthreads();
      sum_values();
      __syncthreads();
      sum = combine();
      __syncthreads();
      if (call_.parameter_gradients || call_.target_gradient) {
        weigh_pulls();
        __syncthreads();
        write_gradients();
      }
    } else {
      write_zeros();
    }
    return sum;
  }

 private:
  template <int N>
  MDN_ON_DEVICE Values<T, N> get(int row, int position) const {
    return cells_.template get<N>(row, position);
  }
  template <int N>
  MDN_ON_DEVICE void set(int row, int position, const Values<T, N>& values) const {
    cells_.template set<N>(row, position, values);
  }
  MDN_ON_DEVICE T get(int row, int position) const { return cells_.get(row, position); }
  MDN_ON_DEVICE void set(int row, int position, T value) const { cells_.set(row, position, value); }

  MDN_ON_DEVICE T log_constant(int dim) const { return constants_.get(dim); }
  MDN_ON_DEVICE T inverse_kappa(int dim) const { return constants_.get(call_.dims + dim); }
  MDN_ON_DEVICE bool is_observed(int position) const { return observation_.observed().has(position); }

  // A tensor of the parameters, which an index may gather.
  template <class Use>
  MDN_ON_DEVICE void read_parameter(const TileView& view, const Divisor& channels, Use use) {
    const auto observed = observation_.observed();
    const bool gathered = view.gathered;
    const auto point_of = [this, gathered](int position) {
      return gathered ? observation_.chosen(position) : tile_.first + position;
    };
    read_tile<Element>(view, tile_, channels, observed, point_of, use);
  }

  // Everything about the densities that does not depend on the component.
  MDN_ON_DEVICE void count_observed() {
    for_each_position(tile_, call_.scales, [this](int s, int position) {
      int count = 0;
      T constant = 0;
      for (int d = s; d < call_.dims; d += call_.scales) {
        if ((observation_.seen(d, position) & 1) == 0) continue;
        ++count;
        constant += log_constant(d);
      }
      set(rows_.count + s, position, T(count));
      set(rows_.constant + s, position, constant);
    });
  }

  MDN_ON_DEVICE void read_scales() {
    const T min_scale = static_cast<T>(call_.min_scale);
    const T unseen_scale = call_.activation == ScaleActivation::identity ? T(1) : T(0);
    read_parameter(call_.scale, plan_.by_scale, [&](auto n, int ms, int position, const auto& raw) {
      // A pack of a row's numbers after the other: the logarithms of all 8 that half precision reads at once want more
      // registers than there are.
      constexpr int N = decltype(n)::value, width = N < pack_width<T> ? N : pack_width<T>;
      const int s = ms - quotient(ms, plan_.by_scales) * call_.scales;
#pragma unroll
      for (int first = 0; first < N; first += width) {
        const int here = position + first;
        const Values<T, width> count = get<width>(rows_.count + s, here);
        Values<T, width> inverse, derivative, part;
#pragma unroll
        for (int j = 0; j < width; ++j) {
          // A scale all of whose dimensions are unobserved leaves the density, whatever it holds.
          const T seen = count[j] != 0 ? static_cast<T>(raw[first + j]) : unseen_scale;
          const Scale<T> scale = activate<T, T>(call_.activation, seen, min_scale);
          inverse[j] = 1 / scale.sigma;
          derivative[j] = scale.derivative;
          part[j] = -count[j] * log(scale.sigma);
        }
        set<width>(rows_.part + ms, here, part);
        set<width>(rows_.inverse + ms, here, inverse);
        set<width>(rows_.term + ms, here, derivative);
      }
    });
  }

  MDN_ON_DEVICE void read_logits_and_targets() {
    read_parameter(call_.logits, plan_.by_logits, [&](auto n, int m, int position, const auto& logits) {
      keep<decltype(n)::value>(rows_.logits + m, position, logits);
    });
    const auto keep_target = [&](auto n, int d, int position, const auto& target) {
      keep<decltype(n)::value>(rows_.target + d, position, target);
    };
    const auto observed = observation_.observed();
    const OwnPoints own = {tile_.first};
    if (call_.target.dtype == DType::float32) {
      read_tile<float>(call_.target, tile_, plan_.by_dims, observed, own, keep_target);
    } else {
      read_tile<Element>(call_.target, tile_, plan_.by_dims, observed, own, keep_target);
    }
    for_each_position(tile_, 1, [this](int, int position) {
      const bool weighted = call_.weight.data != nullptr && is_observed(position);
      set(rows_.weight, position,
          weighted ? static_cast<T>(load_number(call_.weight, offset_of(call_.weight, tile_, 0, position))) : T(1));
    });
  }

  template <int N, class Numbers>
  MDN_ON_DEVICE void keep(int row, int position, const Numbers& numbers) const {
    Values<T, N> values;
#pragma unroll
    for (int j = 0; j < N; ++j) values[j] = static_cast<T>(numbers[j]);
    set<N>(row, position, values);
  }

  MDN_ON_DEVICE void read_residuals() {
    read_parameter(call_.loc, plan_.by_loc, [&](auto n, int row, int position, const auto& loc) {
      constexpr int N = decltype(n)::value;
      const int m = quotient(row, plan_.by_dims), d = row - m * call_.dims;
      const int s = d - quotient(d, plan_.by_scales) * call_.scales;
      const uint32_t seen = observation_.seen(d, position);
      const T kappa = inverse_kappa(d);
      const Values<T, N> target = get<N>(rows_.target + d, position);
      const Values<T, N> inverse = get<N>(rows_.inverse + m * call_.scales + s, position);
      Values<T, N> z;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        z[j] = (seen >> j & 1) != 0 ? (target[j] - static_cast<T>(loc[j])) * (inverse[j] * kappa) : T(0);
      }
      set<N>(rows_.z + row, position, z);
    });
  }

  // What the dimensions of each scale add to log phi, and what they pull at it.
  MDN_ON_DEVICE void sum_values() {
    for_each_position(tile_, call_.components * call_.scales, [this](int ms, int position) {
      const int m = quotient(ms, plan_.by_scales), s = ms - m * call_.scales;
      T value = 0, pull = 0;
      for (int d = s; d < call_.dims; d += call_.scales) {
        const T z = get(rows_.z + m * call_.dims + d, position);
        pull += density_.pull(z, z);
        if constexpr (Density::value_of_pull == 0) value += density_.value(z, z);
      }
      const T part = get(rows_.part + ms, position) - get(rows_.constant + s, position);
      set(rows_.part + ms, position, part - (Density::value_of_pull == 0 ? value : Density::value_of_pull * pull));
      const T derivative = get(rows_.term + ms, position);
      set(rows_.term + ms, position, (get(rows_.count + s, position) - pull) * derivative);
    });
  }

  // The loss of each position, each component's posterior share, and the logits' gradients.
  MDN_ON_DEVICE double combine() {
    const int count = call_.components;
    const T share = constants_.get(2 * call_.dims);
    const T nothing = -static_cast<T>(INFINITY);
    double sum = 0;
    for_each_position(tile_, 1, [&](int, int position) {
      T loss = 0;
      if (is_observed(position)) {
        T top = get(rows_.logits, position);
        for (int m = 1; m < count; ++m) top = maximum(top, get(rows_.logits + m, position));
        T total = 0;
        for (int m = 0; m < count; ++m) total += exp(get(rows_.logits + m, position) - top);
        const T normaliser = log(total), inverse_total = 1 / total;
        T best = nothing;
        for (int m = 0; m < count; ++m) {
          // The sum is at least 1, so its logarithm is finite.
          T evidence = get(rows_.logits + m, position) - top - normaliser;
          for (int s = 0; s < call_.scales; ++s) evidence += get(rows_.part + m * call_.scales + s, position);
          set(rows_.evidence + m, position, evidence);
          best = maximum(evidence, best);
        }
        if (best == nothing) best = 0;  // no density at all: the loss is inf, not inf - inf
        T likelihood = 0;
        for (int m = 0; m < count; ++m) likelihood += exp(get(rows_.evidence + m, position) - best);
        const T weight = get(rows_.weight, position);
        loss = -(best + log(likelihood));
        if (call_.weight.data != nullptr) loss *= weight;
        const T factor = share * weight;
        for (int m = 0; m < count; ++m) {
          const T posterior = exp(get(rows_.evidence + m, position) - best) / likelihood;
          const T alpha = exp(get(rows_.logits + m, position) - top) * inverse_total;
          set(rows_.evidence + m, position, posterior * factor);
          set(rows_.logits + m, position, (alpha - posterior) * factor);
        }
      } else {
        for (int m = 0; m < count; ++m) {
          set(rows_.evidence + m, position, T(0));
          set(rows_.logits + m, position, T(0));
        }
      }
      write_nll(position, loss);
      sum += static_cast<double>(loss);
    });
    return sum;
  }

  MDN_ON_DEVICE void write_nll(int position, T loss) const {
    if (call_.reduced || position >= tile_.count) return;
    store_global(static_cast<T*>(call_.loss) + tile_.batch * call_.points + tile_.first + position, loss);
  }

  // share / sigma: what all dimensions of a scale multiply.
  MDN_ON_DEVICE void weigh_pulls() {
    for_each_position(tile_, call_.components * call_.scales, [this](int ms, int position) {
      const T share = get(rows_.evidence + quotient(ms, plan_.by_scales), position);
      set(rows_.inverse + ms, position, is_observed(position) ? share * get(rows_.inverse + ms, position) : T(0));
    });
  }

  MDN_ON_DEVICE void write_gradients() {
    if (call_.parameter_gradients) {
      write_tile<T, Packs::all>(call_.grad_logits, tile_, plan_.by_logits, [this](auto n, int m, int position) {
        return get<decltype(n)::value>(rows_.logits + m, position);
      });
      write_tile<T, Packs::all>(call_.grad_scale, tile_, plan_.by_scale, [this](auto n, int ms, int position) {
        constexpr int N = decltype(n)::value;
        Values<T, N> gradient = get<N>(rows_.inverse + ms, position);
        const Values<T, N> term = get<N>(rows_.term + ms, position);
#pragma unroll
        for (int j = 0; j < N; ++j) gradient[j] *= term[j];
        return gradient;
      });
      write_tile<T, Packs::all>(call_.grad_loc, tile_, plan_.by_loc, [this](auto n, int row, int position) {
        constexpr int N = decltype(n)::value;
        const int m = quotient(row, plan_.by_dims), d = row - m * call_.dims;
        return pulled<N>(m, d, position, -inverse_kappa(d), Values<T, N>{});
      });
    }
    if (call_.target_gradient) {
      write_tile<T, Packs::all>(call_.grad_target, tile_, plan_.by_dims, [this](auto n, int d, int position) {
        constexpr int N = decltype(n)::value;
        const T kappa = inverse_kappa(d);
        Values<T, N> gradient = {};
        for (int m = 0; m < call_.components; ++m) gradient = pulled<N>(m, d, position, kappa, gradient);
        return gradient;
      });
    }
  }

  // start + slope(z) pull kappa.
  template <int N>
  MDN_ON_DEVICE Values<T, N> pulled(int m, int d, int position, T kappa, Values<T, N> start) const {
    const int s = d - quotient(d, plan_.by_scales) * call_.scales;
    const Values<T, N> z = get<N>(rows_.z + m * call_.dims + d, position);
    const Values<T, N> pull = get<N>(rows_.inverse + m * call_.scales + s, position);
#pragma unroll
    for (int j = 0; j < N; ++j) start[j] += density_.slope(z[j], z[j]) * (pull[j] * kappa);
    return start;
  }

  MDN_ON_DEVICE void write_zeros() const {
    const auto zeros = [](auto n, int, int) { return Values<T, decltype(n)::value>{}; };
    if (call_.parameter_gradients) {
      write_tile<T, Packs::all>(call_.grad_logits, tile_, plan_.by_logits, zeros);
      write_tile<T, Packs::all>(call_.grad_scale, tile_, plan_.by_scale, zeros);
      write_tile<T, Packs::all>(call_.grad_loc, tile_, plan_.by_loc, zeros);
    }
    if (call_.target_gradient) write_tile<T, Packs::all>(call_.grad_target, tile_, plan_.by_dims, zeros);
    for_each_position(tile_, 1, [this](int, int position) { write_nll(position, T(0)); });
  }

  const MixtureCall& call_;
  const MixturePlan& plan_;
  const Density& density_;
  const MixtureRows rows_;
  Observation<shared> observation_;
  const TileRows<T, shared> cells_;
  const Cells<T, shared> constants_;
  Tile tile_;
};

// Blocks that a multiprocessor should be able to hold at a time: what is worth it without a spilled register.
template <class Element, bool shared>
constexpr int resident_blocks = sizeof(Element) == 8 || !shared ? 2 : 4;

template <class Element, class Density, bool shared>
__global__ void __launch_bounds__(tile_threads, resident_blocks<Element, shared>)
    mixture_nll(const __grid_constant__ MixtureCall call, const __grid_constant__ MixturePlan plan,
                const __grid_constant__ Density density) {
  unsigned char* memory = shared ? nullptr : plan.workspace + int64_t(blockIdx.x) * plan.large;
  MixtureBlock<Element, Density, shared> block(call, plan, density, memory);
  const DynamicSharedArray<double> of_warps = dynamic_shared<double>(plan.of_warps, tile_threads / warp_lanes);
  block.prepare();
  const int number = own_tile(plan.tiling);
  const double sum = sum_of_block(block.run(number), of_warps);
  if (threadIdx.x == 0 && plan.sums != nullptr) store_global(plan.sums + number, sum);
}

}  // namespace device

template <class Element, bool shared, class Density, class Launch>
void run_mixture_nll_as(const MixtureCall& call, MixturePlan plan, Density density, Launch launch) {
  using T = typename device::ArithmeticOf<Element>::Type;
  const auto finish = [&](double* new_divisor) {
    const double *sums = plan.sums, *divisor = plan.divisor;
    launch(device::finish_sums<T>, 1, tile_threads, plan.shared - plan.of_warps, sums, plan.tiling.count, new_divisor,
           divisor, plan.known_divisor, static_cast<T*>(call.loss));
  };
  if (plan.divisor != nullptr) {
    for_each_launch(plan.tiling, [&](int blocks) {
      launch(device::observed_weight<shared>, blocks, plan.weight.threads, plan.weight.shared, call, plan);
    });
    finish(plan.divisor);
  }
  for_each_launch(plan.tiling, [&](int blocks) {
    launch(device::mixture_nll<Element, Density, shared>, blocks, tile_threads, plan.shared, call, plan, density);
  });
  if (plan.sums != nullptr) finish(nullptr);
}

// The launches of a planned call with its workspace, in order: launch(kernel, blocks, threads, bytes of shared memory,
// arguments...).
template <class Launch>
void run_mixture_nll(MixtureCall call, MixturePlan plan, void* workspace, Launch launch) {
  place_workspace(call, plan, static_cast<unsigned char*>(workspace));
  respect_gaps(call.loc, call.logits, call.loc, call.scale, call.target, call.grad_logits, call.grad_loc,
               call.grad_scale, call.grad_target);
  with_element_type(call.loc.dtype, [&](auto type) {
    using Element = typename decltype(type)::Type;
    device::with_independent_density<typename device::ArithmeticOf<Element>::Type>(call.family, [&](auto density) {
      if (plan.tiling.shared) return run_mixture_nll_as<Element, true>(call, plan, density, launch);
      return run_mixture_nll_as<Element, false>(call, plan, density, launch);
    });
  });
}

namespace {

struct NllOnGpu : DeviceCall {
  using DeviceCall::DeviceCall;
  using Call = MixtureCall;
  using Kappa = void;
  static ScalarType type_of_kappa(ScalarType arithmetic) { return arithmetic; }
  static Observed& observed(Call& call) { return call.observed; }
  void run(Call& call, const Tensor& loss) const;
};

void NllOnGpu::run(Call& call, const Tensor& loss) const {
  const Objective& objective = call.objective;
  STD_TORCH_CHECK(call.dimensions.block == 1 && call.dimensions.interleaved && call.posterior.data == nullptr &&
                      objective.assign == Assign::likelihood && objective.temperature == 1 && !objective.rescales(),
                  "mixture_nll: an option that this kernel does not have");
  plan_groups(call.observed, call.points, call.dims);
  call.loss = address_of(loss);
  const MixturePlan plan = plan_mixture(call);
  STD_TORCH_CHECK(plan.tiling.count <= most_tiles, "mixture_nll: ", call.batch, " x ", call.points,
                  " positions are too many for a GPU");
  const Tensor workspace = fresh(loss, {workspace_of(call, plan).bytes}, ScalarType::Byte);
  run_mixture_nll(call, plan, address_of(workspace), Launcher{*this, "mixture_nll"});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) {
  m.impl("mixture_nll", TORCH_BOX(&mixture_nll<NllOnGpu>));
  m.impl("mixture_posterior", TORCH_BOX(&mixture_posterior<NllOnGpu>));
}

}  // namespace mdn
