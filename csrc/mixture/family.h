// The families of the mixture: one small type each, and the table that names them. A kernel is a template over its
// family and asks nothing else about it. The same formulas stand a second time, on purpose, in
// mdnkernels/mixture/families.py, the oracle of the tests.
//
// A family F<T>, T the arithmetic type, of a standardised residual z, a number or a vector, and of i = 1 / (sigma
// kappa), which only the family of a discrete target asks for:
//   value(z, i)    v, what a dimension adds to -log phi beside log sigma and the constant
//   slope(z, i)    dv / dz
//   pull(z, i)     -sigma dv / d sigma, which is z dv / dz where v is a function of z alone. Its sum over a scale's
//                  dimensions gives that scale's gradient: d(-log phi) / d sigma = (n - sum of pulls) / sigma
//   constant       of one dimension's -log phi
//   log_sigma      whether -log phi has log(sigma kappa) in it; n above is 0 where it has not
//   value_of_pull  v as a multiple of the pull, where it is one: a kernel then sums the pulls alone; else 0
//   has_argument   whether v(z) = rest(z) + weight_of_log() log(argument(z)), so that a kernel may take one logarithm
//                  of the product of several arguments, each from 1 to 1e9 where ordinary(z). The slope is then
//                  ordinary_slope(z), which has no case apart for a z whose square overflows
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
  static constexpr bool has_argument = false;
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
  static constexpr bool has_argument = false;
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
  static constexpr bool has_argument = true;
  static constexpr T value_of_pull = T(0);
  T half, inverse_root, factor;  // (df + 1) / 2, 1 / sqrt(df), (df + 1) / sqrt(df)
  T constant;                    // log(df pi) / 2 + lgamma(df / 2) - lgamma((df + 1) / 2)
  explicit StudentT(double parameter)
      : half(T((parameter + 1) / 2)),
        inverse_root(T(1 / __builtin_sqrt(parameter))),
        factor(T((parameter + 1) / __builtin_sqrt(parameter))),
        constant(T(Gaussian<double>::constant + log_gamma_ratio(parameter / 2))) {}
  // (df + 1) / 2 log(1 + y^2) with y = |z| / sqrt(df): the logarithm of the rounded sum u, and the error of its
  // rounding, over u. Where 1 is lost beside the square, which may overflow, it is 2 log y.
  template <class V>
  MDN_INLINE V value(V z, V) const {
    const V y = absolute(z) * inverse_root, square = y * y, u = 1 + square;
    const V logarithm = log(y > T(1e9) ? y : u);
    return half * (y > T(1e9) ? 2 * logarithm : logarithm + (square - (u - 1)) * inverse_of_sum(y));
  }
  MDN_INLINE T weight_of_log() const { return half; }
  template <class V>
  MDN_INLINE V argument(V z) const {
    const V y = z * inverse_root;
    return 1 + y * y;
  }
  template <class V>
  MDN_INLINE V rest(V z) const {
    const V y = z * inverse_root, square = y * y, u = 1 + square;
    return half * ((square - (u - 1)) * reciprocal(u));
  }
  template <class V>
  MDN_INLINE V ordinary_slope(V z) const {
    const V y = z * inverse_root;
    return factor * (y * reciprocal(V(1 + y * y)));
  }
  template <class V>
  MDN_INLINE auto ordinary(V z) const {
    const V y = z * inverse_root;
    return y * y < T(1e9);
  }
  // (df + 1) / sqrt(df) y / (1 + y^2), with the sign of z
  template <class V>
  MDN_INLINE V slope(V z, V) const {
    const V y = absolute(z) * inverse_root, inverse = inverse_of_sum(y);
    const V size = factor * (y > T(1e9) ? inverse : y * inverse);
    return z < 0 ? -size : size;
  }
  template <class V>
  MDN_INLINE V pull(V z, V) const {
    return z * slope(z, z);
  }

 private:
  // 1 / (1 + y^2); 1 / y where 1 is lost beside the square.
  template <class V>
  static MDN_INLINE V inverse_of_sum(V y) {
    return reciprocal(y > T(1e9) ? y : 1 + y * y);
  }
};

// log(1 + e^x), without overflow.
template <class V>
MDN_INLINE V softplus(V x) {
  return (x > 0 ? x : V{}) + log1p(exp(V(-absolute(x))));
}

template <class T>
struct Logistic {
  static constexpr const char* name = "logistic";
  static constexpr bool log_sigma = true;
  static constexpr bool has_argument = true;
  static constexpr T value_of_pull = T(0);
  static constexpr T constant = T(0);
  explicit Logistic(double) {}
  template <class V>
  MDN_INLINE V value(V z, V) const {
    const V size = absolute(z);
    return size + 2 * log1p(exp(V(-size)));
  }
  MDN_INLINE T weight_of_log() const { return T(2); }
  template <class V>
  MDN_INLINE V argument(V z) const {
    return 2 + exp_minus_1(minus_absolute(z));
  }
  template <class V>
  MDN_INLINE V rest(V z) const {
    return absolute(z);
  }
  template <class V>
  MDN_INLINE V ordinary_slope(V z) const {
    return tanh_half(z);
  }
  template <class V>
  MDN_INLINE auto ordinary(V z) const {
    return z == z;
  }
  // tanh(z / 2)
  template <class V>
  MDN_INLINE V slope(V z, V) const {
    return tanh_half(z);
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
  static constexpr bool has_argument = false;
  static constexpr T value_of_pull = T(0);
  static constexpr T constant = T(0);
  T half_width;
  explicit DiscretisedLogistic(double bin_width) : half_width(T(bin_width / 2)) {}
  template <class V>
  MDN_INLINE V value(V z, V inverse) const {
    const V h = half_width * inverse, u = exp(V(-2 * h));
    return softplus(V(z - h)) + softplus(V(-z - h)) - log(V((1 + u) * tanh_half(V(2 * h))));
  }
  // sinh z / (cosh z + cosh h)
  template <class V>
  MDN_INLINE V slope(V z, V inverse) const {
    return tanh_half(V(2 * z)) * part_of_z(z, V(half_width * inverse));
  }
  // z dv / dz + h dv / dh with dv / dh = sinh h / (cosh z + cosh h) - coth h = -tanh(h) cosh z / (cosh z + cosh h)
  // - 2 / sinh 2h, of which no term cancels the other
  template <class V>
  MDN_INLINE V pull(V z, V inverse) const {
    const V h = half_width * inverse, u = exp(V(-2 * h)), tanh_h = tanh_half(V(2 * h));
    // 2h / sinh 2h = 4h u / (1 - u^2), with 1 - u = (1 + u) tanh h
    const V wide = u == 0 ? V{} : 4 * h * u / ((1 + u) * (1 + u) * tanh_h);
    return (z * tanh_half(V(2 * z)) - h * tanh_h) * part_of_z(z, h) - (h == 0 ? 1 + V{} : wide);
  }

 private:
  // cosh z / (cosh z + cosh h)
  template <class V>
  static MDN_INLINE V part_of_z(V z, V h) {
    const V size = absolute(z);
    return 1 / (1 + exp(V(h - size)) * ((1 + exp(V(-2 * h))) / (1 + exp(V(-2 * size)))));
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
