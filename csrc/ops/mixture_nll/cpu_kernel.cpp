// Loss and gradients of one block of positions. Built once for each instruction set.
//
// Memory story. With M components, C dimensions and P positions the floor is reading M (1 + C + S) + C values a
// position (and the mask) and writing M (1 + C + S). Both happen once: a block of up to 256 positions keeps its
// standardised residuals z, M C values a position, in scratch that stays in the second-level cache, so that the
// gradients need no second pass over the inputs. Gradients go past the caches. A block with nothing observed reads no
// parameter at all.
#include "mixture/correlation.h"
#include "ops/mixture_nll/cpu.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {
namespace {

// Hands out rows of scratch, in order.
template <class T>
class Scratch {
 public:
  Scratch(void* memory, int block) : next_(static_cast<T*>(memory)), block_(block) {}
  Rows<T> rows(int64_t count) {
    Rows<T> result{next_, block_};
    next_ += count * block_;
    return result;
  }

 private:
  T* next_;
  int block_;
};

template <class T>
struct Workspace {
  explicit Workspace(const MixtureCall& call, void* memory) : Workspace(call, Scratch<T>(memory, call.block)) {}
  Workspace(const MixtureCall& call, Scratch<T> scratch) {
    const int64_t m = call.components, c = call.dims, s = call.scales, g = call.groups > 0 ? call.groups : 1;
    z = scratch.rows(m * c);
    inverse = scratch.rows(m * s);
    derivative = scratch.rows(m * s);
    pull = scratch.rows(m * s);
    evidence = scratch.rows(m);
    alpha = scratch.rows(m);
    share = scratch.rows(m);
    observed = scratch.rows(g);
    anything = scratch.rows(1);
    constant = scratch.rows(1);
    count = scratch.rows(s);
    weight = scratch.rows(1);
    nll = scratch.rows(1);
    logits_in = scratch.rows(m);
    loc_in = scratch.rows(m * c);
    scale_in = scratch.rows(m * s);
    target_in = scratch.rows(c);
    logits_out = scratch.rows(m);
    loc_out = scratch.rows(m * c);
    scale_out = scratch.rows(m * s);
    target_out = scratch.rows(c);
    spread_out = scratch.rows(call.span / call.block).data;
  }
  static int64_t row_count(const MixtureCall& call) {
    const int64_t m = call.components, c = call.dims, s = call.scales, g = call.groups > 0 ? call.groups : 1;
    return 3 * m * c + 5 * m * s + 5 * m + 2 * c + g + s + 4 + call.span / call.block;
  }

  Rows<T> z;                          // [M * C] standardised residuals, 0 where not observed
  Rows<T> inverse, derivative, pull;  // [M * S] 1 / sigma, d sigma / d raw, the sum of the pulls of the dimensions
  Rows<T> evidence;                   // [M] log alpha + log phi
  Rows<T> alpha;                      // [M] the mixing weight times what the weights sum to
  Rows<T> share;                      // [M] the component's posterior share times the position's factor
  Rows<T> observed;                   // [G] 1 or 0
  Rows<T> anything;                   // [1] whether anything is observed
  Rows<T> constant;                   // [1] sum over observed dimensions of log(kappa) and the density's constant
  Rows<T> count;                      // [S] observed dimensions of each scale
  Rows<T> weight, nll;
  T* spread_out;  // [span] a channel of all positions, where only the observed ones are computed
  Rows<T> logits_in, loc_in, scale_in, target_in;  // copies of what cannot be read in place
  Rows<T> logits_out, loc_out, scale_out, target_out;
};

// One block of one call. A member function is one pass over the block.
template <class T, class Density>
class Block {
  using V = Vector<T>;
  static constexpr int step = lanes<T>;

 public:
  // The block that begins at `begin`, at most up to `end`.
  Block(const MixtureCall& call, const Density& density, int64_t begin, int64_t end, void* memory)
      : call_(call), density_(density), work_(call, memory) {
    masked_ = call.mask.data || call.index;
    place(begin, end);
  }

  // How many positions it stands for.
  int64_t count() const { return compact_ ? whole_.count : positions_.count; }

