// A block of positions: where it lies, what of it is observed, and the rows that the passes over it share.
#pragma once

#include "ops/mixture_nll/cpu.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {

// Hands out scratch in order, each piece on a cache line of its own.
class Scratch {
 public:
  explicit Scratch(void* memory) : begin_(static_cast<char*>(memory)), next_(begin_) {}
  template <class T>
  T* take(int64_t count) {
    T* result = reinterpret_cast<T*>(next_);
    next_ += (count * int64_t(sizeof(T)) + 63) / 64 * 64;
    return result;
  }
  int64_t bytes() const { return next_ - begin_; }

 private:
  char* const begin_;
  char* next_;
};

// What of a call does not depend on the position, and the rows of a block: of M components, C dimensions, S scales, Q
// entries of L. Where the assigned component is evaluated alone, all rows have M = 1
// but those of logits, alpha and share.
template <class T>
struct Workspace {
  Workspace(const MixtureCall& call, void* memory) {
    Scratch scratch(memory);
    const int64_t m = call.evaluated, c = call.dims, s = call.scales, g = call.groups > 0 ? call.groups : 1;
    const int64_t all = call.components;
    const int64_t q = call.tril.data ? call.dimensions.entries : 0;
    const auto rows = [&](int64_t count) { return Rows<T>{scratch.take<T>(count * call.block), call.block}; };
    inverse_kappa = scratch.take<T>(c);
    group_constant = scratch.take<T>(g);
    group_count = scratch.take<T>(g * s);
    slope = rows(m * c);
    inverse = rows(m * s);
    pull = rows(m * s);
    ratio = rows(m * s);
    power = rows(call.objective.rescales() ? m * s : 0);
    product = rows(m * q);
    loc_weight = rows(m * s);
    evidence = rows(m);
    alpha = rows(all);
    share = rows(all);
    observed = rows(g);
    anything = rows(1);
    constant = rows(1);
    count = rows(s);
    weight = rows(1);
    nll = rows(1);
    top = rows(1);
    sum = rows(1);
    factor = rows(1);
    assigned = rows(1);
    logits_in = rows(all);
    loc_in = rows(m * c);
    scale_in = rows(m * s);
    target_in = rows(c);
    tril_in = rows(m * q);
    logits_out = rows(all);
    loc_out = rows(m * c);
    scale_out = rows(m * s);
    target_out = rows(c);
    tril_out = rows(m * q);
    spread_out = scratch.take<T>(call.span);
    block_residuals = scratch.take<T>(call.dimensions.block * int64_t(lanes<T>));
    block_slopes = scratch.take<T>(call.dimensions.block * int64_t(lanes<T>));
    bytes = scratch.bytes();
  }

  T* inverse_kappa;  // [C] 1 / kappa
  T *group_constant,
      *group_count;    // [G], [G, S] of a group's dimensions: sum of log(kappa) + c, and how many a scale has
  Rows<T> slope;       // [M * C] dv / dz of the standardised residuals, 0 where not observed
  Rows<T> inverse;     // [M * S] 1 / sigma; once the shares are known, share / sigma
  Rows<T> loc_weight;  // [M * S] share / sigma, with the factors of loc's gradient
  Rows<T> pull;        // [M * S] the sum of the pulls of the scale's dimensions
  Rows<T> ratio;       // [M * S] d log sigma / d raw
  Rows<T> power;       // [M * S] what the gradients' factors have of sigma
  Rows<T> product;     // [M * Q] dv / dl, summed over the blocks where they share L
  Rows<T> evidence;    // [M] log alpha + log phi
  Rows<T> alpha;       // [M] the mixing weight times what the weights sum to
  Rows<T> share;       // [M] the component's posterior share times the position's factor
  Rows<T> observed;    // [G] all bits set, or none
  Rows<T> anything;    // [1] the same, whether anything is observed
  Rows<T> constant;    // [1] sum over observed dimensions of log(kappa) and the density's constant
  Rows<T> count;       // [S] observed dimensions of each scale
  Rows<T> weight, nll;
  Rows<T> top, sum;  // [1] the largest logit, later what the shares sum to; what alpha sums to
  Rows<T> assigned;  // [1] the component that the caller assigned
  Rows<T> factor;    // [1] what gradients are multiplied by at a position
  Rows<T> logits_in, loc_in, scale_in, target_in, tril_in;  // copies of what cannot be read in place
  Rows<T> logits_out, loc_out, scale_out, target_out, tril_out;
  T* spread_out;                      // [span] a channel of all positions, where only the observed ones are computed
  T *block_residuals, *block_slopes;  // [D] vectors, of one block of correlated dimensions
  int64_t bytes;
};

