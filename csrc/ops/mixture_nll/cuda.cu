// Loss and gradients of mixture_nll in two launches: one that counts what a mean is divided by, one that computes.
//
// Memory story. With M components, C dimensions and S scales the floor is reading M (1 + C + S) + C values a position
// (and its mask) and writing M (1 + C + S). Small mixtures stay in registers (small_maps.cuh, number_rows.cuh), other
// planar maps stream through them (planar.cuh); all else goes through rows in shared memory (staged.cuh). The mean's
// divisor is known before any gradient is written, from a pass over mask and weight alone. All sums are in double, in
// an order that the shapes alone determine: the last block to finish adds the blocks' parts.
#include <algorithm>

#include "core/cuda/dispatch.cuh"
#include "core/cuda/launch.h"
#include "ops/mixture_nll/call.h"
#include "ops/mixture_nll/number_rows.cuh"
#include "ops/mixture_nll/planar.cuh"
#include "ops/mixture_nll/small_maps.cuh"
#include "ops/mixture_nll/staged.cuh"

namespace mdn {

constexpr int counting_threads = 256, counting_positions = 4 * counting_threads;

namespace device {

// The weight (or number) of the positions with something observed, in parts, and the ticket of the launch that follows.
__global__ void __launch_bounds__(counting_threads)
    observed_weight(const __grid_constant__ MixtureCall call, const __grid_constant__ MixturePlan plan) {
  if (blockIdx.x == 0 && threadIdx.x == 0) store_global(plan.ticket, 0u);
  if (plan.counting_blocks == 0) return;
  const DynamicSharedArray<double> of_warps = dynamic_shared<double>(0, 8);
  const View& mask = call.mask;
  const int groups = mask.data != nullptr ? mask.channels : 0;
  const bool counts_all = call.index == nullptr && call.assigned == nullptr && call.weight.data == nullptr;
  double sum = 0;
#pragma unroll 1
  for (int tile = blockIdx.x; tile < plan.counting_tiles; tile += static_cast<int>(gridDim.x)) {
    const int64_t batch = quotient(tile, plan.by_counting_image);
    const int64_t first =
        int64_t(tile - static_cast<int>(batch) * static_cast<int>(plan.by_counting_image.divisor)) * counting_positions;
    // A thread has four neighbours where their masks move as one; else every 256th position.
    const int step = plan.mask_packed ? 1 : counting_threads;
    const int64_t point = first + int64_t(threadIdx.x) * (plan.mask_packed ? 4 : 1);
    const unsigned char* from = static_cast<const unsigned char*>(mask.data) + offset_of(mask, batch, 0, point);
    uint32_t seen = mask.data == nullptr ? 0xffffffff : 0;
    if (plan.mask_packed && point < call.points) {
#pragma unroll 8
      for (int group = 0; group < groups; ++group) {
        seen |= load_global(reinterpret_cast<const uint32_t*>(from));
        from += mask.channel_stride;
      }
      if (counts_all) {
        sum += __popc(ones_of(seen));
        continue;
      }
    }
#pragma unroll 1
    for (int j = 0; j < 4; ++j) {
      const int64_t here = point + j * step;
      if (here >= call.points) break;
      bool any = (seen >> (8 * j) & 0xff) != 0;
      if (!plan.mask_packed) {
#pragma unroll 4
        for (int group = 0; group < groups; ++group) {
          any |= load_global(from + j * step * mask.point_stride + group * mask.channel_stride) != 0;
        }
      }
      if (!any || !takes_part(call, batch, here)) continue;
      sum += call.weight.data != nullptr ? load_number(call.weight, offset_of(call.weight, batch, 0, here)) : 1;
    }
  }
  sum = sum_of_block(sum, of_warps);
  if (threadIdx.x == 0) store_global(plan.counted + blockIdx.x, sum);
}

}  // namespace device

namespace {

constexpr int64_t fitting = 32 << 10, most_shared = 96 << 10;  // the last is what every GPU since sm_80 has
constexpr int64_t enough_blocks = 264;                         // to keep all multiprocessors busy

// Whether four neighbouring positions of every channel move as one.
bool moves_fours(const View& view, int64_t batch, int64_t points) {
  return view.data == nullptr ||
         (!view.gathered && view.point_stride == 1 && points % 4 == 0 &&
          reinterpret_cast<uintptr_t>(view.data) % (4 * element_bytes(view.dtype)) == 0 &&
          (view.channels == 1 || view.channel_stride % 4 == 0) && (batch == 1 || view.batch_stride % 4 == 0));
}

// Cuts a call into tiles.
void cut(MixturePlan& plan, const MixtureCall& call, int positions) {
  plan.positions = positions;
  const int64_t in_image = (call.points + positions - 1) / positions;
  STD_TORCH_CHECK(call.batch * in_image <= most_tiles, "mixture_nll: ", call.batch, " x ", call.points,
                  " positions are too many for a GPU");
  plan.tiles = static_cast<int>(call.batch * in_image);
  if (in_image > 0) plan.by_image = Divisor(static_cast<int>(in_image));
}

// Whether mask, weight, index or assignment decide what a mean is divided by.
bool divisor_is_counted(const MixtureCall& call) {
  return call.mean && (call.mask.data || call.index || call.assigned || call.weight.data);
}

// What does not depend on the kernel.
MixturePlan plan_call(const MixtureCall& call) {
  MixturePlan plan = {};
  const View& mask = call.mask;
  const int groups = mask.data != nullptr ? mask.channels : 1;
  plan.masked = mask.data != nullptr || call.index != nullptr || call.assigned != nullptr;
  plan.mask_packed = mask.data != nullptr && moves_fours(mask, call.batch, call.points);
  plan.mask_along_channels = mask.data != nullptr && along_channels(TileView(mask, call.batch));
  plan.by_groups = Divisor(groups);
  plan.by_group_dims = Divisor(call.dims / groups);
  plan.by_scales = Divisor(call.scales);
  plan.of_scale = call.dims / call.scales;
  plan.by_of_scale = Divisor(plan.of_scale);
  plan.step = call.dimensions.step();
  plan.entries = call.dimensions.entries_of_block();
  plan.known_divisor = call.mean && call.batch * call.points > 0 ? static_cast<double>(call.batch * call.points) : 1;
  if (divisor_is_counted(call)) {
    const int64_t in_image = (call.points + counting_positions - 1) / counting_positions;
    plan.counting_tiles = static_cast<int>(call.batch * in_image);
    if (in_image > 0) plan.by_counting_image = Divisor(static_cast<int>(in_image));
    plan.counting_blocks = plan.counting_tiles < 128 ? plan.counting_tiles : 128;
  }
  plan.scales_in_pairs =
      call.dimensions.interleaved && call.scales % 2 == 0 && (!mask.data || call.dims / groups % 2 == 0);
  plan.dims = 96;
  return plan;
}

// Whether every channel of a call moves as packs of positions, which lie side by side, and its offset in a plane of
// channels fits into 32 bits.
bool is_planar(const MixtureCall& call) {
  for (const View* view : std::initializer_list<const View*>{
           &call.logits, &call.loc, &call.scale, &call.target, &call.tril, &call.grad_logits, &call.grad_loc,
           &call.grad_scale, &call.grad_target, &call.grad_tril, &call.posterior}) {
    if (!moves_fours(*view, call.batch, call.points) || view->channels * view->channel_stride >= INT32_MAX)
      return false;
  }
  return true;
}

// As many blocks as keep all multiprocessors busy; where there are more tiles, a block has several.
void share_tiles(MixturePlan& plan) {
  const int several = static_cast<int>(std::clamp<int64_t>(plan.tiles / (3 * enough_blocks), 1, 4));
  plan.blocks = (plan.tiles + several - 1) / several;
}

// Sizes of a mixture that small_maps.cuh is compiled for.
template <int M, int C, bool pairs>
struct SmallMap {
  static void launch(const MixtureCall& call, const MixturePlan& plan, const Launcher& launcher) {
    launcher(device::small_maps_nll<M, C, pairs>, plan.blocks, plan.threads, plan.shared, call, plan,
             MixtureNumbers<float>(call), device::AnyFamily<float>(call.family));
  }
};

// visit(SmallMap{}) with the sizes of a call; false where none has them.
template <class Visit>
bool with_small_map(const MixtureCall& call, Visit visit) {
  if (call.scales != call.dims) return false;
  const auto with_components = [&](auto dims, auto block) {
    constexpr int C = decltype(dims)::value, D = decltype(block)::value;
    if (call.dims != C || call.dimensions.block != D) return false;
    if (call.components == 1) return visit(SmallMap<1, C, D == 2>{}), true;
    if (call.components == 2) return visit(SmallMap<2, C, D == 2>{}), true;
    if (call.components == 3) return visit(SmallMap<3, C, D == 2>{}), true;
    return false;
  };
  using device::Count;
  return with_components(Count<1>{}, Count<1>{}) || with_components(Count<2>{}, Count<1>{}) ||
         with_components(Count<2>{}, Count<2>{});
}

// Plans small_maps.cuh, where it can take a call.
bool plan_small_maps(MixturePlan& plan, const MixtureCall& call) {
  const View& mask = call.mask;
  if (call.loc.dtype != DType::float32 || call.target.dtype != DType::float32 || call.index != nullptr) return false;
  if (!with_small_map(call, [](auto) {})) return false;
  if ((mask.data != nullptr && (mask.channels != 1 || !plan.mask_packed)) || !is_planar(call)) return false;
  plan.threads = device::small_map_threads;
  while (plan.threads > 32 && 2 * call.batch * call.points < enough_blocks * plan.threads * device::small_map_width)
    plan.threads /= 2;
  plan.shared = plan.dims;
  cut(plan, call, plan.threads * device::small_map_width);
  share_tiles(plan);
  return true;
}

// Plans how planar.cuh takes correlated pairs: of float32, without dim_scale, of a scale each or of one.
bool plan_planar_pairs(MixturePlan& plan, const MixtureCall& call) {
  if (call.loc.dtype != DType::float32 || call.target.dtype != DType::float32 || call.dim_scale != nullptr)
    return false;
  const bool interleaved = call.dimensions.interleaved && call.scales > 1;
  plan.scales_in_pairs = call.scales % 2 == 0 && (interleaved || plan.of_scale == 1);
  return plan.scales_in_pairs || (!interleaved && plan.of_scale % 2 == 0);
}

// Plans planar.cuh, where it can take a call.
bool plan_planar(MixturePlan& plan, const MixtureCall& call) {
  if (call.loc.dtype == DType::float64 || call.dimensions.block > 2 || plan.of_scale > 255) return false;
  if (!is_planar(call) || (call.dimensions.block == 2 && !plan_planar_pairs(plan, call))) return false;
  plan.warps = call.components < 8 ? call.components : 8;
  auto place_row = [at = int64_t(0)](int& begin, int64_t bytes) mutable {
    begin = static_cast<int>(at);
    return at += up_to(16, bytes);
  };
  // Of the warps that share 128 positions: 16 bytes a lane and number.
  const int64_t components = call.components, numbers = components * call.scales, row = 32 * 16;
  place_row(plan.seen, plan.masked ? plan.by_groups.divisor * 128 : 0);
  place_row(plan.counts, call.scales * 128);
  place_row(plan.parts, 2 * components * row);
  place_row(plan.kept, 2 * numbers * row);
  place_row(plan.tril, components * call.dimensions.entries * row);
  const int64_t of_row = place_row(plan.rows, components * call.dims * row);
  const int64_t before = up_to(16, plan.dims + int64_t(call.dims) * 16);
  if (before + of_row > most_shared) return false;
  int rows = plan.warps > 2 ? 1 : plan.warps == 2 ? 2 : 4;
  while (rows > 1 && (before + rows * of_row > fitting || call.batch * call.points < enough_blocks * 128 * rows))
    rows /= 2;
  for (int* begin : {&plan.seen, &plan.counts, &plan.parts, &plan.kept, &plan.tril, &plan.rows})
    *begin += static_cast<int>(before);
  plan.row_bytes = static_cast<int>(of_row);
  plan.shared = static_cast<int>(before + rows * of_row);
  plan.threads = 32 * plan.warps * rows;
  plan.by_warps = Divisor(plan.warps);
  plan.loc_step = plan.step * call.loc.channel_stride * element_bytes(call.loc.dtype);
  plan.target_step = plan.step * call.target.channel_stride * element_bytes(call.target.dtype);
  plan.to_step = plan.step * call.grad_loc.channel_stride * 4;
  cut(plan, call, 128 * rows);
  share_tiles(plan);
  return true;
}

// Plans number_rows.cuh, where it can take a call.
bool plan_number_rows(MixturePlan& plan, const MixtureCall& call) {
  const int components = call.components;
  if (call.loc.dtype != DType::float32 || call.target.dtype != DType::float32 || call.dims != 1) return false;
  if (components < 2 || (components > 5 && components != 8) || call.index != nullptr) return false;
  if (call.posterior.data != nullptr) return false;
  for (const TileView* view :
       {&call.logits, &call.loc, &call.scale, &call.grad_logits, &call.grad_loc, &call.grad_scale}) {
    if (view->data != nullptr && view->walk != Walk::channels_packed) return false;
  }
  plan.warps = device::number_warps;
  plan.threads = 32 * plan.warps;
  plan.rows = plan.dims;
  plan.shared = plan.rows + plan.warps * device::rows_of_warp * 3 * components * 4;
  cut(plan, call, plan.warps * device::rows_of_warp);
  plan.blocks = plan.tiles;
  return true;
}

// Plans staged.cuh. Returns whether a tile's rows fit into shared memory.
bool plan_staged(MixturePlan& plan, const MixtureCall& call) {
  const int64_t element = call.loc.dtype == DType::float64 ? 8 : 4;
  const int components = call.components, of_loc = components * call.dims, of_scale = components * call.scales;
  const int of_tril = components * call.dimensions.entries, pack = 16 / static_cast<int>(element);
  const bool correlated = call.dimensions.block > 1;
  const int64_t groups = plan.masked ? plan.by_groups.divisor : 0;
  // Rows of 8 n numbers would begin in few of the 32 banks.
  const auto stride_of = [&](int channels) { return channels % 8 == 0 ? channels + pack : channels; };
  const auto place = [&](int positions) {
    StagedRows& rows = plan.staged;
    int64_t at = 0;
    const auto place_rows = [&](int& begin, int64_t numbers) {
      begin = static_cast<int>(at);
      at = up_to(pack, at + numbers * positions);
    };
    place_rows(rows.loc, rows.loc_stride = stride_of(of_loc));
    place_rows(rows.scale, rows.scale_stride = stride_of(of_scale));
    place_rows(rows.logits, rows.logits_stride = stride_of(components));
    place_rows(rows.target, rows.target_stride = stride_of(call.dims));
    place_rows(rows.tril, rows.tril_stride = correlated ? stride_of(of_tril) : 0);
    place_rows(rows.slopes, correlated ? rows.loc_stride : 0);
    place_rows(rows.pulls, correlated ? rows.loc_stride : 0);
    place_rows(rows.parts, components);
    place_rows(rows.relative, of_scale);
    place_rows(rows.pulled, correlated ? of_scale : 0);
    place_rows(rows.counts, plan.masked ? call.scales + 1 : 0);
    rows.end = static_cast<int>(at);
    plan.kept = static_cast<int>(up_to(32, plan.dims + call.dims * 4 * element));
    plan.seen = plan.kept + (call.index != nullptr ? 8 * positions : 0);
    plan.rows = static_cast<int>(up_to(16, plan.seen + groups * positions));
    return plan.rows + at * element;
  };
  int positions = 256;
  while (positions > 32 && place(positions) > 32 << 10) positions /= 2;
  while (positions > 32 && call.batch * call.points < enough_blocks * positions) positions /= 2;
  const bool shared = place(positions) <= most_shared;
  cut(plan, call, positions);
  plan.warps = components < 8 ? components : 8;
  const int rows = 8 / plan.warps < positions / 32 ? 8 / plan.warps : positions / 32;
  plan.threads = 32 * plan.warps * rows;
  plan.by_warps = Divisor(plan.warps);
  plan.blocks = plan.tiles;
  plan.shared = static_cast<int>(place(positions));
  if (!shared) {
    plan.kept = plan.dims;
    plan.shared = plan.kept + 8 * positions;
    plan.seen = 0;
    plan.rows = static_cast<int>(up_to(16, groups * positions));
    const int64_t bytes = plan.rows + plan.staged.end * element;
    STD_TORCH_CHECK(bytes <= INT32_MAX, "mixture_nll: a mixture of ", components, " components and ", call.dims,
                    " dimensions is too large for a GPU");
    plan.row_bytes = static_cast<int>(bytes);
    const int64_t fit = std::max(int64_t(1), (int64_t(256) << 20) / bytes);
    plan.blocks = static_cast<int>(std::min({int64_t(plan.tiles), fit, enough_blocks}));
  }
  const StagedRows& at = plan.staged;
  const auto read = [&](const TileView& view, int begin, int stride, int channels) {
    plan.inputs[plan.input_count++] = {view, begin, stride, Divisor(channels)};
  };
  const auto write = [&](const TileView& view, int begin, int stride, int channels) {
    if (view.data != nullptr) plan.outputs[plan.output_count++] = {view, begin, stride, Divisor(channels)};
  };
  read(call.loc, at.loc, at.loc_stride, of_loc);
  read(call.scale, at.scale, at.scale_stride, of_scale);
  read(call.logits, at.logits, at.logits_stride, components);
  read(call.target, at.target, at.target_stride, call.dims);
  if (correlated) read(call.tril, at.tril, at.tril_stride, of_tril);
  write(call.grad_loc, at.loc, at.loc_stride, of_loc);
  write(call.grad_scale, at.scale, at.scale_stride, of_scale);
  write(call.posterior.data != nullptr ? call.posterior : call.grad_logits, at.logits, at.logits_stride, components);
  write(call.grad_target, at.target, at.target_stride, call.dims);
  write(call.grad_tril, at.tril, at.tril_stride, of_tril);
  return shared;
}

// Points a plan to its workspace; returns the bytes of that.
int64_t place_workspace(MixturePlan& plan, const MixtureCall& call, bool streams, unsigned char* memory) {
  plan.counted = reinterpret_cast<double*>(memory);
  plan.partial = call.reduced ? plan.counted + plan.counting_blocks : nullptr;
  const int64_t ticket = 8 * (plan.counting_blocks + int64_t(plan.blocks));
  plan.ticket = reinterpret_cast<unsigned*>(memory + ticket);
  plan.memory = memory + up_to(16, ticket + 4);
  return up_to(16, ticket + 4) + (streams ? 0 : int64_t(plan.blocks) * plan.row_bytes);
}

struct NllOnGpu : DeviceCall {
  using DeviceCall::DeviceCall;
  using Call = MixtureCall;
  using Kappa = void;
  static ScalarType type_of_kappa(ScalarType arithmetic) { return arithmetic; }
  void run(Call& call, const Tensor& loss) const;
};

template <class Element>
void launch_planar(const MixtureCall& call, const MixturePlan& plan, const Launcher& launch) {
  const auto run = [&](auto density) {
    launch(device::planar_nll<Element, decltype(density)>, plan.blocks, plan.threads, plan.shared, call, plan,
           MixtureNumbers<float>(call), density);
  };
  if constexpr (sizeof(Element) == 4) {
    if (call.dimensions.block == 2) {
      return device::with_density<float>(call.family, 2, [&](auto density) {
        if constexpr (decltype(density)::block == 2) run(density);
      });
    }
  }
  device::with_independent_density<float>(call.family, run);
}

void launch_number_rows(const MixtureCall& call, const MixturePlan& plan, const Launcher& launch) {
  const auto run = [&](auto kernel) {
    launch(kernel, plan.blocks, plan.threads, plan.shared, call, plan, MixtureNumbers<float>(call),
           device::AnyFamily<float>(call.family));
  };
  switch (call.components) {
    case 2:
      return run(device::number_rows_nll<2>);
    case 3:
      return run(device::number_rows_nll<3>);
    case 4:
      return run(device::number_rows_nll<4>);
    case 5:
      return run(device::number_rows_nll<5>);
    default:
      return run(device::number_rows_nll<8>);
  }
}

template <class T>
void launch_staged(const MixtureCall& call, const MixturePlan& plan, bool shared, const Launcher& launch) {
  const auto run = [&](auto kernel, const auto& family) {
    launch(kernel, plan.blocks, plan.threads, plan.shared, call, plan, MixtureNumbers<T>(call), family);
  };
  using Any = device::AnyFamily<T>;
  if (!shared) return run(device::staged_nll<T, Any, false>, Any(call.family));
  if constexpr (sizeof(T) == 8) {
    run(device::staged_nll<T, Any, true>, Any(call.family));
  } else {
    device::with_family<T>(call.family, device::Families{},
                           [&](auto family) { run(device::staged_nll<T, decltype(family), true>, family); });
  }
}

void NllOnGpu::run(Call& call, const Tensor& loss) const {
  call.loss = address_of(loss);
  const Launcher launch{*this, "mixture_nll"};
  MixturePlan plan = plan_call(call);
  const bool small = plan_small_maps(plan, call), planar = !small && plan_planar(plan, call);
  const bool numbers = !small && !planar && plan_number_rows(plan, call);
  const bool streams = small || planar || numbers, shared = streams || plan_staged(plan, call);
  const Tensor workspace = fresh(loss, {place_workspace(plan, call, streams, nullptr)}, ScalarType::Byte);
  place_workspace(plan, call, streams, data_of<unsigned char>(workspace));
  if (call.reduced) {
    launch(device::observed_weight, plan.counting_blocks > 0 ? plan.counting_blocks : 1, counting_threads, 64, call,
           plan);
  }
  if (plan.blocks == 0) {  // nothing to do, but a sum of nothing
    plan.blocks = 1;
  }
  if (small) {
    with_small_map(call, [&](auto sizes) { sizes.launch(call, plan, launch); });
    return;
  }
  if (numbers) return launch_number_rows(call, plan, launch);
  if (!planar) {
    if (call.loc.dtype == DType::float64) return launch_staged<double>(call, plan, shared, launch);
    return launch_staged<float>(call, plan, shared, launch);
  }
  with_element_type(call.loc.dtype, [&](auto type) {
    using Element = typename decltype(type)::Type;
    if constexpr (sizeof(Element) < 8) launch_planar<Element>(call, plan, launch);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mdnkernels, CUDA, m) {
  m.impl("mixture_nll", TORCH_BOX(&mixture_nll<NllOnGpu>));
  m.impl("mixture_posterior", TORCH_BOX(&mixture_posterior<NllOnGpu>));
}

}  // namespace mdn