  // Reads mask, index and weight. Returns the weight of the positions with something observed.
  double observe() {
    const int groups = call_.mask.data ? call_.groups : 1;
    T* anything = work_.anything[0];
    for (int i = 0; i < padded_; ++i) anything[i] = masked_ || i >= positions_.count ? T(0) : T(1);
    if (call_.mask.data) rows_of<T>(call_.mask, positions_, groups, work_.observed);
    if (call_.index) {
      for (int g = 0; g < groups; ++g) {
        T* observed = work_.observed[g];
        for (int i = 0; i < positions_.count; ++i) {
          const bool real = chosen_[i] >= 0;
          observed[i] = real && (!call_.mask.data || observed[i] != 0) ? T(1) : T(0);
        }
        for (int i = positions_.count; i < padded_; ++i) observed[i] = 0;
      }
    }
    weight_ = nullptr;
    if (call_.weight.data) weight_ = rows_of<T>(call_.weight, positions_, 1, work_.weight)[0];
    LaneSums<T> sum, count;
    for (int i = 0; i < padded_; i += step) {
      V seen = load(anything + i);
      if (masked_) {
        for (int g = 0; g < groups; ++g) seen = maximum(seen, load(work_.observed[g] + i));
        store(anything + i, seen);
      }
      sum.add(weight_ ? (seen != 0 ? load(weight_ + i) : V{}) : seen);
      count.add(seen);
    }
    observed_count_ = static_cast<int>(count.total());
    return sum.total();
  }

  double run(int64_t end) {
    observe();
    if (masked_ && !call_.index && sparse()) keep_observed(end);
    any_observed_ = observed_count_ > 0;
    choose_outputs();
    double sum = 0;
    if (any_observed_) {
      read_parameters();
      sum_constants();
      for (int m = 0; m < call_.components; ++m) standardise(m);
      sum = combine();
      if (call_.parameter_gradients || call_.target_gradient) differentiate();
    } else {
      write_zeros();
    }
    finish_outputs();
    return sum;
  }

 private:
  void place(int64_t begin, int64_t end) {
    positions_.count = static_cast<int>(end - begin < call_.block ? end - begin : call_.block);
    positions_.first_batch = begin / call_.points;
    positions_.first_point = begin % call_.points;
    positions_.one_batch = positions_.first_point + positions_.count <= call_.points;
    if (positions_.one_batch) {
      for (int i = 0; i < positions_.count; ++i) {
        batch_[i] = positions_.first_batch;
        point_[i] = positions_.first_point + i;
      }
    } else {
      int64_t b = positions_.first_batch, p = positions_.first_point;
      for (int i = 0; i < positions_.count; ++i) {
        batch_[i] = b;
        point_[i] = p;
        if (++p == call_.points) p = 0, ++b;
      }
    }
    positions_.batch = batch_;
    positions_.point = point_;
    positions_.chosen = nullptr;
    if (call_.index) {
      for (int i = 0; i < positions_.count; ++i) chosen_[i] = call_.index[begin + i];
      positions_.chosen = chosen_;
    }
    padded_ = (positions_.count + step - 1) / step * step;
  }

  bool sparse() const { return 3 * observed_count_ < positions_.count; }

  // Whether every output has the positions side by side.
  bool outputs_planar() const {
    const auto planar = [](const View& view) { return !view.data || view.point_stride == 1; };
    return planar(call_.grad_logits) && planar(call_.grad_loc) && planar(call_.grad_scale) &&
           planar(call_.grad_target) && planar(call_.nll);
  }

  // Turns this block into its observed positions alone, and takes in as many of the next positions up to `end` as are
  // as sparse and as a block has room for: rows of a channel are then read and written in longer runs, which is what
  // these blocks spend their time on.
  void keep_observed(int64_t end) {
    compact_ = true;
    whole_ = positions_;
    int kept = 0;
    const auto keep = [&] {
      for (int i = 0; i < positions_.count; ++i) {
        if (work_.anything[0][i] == 0) continue;
        kept_[kept] = static_cast<int>(point_[i] - whole_.first_point);
        if (!whole_.one_batch) kept_[kept] = i;
        kept_batch_[kept] = batch_[i];
        kept_point_[kept] = point_[i];
        ++kept;
      }
    };
    keep();
    if (whole_.one_batch && outputs_planar()) {
      const int64_t image_end = (whole_.first_batch + 1) * call_.points;
      const int64_t begin = whole_.first_batch * call_.points + whole_.first_point;
      const int64_t last = begin + call_.span < image_end ? begin + call_.span : image_end;
      while (begin + whole_.count < (last < end ? last : end)) {
        place(begin + whole_.count, last < end ? last : end);
        observe();
        if (!sparse() || kept + observed_count_ > call_.block) break;
        keep();
        whole_.count += positions_.count;
      }
    }
    observed_count_ = kept;
    positions_ = {kept_batch_[0], kept_point_[0], kept, false, kept_batch_, kept_point_, nullptr};
    padded_ = (kept + step - 1) / step * step;
    if (kept == 0) return;
    rows_of<T>(call_.mask, positions_, call_.groups, work_.observed);
    for (int i = 0; i < padded_; ++i) work_.anything[0][i] = i < kept ? T(1) : T(0);
    if (weight_) weight_ = rows_of<T>(call_.weight, positions_, 1, work_.weight)[0];
  }