template <class T>
MDN_INLINE T all_bits() {
  T value;
  __builtin_memset(&value, 0xff, sizeof value);
  return value;
}

template <class V, class M>
MDN_INLINE V where_bits(M bits, V value) {
  return reinterpret_cast<V>(reinterpret_cast<M>(value) & bits);
}

template <class T>
MDN_INLINE Mask<T> load_bits(const T* from) {
  return reinterpret_cast<Mask<T>>(load(from));
}

template <class T>
class Block {
  static constexpr int step = lanes<T>;

 public:
  Block(const MixtureCall& call, void* memory) : call(call), work(call, memory) {}

  // Takes the block that begins at `begin` and ends before `end`, and looks at what of it is observed. Returns the
  // weight of the positions with something observed.
  double observe(int64_t begin, int64_t end) {
    compact = false;
    place(begin, end);
    return look();
  }

  // How many positions it stands for.
  int64_t count() const { return compact ? whole_.count : positions.count; }

  // Prepares what the passes read: rows of the mask as bits, and the parameters. False where nothing is observed: then
  // no parameter is read.
  bool prepare(int64_t end) {
    if (masked && sparse() && !call.index) keep_observed(end);
    choose_outputs();
    if (observed_count == 0) return false;
    const T all = all_bits<T>();
    T* anything = work.anything[0];
    for (int i = 0; i < padded; ++i) anything[i] = i < positions.count && seen_[i] != 0 ? all : T(0);
    if (masked) read_mask();
    read_parameters();
    return true;
  }

  void finish_outputs() {
    const int64_t m = call.evaluated;
    if (call.parameter_gradients) {
      write_output(call.grad_logits, call.components, grad_logits, work.logits_out);
      write_gradient(call.grad_loc, m * call.dims, grad_loc, work.loc_out);
      write_gradient(call.grad_scale, m * call.scales, grad_scale, work.scale_out);
      if (call.grad_tril.data) write_gradient(call.grad_tril, m * call.dimensions.entries, grad_tril, work.tril_out);
    }
    if (call.target_gradient) write_output(call.grad_target, call.dims, grad_target, work.target_out);
    if (call.nll.data) write_output(call.nll, 1, work.nll, work.nll);
    if (call.posterior.data) write_output(call.posterior, call.components, posterior, work.logits_out);
  }

  void write_zeros() {
    const auto zero = [&](Rows<T> rows, Rows<T> scratch, int64_t count) {
      for (int64_t r = 0; r < count; ++r) {
        write_row(rows[r], rows.data != scratch.data, [](int) { return Vector<T>{}; });
      }
    };
    const int64_t m = call.evaluated;
    zero(work.nll, work.nll, 1);
    if (call.posterior.data) zero(posterior, work.logits_out, call.components);
    if (call.parameter_gradients) {
      zero(grad_logits, work.logits_out, call.components);
      zero(grad_loc, work.loc_out, m * call.dims);
      zero(grad_scale, work.scale_out, m * call.scales);
      if (call.grad_tril.data) zero(grad_tril, work.tril_out, m * call.dimensions.entries);
    }
    if (call.target_gradient) zero(grad_target, work.target_out, call.dims);
  }

  // Whether all rows of an output are computed in place and can go past the caches.
  bool streamed(Rows<T> rows, Rows<T> scratch) const {
    return rows.data != scratch.data && aligned(rows.data) && rows.stride * int64_t(sizeof(T)) % MDN_VECTOR_BYTES == 0;
  }

