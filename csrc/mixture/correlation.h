// How the dimensions of a component depend on one another, and with a family the density that kernels are templates
// over.
//
// Dimensions come in blocks of D neighbours. Within a block w = z + L z, with L strictly lower triangular, and the
// family's v(w) replaces v(z): I + L is the Cholesky factor of the precision of z, of unit diagonal, so that any real
// entries are valid and the determinant does not change. With g_k = dv / dw_k and
//   h_d = dv / dz_d = g_d + sum_{k > d} l_kd g_k
// the gradients are those of independent dimensions with h in the place of the slope: the pull of a dimension is
// z_d h_d, and d v / d l_kd = g_k z_d.
#pragma once

#include "mixture/family.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {

// Not at all: a dimension is a block of its own.
struct Independent {
  static constexpr int block = 1;
};

// In pairs, as x and y of a point do.
struct Pairs {
  static constexpr int block = 2;
};

// In blocks of a size that only the call knows.
struct Blocks {
  static constexpr int block = 0;
};

// The density of a block of dimensions, up to log sigma.
template <class Family, class Correlation>
struct Density : Family, Correlation {
  explicit Density(const Family& family) : Family(family) {}
};

// visit(density) with the density of a call as its type: the one place that chooses it. A discrete target has no block
// density: its dimensions are independent.
template <class T, class Visit>
inline auto with_density(Family family, int block_size, Visit visit) {
  return with_family<T>(family, Families{}, [&](auto type) {
    using Type = decltype(type);
    if constexpr (Type::log_sigma) {
      if (block_size == 2) return visit(Density<Type, Pairs>(type));
      if (block_size > 2) return visit(Density<Type, Blocks>(type));
    }
    return visit(Density<Type, Independent>(type));
  });
}

// Of independent dimensions.
template <class T, class Visit>
inline auto with_independent_density(Family family, Visit visit) {
  return with_family<T>(family, Families{},
                        [&](auto type) { return visit(Density<decltype(type), Independent>(type)); });
}

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