  // An output of the whole block from the rows of its kept positions.
  void spread(const View& view, int64_t channels, Rows<T> kept) {
    const Rows<T> buffer = {work_.spread_out, call_.span};
    const int count = whole_.count, vectors = count / step * step;
    for (int i = 0; i < count; ++i) buffer[0][i] = 0;
    View channel = view;
    for (int64_t c = 0; c < channels; ++c) {
      for (int k = 0; k < positions_.count; ++k) buffer[0][kept_[k]] = kept[c][k];  // the same places for each channel
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

  void write_output(const View& view, int64_t channels, Rows<T> rows, Rows<T> scratch) {
    if (compact_) {
      spread(view, channels, rows);
    } else {
      write_rows<T>(view, positions_, channels, rows, scratch);
    }
  }

  void choose_outputs() {
    if (call_.parameter_gradients) {
      grad_logits_ = output_rows<T>(call_.grad_logits, positions_, work_.logits_out);
      grad_loc_ = output_rows<T>(call_.grad_loc, positions_, work_.loc_out);
      grad_scale_ = output_rows<T>(call_.grad_scale, positions_, work_.scale_out);
    }
    if (call_.target_gradient) grad_target_ = output_rows<T>(call_.grad_target, positions_, work_.target_out);
  }

  void finish_outputs() {
    const int64_t m = call_.components;
    if (call_.parameter_gradients) {
      write_output(call_.grad_logits, m, grad_logits_, work_.logits_out);
      write_output(call_.grad_loc, m * call_.dims, grad_loc_, work_.loc_out);
      write_output(call_.grad_scale, m * call_.scales, grad_scale_, work_.scale_out);
    }
    if (call_.target_gradient) write_output(call_.grad_target, call_.dims, grad_target_, work_.target_out);
    if (call_.nll.data) write_output(call_.nll, 1, work_.nll, work_.nll);
    finish_stores();
  }

  void write_zeros() {
    const auto zero = [&](Rows<T> rows, Rows<T> scratch, int64_t count) {
      for (int64_t r = 0; r < count; ++r) {
        write_row(rows[r], rows.data != scratch.data, [](int) { return V{}; });
      }
    };
    zero(work_.nll, work_.nll, 1);
    if (call_.parameter_gradients) {
      zero(grad_logits_, work_.logits_out, call_.components);
      zero(grad_loc_, work_.loc_out, int64_t(call_.components) * call_.dims);
      zero(grad_scale_, work_.scale_out, int64_t(call_.components) * call_.scales);
    }
    if (call_.target_gradient) zero(grad_target_, work_.target_out, call_.dims);
  }

  void read_parameters() {
    const int64_t m = call_.components;
    logits_ = rows_of<T>(call_.logits, positions_, m, work_.logits_in);
    loc_ = rows_of<T>(call_.loc, positions_, m * call_.dims, work_.loc_in);
    scale_ = rows_of<T>(call_.scale, positions_, m * call_.scales, work_.scale_in);
    target_ = rows_of<T>(call_.target, positions_, call_.dims, work_.target_in);
    dims_in_group_ = call_.mask.data ? call_.dims / call_.groups : call_.dims;
  }

  const T* observed(int d) const { return work_.observed[d / dims_in_group_]; }

  Mask<T> anything(int i) const { return load(work_.anything[0] + i) != 0; }

  T log_constant(int d) const {
    const T kappa = call_.dim_scale ? T(__builtin_log(call_.dim_scale[d])) : T(0);
    return kappa + density_.constant;
  }

  T inverse_kappa(int d) const { return call_.dim_scale ? T(1.0 / call_.dim_scale[d]) : T(1); }

  // Everything about the densities that does not depend on the component.
  void sum_constants() {
    const int groups = call_.mask.data ? call_.groups : 1;
    T* constant = work_.constant[0];
    for (int i = 0; i < padded_; ++i) constant[i] = 0;
    for (int s = 0; s < call_.scales; ++s) {
      for (int i = 0; i < padded_; ++i) work_.count[s][i] = 0;
    }
    if (masked_ && !call_.dim_scale && dims_in_group_ % call_.scales == 0) {
      // Every mask covers each scale as often: one count serves all, and the constant follows from it.
      T* count = work_.count[0];
      for (int g = 0; g < groups; ++g) {
        for (int i = 0; i < padded_; ++i) count[i] += work_.observed[g][i];
      }
      for (int i = 0; i < padded_; ++i) {
        constant[i] = count[i] * T(dims_in_group_) * density_.constant;
        count[i] *= T(dims_in_group_ / call_.scales);
      }
      for (int s = 1; s < call_.scales; ++s) {
        for (int i = 0; i < padded_; ++i) work_.count[s][i] = count[i];
      }
      return;
    }
    for (int d = 0; d < call_.dims; ++d) {
      const T value = log_constant(d);
      T* count = work_.count[d % call_.scales];
      for (int i = 0; i < padded_; ++i) {
        const T seen = masked_ ? observed(d)[i] : T(1);
        constant[i] += seen * value;
        count[i] += seen;
      }
    }
  }

  // One component: its scales, its standardised residuals, and log phi.
  void standardise(int m) {
    const T min_scale = T(call_.min_scale);
    const T unseen_scale = call_.activation == ScaleActivation::identity ? T(1) : T(0);
    T* evidence = work_.evidence[m];
    for (int i = 0; i < padded_; i += step) store(evidence + i, V(-load(work_.constant[0] + i)));
    for (int s = 0; s < call_.scales; ++s) {
      const int64_t ms = int64_t(m) * call_.scales + s;
      const T* raw_row = scale_[ms];
      T *inverse = work_.inverse[ms], *pull = work_.pull[ms];
      for (int i = 0; i < padded_; i += step) {
        V raw = load(raw_row + i);
        // A scale all of whose dimensions are unobserved leaves the density, whatever it holds.
        if (masked_) raw = load(work_.count[s] + i) != 0 ? raw : broadcast<T>(unseen_scale);
        const Scale<V> scale = activate<V, T>(call_.activation, raw, min_scale);
        store(inverse + i, V(1 / scale.sigma));
        store(work_.derivative[ms] + i, scale.derivative);
        store(pull + i, V{});
        store(evidence + i, V(load(evidence + i) - load(work_.count[s] + i) * log(scale.sigma)));
      }
      if (masked_) {
        all_residuals<true>(m, s, inverse, pull, evidence);
      } else {
        all_residuals<false>(m, s, inverse, pull, evidence);
      }
      if constexpr (Density::value_of_pull != 0) {
        for (int i = 0; i < padded_; i += step) {
          store(evidence + i, V(load(evidence + i) - Density::value_of_pull * load(pull + i)));
        }
      }
    }
  }

  // Four dimensions of a scale at a time share what they load of it.
  template <bool masked>
  void all_residuals(int m, int s, const T* inverse, T* pull, T* evidence) {
    int d = s;
    for (; d + 3 * call_.scales < call_.dims; d += 4 * call_.scales) {
      residuals<masked, 4>(m, d, inverse, pull, evidence);
    }
    for (; d < call_.dims; d += call_.scales) residuals<masked, 1>(m, d, inverse, pull, evidence);
  }

  // Rows lie far apart in memory and are short, so the hardware's prefetchers lose them at each end: while these
  // `count` rows are computed, the rows four dimensions of the scale further on are asked for.
  template <bool masked, int count>
  MDN_INLINE void residuals(int m, int d, const T* inverse, T* pull, T* evidence) {
    const int scales = call_.scales;
    const T *target[count], *loc[count], *seen[count];
    T *z_row[count], kappa[count];
    for (int j = 0; j < count; ++j) {
      const int dim = d + j * scales;
      const int64_t row = int64_t(m) * call_.dims + dim;
      target[j] = target_[dim];
      loc[j] = loc_[row];
      seen[j] = masked ? observed(dim) : nullptr;
      z_row[j] = work_.z[row];
      kappa[j] = inverse_kappa(dim);
    }
    const int64_t loc_ahead = 4 * scales * loc_.stride, target_ahead = m == 0 ? 4 * scales * target_.stride : 0;
    for (int i = 0; i < padded_; i += step) {
      const V inverse_sigma = load(inverse + i);
      V sum_of_pulls = load(pull + i), value = V{};
      for (int j = 0; j < count; ++j) {
        __builtin_prefetch(loc[j] + i + loc_ahead);
        if (target_ahead != 0) __builtin_prefetch(target[j] + i + target_ahead);
        V z = (load(target[j] + i) - load(loc[j] + i)) * (inverse_sigma * kappa[j]);
        if (masked) z = load(seen[j] + i) != 0 ? z : V{};
        store(z_row[j] + i, z);
        sum_of_pulls += density_.pull(z, z);
        if constexpr (Density::value_of_pull == 0) value += density_.value(z, z);
      }
      store(pull + i, sum_of_pulls);
      if constexpr (Density::value_of_pull == 0) store(evidence + i, V(load(evidence + i) - value));
    }
  }

  // The loss of each position, and each component's posterior share. Returns the weighted sum of the losses.
  double combine() {
    const int count = call_.components;
    LaneSums<T> sum_of_losses;
    for (int i = 0; i < padded_; i += step) {
      const Mask<T> seen = anything(i);
      V top = masked_logit(0, i, seen);
      for (int m = 1; m < count; ++m) top = maximum(top, masked_logit(m, i, seen));
      V sum = V{};
      for (int m = 0; m < count; ++m) {
        const V e = exp(V(masked_logit(m, i, seen) - top));
        store(work_.alpha[m] + i, e);
        sum += e;
      }
      const V normaliser = log(sum), inverse_sum = 1 / sum;
      // From here on log alpha = logit - top - normaliser. The sum is at least 1, so its logarithm is finite.
      V best = broadcast<T>(-T(__builtin_inf()));
      for (int m = 0; m < count; ++m) {
        const V log_alpha = masked_logit(m, i, seen) - top - normaliser;
        const V evidence = log_alpha + load(work_.evidence[m] + i);
        store(work_.evidence[m] + i, evidence);
        best = maximum(evidence, best);
      }
      best =
          best == -broadcast<T>(T(__builtin_inf())) ? V{} : best;  // no density at all: the loss is inf, not inf - inf
      V total = V{};
      for (int m = 0; m < count; ++m) {
        const V e = exp(V(load(work_.evidence[m] + i) - best));
        store(work_.share[m] + i, e);
        total += e;
      }
      V loss = -(best + log(total));
      V factor = broadcast<T>(T(call_.gradient_factor));
      if (weight_) {
        loss *= load(weight_ + i);
        factor *= load(weight_ + i);
      }
      loss = seen ? loss : V{};
      store(work_.nll[0] + i, loss);
      sum_of_losses.add(loss);
      factor = seen ? factor : V{};
      const V inverse_total = 1 / total;
      for (int m = 0; m < count; ++m) {
        const V posterior = seen ? load(work_.share[m] + i) * inverse_total : V{};
        store(work_.share[m] + i, V(posterior * factor));
        if (call_.parameter_gradients) {
          const V alpha = load(work_.alpha[m] + i) * inverse_sum;
          store(grad_logits_[m] + i, seen ? (alpha - posterior) * factor : V{});
        }
      }
    }
    return sum_of_losses.total();
  }

  MDN_INLINE V masked_logit(int m, int i, Mask<T> seen) const {
    const V logit = load(logits_[m] + i);
    return seen ? logit : V{};
  }

  void differentiate() {
    if (call_.target_gradient) {
      for (int d = 0; d < call_.dims; ++d) {
        for (int i = 0; i < padded_; i += step) store(grad_target_[d] + i, V{});
      }
    }
    const bool loc_in_place = grad_loc_.data != work_.loc_out.data;
    // Memory has nothing to read meanwhile: it is asked for the same rows of the block that follows.
    const int ahead = loc_.data != work_.loc_in.data ? positions_.count : 0;
    for (int m = 0; m < call_.components; ++m) {
      const T* share = work_.share[m];
      for (int s = 0; s < call_.scales; ++s) {
        const int64_t ms = int64_t(m) * call_.scales + s;
        T* inverse = work_.inverse[ms];
        for (int i = 0; i < padded_; i += step) {
          const V weight = load(share + i) * load(inverse + i);
          if (call_.parameter_gradients) {
            const V grad = weight * (load(work_.count[s] + i) - load(work_.pull[ms] + i));
            store(grad_scale_[ms] + i, V(grad * load(work_.derivative[ms] + i)));
          }
          store(inverse + i, weight);  // share / sigma: what all dimensions of this scale multiply
        }
        for (int d = s; d < call_.dims; d += call_.scales) {
          const T* z = work_.z[int64_t(m) * call_.dims + d];
          const T kappa = inverse_kappa(d);
          if (call_.parameter_gradients) {
            const T* next = loc_[int64_t(m) * call_.dims + d] + ahead;
            write_row(grad_loc_[int64_t(m) * call_.dims + d], loc_in_place, [&](int i) {
              if (ahead != 0) __builtin_prefetch(next + i, 0, 1);
              return V(density_.slope(load(z + i), V{}) * (load(inverse + i) * -kappa));
            });
          }
          if (call_.target_gradient) {
            T* grad = grad_target_[d];
            for (int i = 0; i < padded_; i += step) {
              store(grad + i, V(load(grad + i) + density_.slope(load(z + i), V{}) * (load(inverse + i) * kappa)));
            }
          }
        }
      }
    }
  }

  // Rows of an output computed in place go past the caches.
  template <class Value>
  MDN_INLINE void write_row(T* to, bool in_place, Value value_at) {
    if (in_place && aligned(to)) {
      for (int i = 0; i < padded_; i += step) store_past_cache(to + i, value_at(i));
    } else {
      for (int i = 0; i < padded_; i += step) store(to + i, value_at(i));
    }
  }

  const MixtureCall& call_;
  const Density density_;
  Workspace<T> work_;
  Positions positions_;
  int64_t batch_[largest_block], point_[largest_block], chosen_[largest_block];
  int padded_, dims_in_group_ = 1;
  bool masked_, any_observed_ = false;
  int observed_count_ = 0;
  // A block of which little is observed computes these positions alone, side by side, and spreads its outputs out
  // again.
  bool compact_ = false;
  Positions whole_;
  int kept_[largest_block];  // places in the whole block
  int64_t kept_batch_[largest_block], kept_point_[largest_block];
  const T* weight_ = nullptr;
  Rows<const T> logits_, loc_, scale_, target_;
  Rows<T> grad_logits_, grad_loc_, grad_scale_, grad_target_;
};

int64_t scratch_bytes(const MixtureCall& call) {
  return call.double_precision ? Workspace<double>::row_count(call) * call.block * int64_t(sizeof(double))
                               : Workspace<float>::row_count(call) * call.block * int64_t(sizeof(float));
}

// Calls visit(block, end) for the blocks of a span, one after the other, and adds what it gives.
template <class T, class Visit>
double visit_blocks(const MixtureCall& call, int64_t span, void* scratch, Visit visit) {
  const int64_t total = call.batch * call.points;
  const int64_t end = (span + 1) * call.span < total ? (span + 1) * call.span : total;
  return with_independent_density<T>(call.family, [&](auto density) {
    double sum = 0;
    for (int64_t begin = span * call.span; begin < end;) {
      Block<T, decltype(density)> block(call, density, begin, end, scratch);
      sum += visit(block, end);
      begin += block.count();
    }
    return sum;
  });
}

template <class Visit>
double visit_span(const MixtureCall& call, int64_t span, void* scratch, Visit visit) {
  if (call.double_precision) return visit_blocks<double>(call, span, scratch, visit);
  return visit_blocks<float>(call, span, scratch, visit);
}

double observed_weight(const MixtureCall& call, int64_t span, void* scratch) {
  return visit_span(call, span, scratch, [](auto& block, int64_t) { return block.observe(); });
}

double run(const MixtureCall& call, int64_t span, void* scratch) {
  return visit_span(call, span, scratch, [](auto& block, int64_t end) { return block.run(end); });
}

}  // namespace

const MixtureKernel mixture_kernel = {scratch_bytes, observed_weight, run};

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