  // What a slope is multiplied by for the gradient of loc, beside its scale's weight.
  T loc_factor(int dim) const {
    return call.objective.natural && call.dim_scale ? -T(call.dim_scale[dim]) : -work.inverse_kappa[dim];
  }

  // A row of an output. Rows computed in place go past the caches.
  template <class Value>
  MDN_INLINE void write_row(T* to, bool in_place, Value value_at) const {
    const int count = padded;
    if (in_place && aligned(to)) {
      for (int i = 0; i < count; i += step) store_past_cache(to + i, value_at(i));
    } else {
      for (int i = 0; i < count; i += step) store(to + i, value_at(i));
    }
  }

  int group_of(int dim) const { return call.mask.data ? dim / (call.dims / call.groups) : 0; }

  const MixtureCall& call;
  Workspace<T> work;
  Positions positions;
  int padded = 0;       // positions up to a whole vector
  bool masked = false;  // whether anything is not observed
  // A block of which little is observed computes these positions alone, side by side, and spreads its outputs out
  // again.
  bool compact = false;
  int observed_count = 0;
  const T* weight = nullptr;
  // The gradients of loc that are not written yet: they are the products of work.slope and work.loc_weight. The block
  // that follows writes each row just before it puts its own slopes there: memory then reads and writes at once, where
  // it would wait for the one and then for the other, and scratch passes through the first-level cache once.
  struct Pending {
    Rows<T> grad_loc;
    int padded = 0;  // 0: nothing is pending
  };
  Pending pending;
  Rows<const T> logits, loc, scale, target, tril;
  Rows<T> grad_logits, grad_loc, grad_scale, grad_target, grad_tril, posterior;

 private:
  void place(int64_t begin, int64_t end) {
    positions.count = static_cast<int>(end - begin < call.block ? end - begin : call.block);
    positions.first_batch = begin / call.points;
    positions.first_point = begin % call.points;
    positions.one_batch = positions.first_point + positions.count <= call.points;
    int64_t b = positions.first_batch, p = positions.first_point;
    if (positions.one_batch) {
      for (int i = 0; i < positions.count; ++i) batch_[i] = b, point_[i] = p + i;
    } else {
      for (int i = 0; i < positions.count; ++i) {
        batch_[i] = b;
        point_[i] = p;
        if (++p == call.points) p = 0, ++b;
      }
    }
    positions.batch = batch_;
    positions.point = point_;
    positions.chosen = call.index ? call.index + begin : nullptr;
    begin_ = begin;
    padded = (positions.count + step - 1) / step * step;
  }

  // Which positions have something observed, and whether anything is not.
  double look() {
    const int count = positions.count;
    int all_count = count;
    observed_count = count;
    if (call.mask.data || call.index || call.assigned) {
      uint8_t whole[largest_block];
      __builtin_memset(seen_, 1, count);
      __builtin_memset(whole, 1, count);
      if (call.mask.data) look_at_mask(whole);
      if (call.index) leave_out(call.index + begin_, whole);
      if (call.assigned) leave_out(call.assigned + begin_, whole);
      observed_count = all_count = 0;
      for (int i = 0; i < count; ++i) observed_count += seen_[i], all_count += whole[i];
    } else {
      __builtin_memset(seen_, 1, count);
    }
    masked = all_count != count;
    weight = nullptr;
    if (!call.weight.data) return observed_count;
    weight = rows_of<T>(call.weight, positions, 1, work.weight)[0];
    LaneSums<T> sum;
    T* chosen = work.nll[0];
    for (int i = 0; i < padded; ++i) chosen[i] = i < count && seen_[i] != 0 ? weight[i] : T(0);
    for (int i = 0; i < padded; i += step) sum.add(load(chosen + i));
    return sum.total();
  }

