// The families of the mixture: one small type each, and the table that names them. A kernel is a template over its
// family and asks nothing else about it. The same formulas stand a second time, on purpose, in
// mdnkernels/mixture/families.py, the oracle of the tests.
//
// A family F<T>, T the arithmetic type, of a standardised residual z, a number or a vector, and of i = 1 / (sigma kappa),
// which only the family of a discrete target asks for:
//   value(z, i)    v, what a dimension adds to -log phi beside log sigma and the constant
//   slope(z, i)    dv / dz
//   pull(z, i)     -sigma dv / d sigma, which is z dv / dz where v is a function of z alone. Its sum over a scale's
//                  dimensions gives that scale's gradient: d(-log phi) / d sigma = (n - sum of pulls) / sigma
//   constant       of one dimension's -log phi
//   log_sigma      whether -log phi has log(sigma kappa) in it; n above is 0 where it has not
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
  static constexpr bool log_sigma = true;
  static constexpr T value_of_pull = T(0.5);
  static constexpr T constant = T(0.91893853320467274178);  // log(2 pi) / 2
  explicit Gaussian(double) {}
  template <class V>
  MDN_INLINE V value(V z, V) const {
    return T(0.5) * z * z;
  }
  template <class V>
  MDN_INLINE V slope(V z, V) const {
    return z;
  }
  template <class V>
  MDN_INLINE V pull(V z, V) const {
    return z * z;
  }
};

template <class T>
struct Laplace {
  static constexpr const char* name = "laplace";
  static constexpr bool log_sigma = true;
  static constexpr T value_of_pull = T(1);
  static constexpr T constant = T(0.69314718055994530942);  // log 2
  explicit Laplace(double) {}
  template <class V>
  MDN_INLINE V value(V z, V) const {
    return absolute(z);
  }
  template <class V>
  MDN_INLINE V slope(V z, V) const {
    return z > 0 ? 1 + V{} : (z < 0 ? -1 + V{} : z);
  }
  template <class V>
  MDN_INLINE V pull(V z, V) const {
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
  static constexpr bool log_sigma = true;
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
  MDN_INLINE V value(V z, V) const {
    const V root = absolute(z) * inverse_root, square = root * root;
    const V u = 1 + square, d = u - 1;
    const V logarithm = log(root > T(1e9) ? root : u);
    const V near = d == 0 ? square : logarithm * (square / (d == 0 ? 1 + V{} : d));
    return half * (root > T(1e9) ? 2 * logarithm : near);
  }
  // (df + 1) z / (df + z^2), without the square, which may overflow.
  template <class V>
  MDN_INLINE V slope(V z, V) const {
    return more / (df / z + z);
  }
  template <class V>
  MDN_INLINE V pull(V z, V) const {
    return z * slope(z, z);
  }
};

// log(1 + e^x), without overflow.
template <class V>
MDN_INLINE V softplus(V x) {
  return (x > 0 ? x : V{}) + log1p(exp(V(-absolute(x))));
}

// 1 / (1 + e^-x), to rounding in both tails.
template <class V>
MDN_INLINE V sigmoid(V x) {
  const V e = exp(V(-absolute(x)));
  return (x > 0 ? 1 + V{} : e) / (1 + e);
}

template <class T>
struct Logistic {
  static constexpr const char* name = "logistic";
  static constexpr bool log_sigma = true;
  static constexpr T value_of_pull = T(0);
  static constexpr T constant = T(0);
  explicit Logistic(double) {}
  template <class V>
  MDN_INLINE V value(V z, V) const {
    const V size = absolute(z);
    return size + 2 * log1p(exp(V(-size)));
  }
  // tanh(z / 2)
  template <class V>
  MDN_INLINE V slope(V z, V) const {
    const V e = exp(V(-absolute(z)));
    const V size = (1 - e) / (1 + e);
    return z < 0 ? -size : size;
  }
  template <class V>
  MDN_INLINE V pull(V z, V) const {
    return z * slope(z, z);
  }
};

// The mass that a logistic distribution has in the bin around the target. With half a bin h = delta / (2 sigma kappa):
//   v = -log(F(z + h) - F(z - h)) = softplus(z - h) + softplus(-z - h) - log(1 - e^-2h)
// No term cancels another, in the far tails as in a bin that holds nearly all of the mass.
template <class T>
struct DiscretisedLogistic {
  static constexpr const char* name = "discretised_logistic";
  static constexpr bool log_sigma = false;
  static constexpr T value_of_pull = T(0);
  static constexpr T constant = T(0);
  T half_width;
  explicit DiscretisedLogistic(double bin_width) : half_width(T(bin_width / 2)) {}
  template <class V>
  MDN_INLINE V value(V z, V inverse) const {
    const V h = half_width * inverse;
    return softplus(V(z - h)) + softplus(V(-z - h)) - log(complement(h));
  }
  template <class V>
  MDN_INLINE V slope(V z, V inverse) const {
    const V h = half_width * inverse;
    return sigmoid(V(z - h)) - sigmoid(V(-z - h));
  }
  // z dv / dz + h dv / dh
  template <class V>
  MDN_INLINE V pull(V z, V inverse) const {
    const V h = half_width * inverse;
    const V above = sigmoid(V(z - h)), below = sigmoid(V(-z - h)), bins = complement(h);
    return z * (above - below) - h * (above + below) - 2 * h * (1 - bins) / bins;
  }

 private:
  // 1 - e^-2h, to rounding where h is small too (Kahan).
  template <class V>
  static MDN_INLINE V complement(V h) {
    const V u = exp(V(-2 * h)), d = 1 - u;
    const V near = d == 0 || u == 0 ? V{} : d * (2 * h / -log(u));
    return d == 0 ? 2 * h : (u == 0 ? 1 + V{} : near);
  }
};

template <template <class> class... Types>
struct FamilyTable {
  static constexpr const char* names[sizeof...(Types)] = {Types<float>::name...};
};

// The table of families. Numbers of families are places in it.
using Families = FamilyTable<Gaussian, Laplace, StudentT, Logistic, DiscretisedLogistic>;

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
