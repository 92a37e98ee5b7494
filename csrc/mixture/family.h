// The families of the mixture: one small type each, and the table that names them. A kernel is a template over its
// family and asks nothing else about it. The same formulas stand a second time, on purpose, in
// mdnkernels/mixture/families.py, the oracle of the tests.
//
// A family F<T>, T the arithmetic type, of a standardised residual z, a number or a vector:
//   value(z)     v, what a dimension adds to -log phi beside log sigma and the constant
//   slope(z)     dv / dz
//   pull(z)      z dv / dz, whose sum over a scale's dimensions gives that scale's gradient:
//                d(-log phi) / d sigma = (n - sum of pulls) / sigma
//   constant     of one dimension's -log phi
//   value_of_pull  v as a multiple of the pull, where it is one: a kernel then sums the pulls alone; else 0
// It is made on the host of the family's parameter, which families without one do not use, and passed by value.
// A new family is its type and its place in the table below.
#pragma once

#include "core/functions.h"

namespace mdn {

// The family of a call: its place in the table, and its parameter.
struct Family {
  int number;
  double parameter;
};

namespace MDN_SIMD_LEVEL {

template <class T>
struct Gaussian {
  static constexpr const char* name = "gaussian";
  static constexpr T value_of_pull = T(0.5);
  static constexpr T constant = T(0.91893853320467274178);  // log(2 pi) / 2
  explicit Gaussian(double) {}
  template <class V>
  MDN_INLINE V value(V z) const {
    return T(0.5) * z * z;
  }
  template <class V>
  MDN_INLINE V slope(V z) const {
    return z;
  }
  template <class V>
  MDN_INLINE V pull(V z) const {
    return z * z;
  }
};

template <class T>
struct Laplace {
  static constexpr const char* name = "laplace";
  static constexpr T value_of_pull = T(1);
  static constexpr T constant = T(0.69314718055994530942);  // log 2
  explicit Laplace(double) {}
  template <class V>
  MDN_INLINE V value(V z) const {
    return absolute(z);
  }
  template <class V>
  MDN_INLINE V slope(V z) const {
    return z > 0 ? 1 + V{} : (z < 0 ? -1 + V{} : z);
  }
  template <class V>
  MDN_INLINE V pull(V z) const {
    return absolute(z);
  }
};

// log Gamma(x) - log Gamma(x + 1/2) + log(x) / 2, to rounding for any x > 0: the difference would cancel where x is
// large. Gamma(x + 1) = x Gamma(x) takes x to where the expansion in 1 / x is exact.
inline double log_gamma_ratio(double x) {
  double ratio = 1, first = x;
  for (; x < 32; ++x) ratio *= 1 + 0.5 / x;
  const double inverse = 1 / x, square = inverse * inverse;
  const double tail = ((-17.0 / 14336 * square + 1.0 / 640) * square - 1.0 / 192) * square + 1.0 / 8;
  return __builtin_log(ratio) + 0.5 * __builtin_log(first / x) + tail * inverse;
}

template <class T>
struct StudentT {
  static constexpr const char* name = "student_t";
  static constexpr T value_of_pull = T(0);
  T df, more, half, inverse_root;  // more = df + 1, half of that, 1 / sqrt(df)
  T constant;                      // log(df pi) / 2 + lgamma(df / 2) - lgamma((df + 1) / 2)
  explicit StudentT(double parameter)
      : df(T(parameter)),
        more(T(parameter + 1)),
        half(T((parameter + 1) / 2)),
        inverse_root(T(1 / __builtin_sqrt(parameter))),
        constant(T(Gaussian<double>::constant + log_gamma_ratio(parameter / 2))) {}
  // (df + 1) / 2 log(1 + z^2 / df) with one logarithm: that of the root where 1 is lost beside its square, which may
  // overflow; else that of the rounded sum u, whose rounding error cancels in log(u) / (u - 1) (Kahan).
  template <class V>
  MDN_INLINE V value(V z) const {
    const V root = absolute(z) * inverse_root, square = root * root;
    const V u = 1 + square, d = u - 1;
    const V logarithm = log(root > T(1e9) ? root : u);
    const V near = d == 0 ? square : logarithm * (square / (d == 0 ? 1 + V{} : d));
    return half * (root > T(1e9) ? 2 * logarithm : near);
  }
  // (df + 1) z / (df + z^2), without the square, which may overflow.
  template <class V>
  MDN_INLINE V slope(V z) const {
    return more / (df / z + z);
  }
  template <class V>
  MDN_INLINE V pull(V z) const {
    return z * slope(z);
  }
};

template <template <class> class... Types>
struct FamilyTable {
  static constexpr const char* names[sizeof...(Types)] = {Types<float>::name...};
};

// The table of families. Numbers of families are places in it.
using Families = FamilyTable<Gaussian, Laplace, StudentT>;

// visit(family) with the family of a call as its type.
template <class T, class Visit, template <class> class First, template <class> class... Rest>
inline auto with_family(Family family, FamilyTable<First, Rest...>, Visit visit) {
  if constexpr (sizeof...(Rest) > 0) {
    if (family.number > 0) {
      return with_family<T>({family.number - 1, family.parameter}, FamilyTable<Rest...>{}, visit);
    }
  }
  return visit(First<T>(family.parameter));
}

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