  void look_at_mask(uint8_t* whole) {
    const int count = positions.count, groups = call.groups;
    if (side_by_side(call.mask, positions)) {
      const uint8_t* mask = static_cast<const uint8_t*>(call.mask.data) + origin(call.mask, positions);
      uint8_t* __restrict any = seen_;
      uint8_t* __restrict every = whole;
      for (int i = 0; i < count; ++i) any[i] = every[i] = mask[i] != 0;
      for (int g = 1; g < groups; ++g) {
        const uint8_t* __restrict row = mask + g * call.mask.channel_stride;
        for (int i = 0; i < count; ++i) any[i] |= row[i] != 0, every[i] &= row[i] != 0;
      }
      return;
    }
    const Rows<const T> rows = rows_of<T>(call.mask, positions, groups, work.observed);
    for (int i = 0; i < count; ++i) seen_[i] = whole[i] = rows[0][i] != 0;
    for (int g = 1; g < groups; ++g) {
      const T* row = rows[g];
      for (int i = 0; i < count; ++i) seen_[i] |= row[i] != 0, whole[i] &= row[i] != 0;
    }
  }

  // Where an index is negative nothing is observed.
  void leave_out(const int64_t* index, uint8_t* whole) {
    for (int i = 0; i < positions.count; ++i) {
      const uint8_t real = index[i] >= 0;
      seen_[i] &= real;
      whole[i] &= real;
    }
  }

  bool sparse() const { return 3 * observed_count < positions.count; }

  // Whether every output has the positions side by side.
  bool outputs_planar() const {
    const auto planar = [](const View& view) { return !view.data || view.point_stride == 1; };
    return planar(call.grad_logits) && planar(call.grad_loc) && planar(call.grad_scale) && planar(call.grad_target) &&
           planar(call.grad_tril) && planar(call.posterior) && planar(call.nll);
  }

  // Turns this block into its observed positions alone, and takes in as many of the next positions up to `end` as are
  // as sparse and as a block has room for: rows of a channel are then read and written in longer runs, which is what
  // these blocks spend their time on.
  void keep_observed(int64_t end) {
    compact = true;
    whole_ = positions;
    int kept = 0;
    const auto keep = [&] {
      for (int i = 0; i < positions.count; ++i) {
        if (seen_[i] == 0) continue;
        kept_[kept] = whole_.one_batch ? static_cast<int>(point_[i] - whole_.first_point) : i;
        kept_batch_[kept] = batch_[i];
        kept_point_[kept] = point_[i];
        ++kept;
      }
    };
    keep();
    if (whole_.one_batch && outputs_planar()) {
      const int64_t image_end = (whole_.first_batch + 1) * call.points;
      const int64_t begin = whole_.first_batch * call.points + whole_.first_point;
      int64_t last = begin + call.span < image_end ? begin + call.span : image_end;
      if (end < last) last = end;
      while (begin + whole_.count < last) {
        place(begin + whole_.count, last);
        look();
        if (!sparse() || kept + observed_count > call.block) break;
        keep();
        whole_.count += positions.count;
      }
    }
    masked = true;
    observed_count = kept;
    positions = {kept_batch_[0], kept_point_[0], kept, false, kept_batch_, kept_point_, nullptr};
    padded = (kept + step - 1) / step * step;
    __builtin_memset(seen_, 1, kept);
    if (kept > 0 && weight) weight = rows_of<T>(call.weight, positions, 1, work.weight)[0];
  }

  // Turns the mask into bits: what is left of a number is that number, or 0.
  void read_mask() {
    const T all = all_bits<T>();
    const T* anything = work.anything[0];
    if (!call.mask.data) {
      for (int i = 0; i < padded; i += step) store(work.observed[0] + i, load(anything + i));
      return;
    }
    const bool in_place = side_by_side(call.mask, positions);
    if (!in_place) rows_of<T>(call.mask, positions, call.groups, work.observed);
    for (int g = 0; g < call.groups; ++g) {
      T* __restrict row = work.observed[g];
      if (in_place) {
        const uint8_t* __restrict mask =
            static_cast<const uint8_t*>(call.mask.data) + origin(call.mask, positions) + g * call.mask.channel_stride;
        for (int i = 0; i < positions.count; ++i) row[i] = mask[i] != 0 ? all : T(0);
        for (int i = positions.count; i < padded; ++i) row[i] = 0;
      } else {
        for (int i = 0; i < padded; ++i) row[i] = row[i] != 0 ? all : T(0);
      }
      if (!call.index && !call.assigned) continue;
      for (int i = 0; i < padded; i += step) store(row + i, where_bits(load_bits(anything + i), load(row + i)));
    }
  }

