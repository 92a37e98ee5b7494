// How the dimensions of a component depend on one another, and with a family the density that kernels are templates
// over.
#pragma once

#include "mixture/family.h"

namespace mdn {
namespace MDN_SIMD_LEVEL {

// Not at all: a dimension is a block of its own.
struct Independent {};

// The density of a block of dimensions, up to log sigma: value, slope, pull and constant of its standardised residuals.
template <class Family, class Correlation>
struct Density;

// Of a block of one dimension they are the family's.
template <class Family>
struct Density<Family, Independent> : Family {
  explicit Density(const Family& family) : Family(family) {}
};

// visit(density) with the density of a call as its type: the one place that chooses it.
template <class T, class Visit>
inline auto with_density(Family family, Visit visit) {
  return with_family<T>(family, Families{},
                        [&](auto type) { return visit(Density<decltype(type), Independent>(type)); });
}

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