  void read_parameters() {
    const int64_t m = call.evaluated;
    if (call.assigned) read_assigned();
    const Positions places = evaluated_places();
    logits = rows_of<T>(call.logits, positions, call.components, work.logits_in);
    loc = rows_of<T>(call.loc, places, m * call.dims, work.loc_in);
    scale = rows_of<T>(call.scale, places, m * call.scales, work.scale_in);
    target = rows_of<T>(call.target, positions, call.dims, work.target_in);
    if (call.tril.data) tril = rows_of<T>(call.tril, places, m * call.dimensions.entries, work.tril_in);
  }

  // Lane by lane the component that the caller assigned, as a number too.
  void read_assigned() {
    T* numbers = work.assigned[0];
    for (int i = 0; i < padded; ++i) {
      component_[i] =
          i < positions.count ? call.assigned[positions.batch[i] * call.points + positions.point[i]] : int64_t(-1);
      numbers[i] = T(component_[i]);
    }
  }

  // Where the parameters that are read lie: of all components, or of the assigned ones alone.
  Positions evaluated_places() const {
    Positions places = positions;
    if (call.evaluated < call.components) places.component = component_;
    return places;
  }

  void choose_outputs() {
    if (call.parameter_gradients) {
      const Positions places = evaluated_places();
      grad_logits = output_rows<T>(call.grad_logits, positions, work.logits_out);
      grad_loc = output_rows<T>(call.grad_loc, places, work.loc_out);
      grad_scale = output_rows<T>(call.grad_scale, places, work.scale_out);
      if (call.grad_tril.data) grad_tril = output_rows<T>(call.grad_tril, places, work.tril_out);
    }
    if (call.target_gradient) grad_target = output_rows<T>(call.grad_target, positions, work.target_out);
    if (call.posterior.data) posterior = output_rows<T>(call.posterior, positions, work.logits_out);
  }

  // An output of the whole block from the rows of its kept positions.
  void spread(const View& view, int64_t channels, Rows<T> kept) {
    const Rows<T> buffer = {work.spread_out, call.span};
    const int count = whole_.count, vectors = count / step * step;
    for (int i = 0; i < count; ++i) buffer[0][i] = 0;
    View channel = view;
    for (int64_t c = 0; c < channels; ++c) {
      for (int k = 0; k < positions.count; ++k) buffer[0][kept_[k]] = kept[c][k];  // the same places for each channel
      channel.data = static_cast<T*>(view.data) + c * view.channel_stride;
      if (!side_by_side(view, whole_)) {
        write_rows<T>(channel, whole_, 1, buffer, buffer);
        continue;
      }
      T* to = static_cast<T*>(channel.data) + origin(view, whole_);
      if (aligned(to)) {
        for (int i = 0; i < vectors; i += step) store_past_cache(to + i, load(buffer[0] + i));
      } else {
        for (int i = 0; i < vectors; i += step) store(to + i, load(buffer[0] + i));
      }
      for (int i = vectors; i < count; ++i) to[i] = buffer[0][i];
    }
  }

  // A gradient of what is evaluated. Beside that of one component lie zeros already, at positions left out too.
  void write_gradient(const View& view, int64_t channels, Rows<T> rows, Rows<T> scratch) {
    if (call.evaluated == call.components) return write_output(view, channels, rows, scratch);
    if (observed_count > 0) write_rows<T>(view, evaluated_places(), channels, rows, scratch);
  }

  void write_output(const View& view, int64_t channels, Rows<T> rows, Rows<T> scratch) {
    if (compact) {
      spread(view, channels, rows);
    } else {
      write_rows<T>(view, positions, channels, rows, scratch);
    }
  }

  int64_t begin_ = 0;
  Positions whole_;
  uint8_t seen_[largest_block];
  int64_t batch_[largest_block], point_[largest_block], component_[largest_block];
  int kept_[largest_block];  // places in the whole block
  int64_t kept_batch_[largest_block], kept_point_[largest_block];
};

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
