// Vectors of the compiler's own extension (GCC, Clang), as wide as the instruction set that this file is compiled for.
//
// Files built once for each instruction set include only headers like this one, whose functions are all in the
// namespace of that set. An inline function shared between two sets would be linked once, and might then hold
// instructions that the machine lacks. For the same reason nothing here includes a standard header that defines
// functions.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define MDN_SIMD_LEVEL avx512
#define MDN_VECTOR_BYTES 64
#elif defined(__AVX2__)
#include <immintrin.h>
#define MDN_SIMD_LEVEL avx2
#define MDN_VECTOR_BYTES 32
#else
#define MDN_SIMD_LEVEL baseline
#define MDN_VECTOR_BYTES 16
#endif

#define MDN_INLINE inline __attribute__((always_inline))

namespace mdn {
namespace MDN_SIMD_LEVEL {

template <class T>
struct SimdTraits;
template <>
struct SimdTraits<float> {
  typedef float Vector __attribute__((vector_size(MDN_VECTOR_BYTES)));
  typedef int32_t Mask __attribute__((vector_size(MDN_VECTOR_BYTES)));
};
template <>
struct SimdTraits<double> {
  typedef double Vector __attribute__((vector_size(MDN_VECTOR_BYTES)));
  typedef int64_t Mask __attribute__((vector_size(MDN_VECTOR_BYTES)));
};

// Vectors of elements as raw bits, to be moved and chosen among.
template <>
struct SimdTraits<uint16_t> {
  typedef uint16_t Vector __attribute__((vector_size(MDN_VECTOR_BYTES)));
  typedef int16_t Mask __attribute__((vector_size(MDN_VECTOR_BYTES)));
};
template <>
struct SimdTraits<uint32_t> {
  typedef uint32_t Vector __attribute__((vector_size(MDN_VECTOR_BYTES)));
  typedef int32_t Mask __attribute__((vector_size(MDN_VECTOR_BYTES)));
};
template <>
struct SimdTraits<uint64_t> {
  typedef uint64_t Vector __attribute__((vector_size(MDN_VECTOR_BYTES)));
  typedef int64_t Mask __attribute__((vector_size(MDN_VECTOR_BYTES)));
};

template <class T>
using Vector = typename SimdTraits<T>::Vector;
template <class T>
using Mask = typename SimdTraits<T>::Mask;  // all bits set or none, lane by lane

template <class T>
constexpr int lanes = MDN_VECTOR_BYTES / static_cast<int>(sizeof(T));

template <class T>
MDN_INLINE Vector<T> broadcast(T value) {
  return value - Vector<T>{};
}

// A vector at any address of its elements. It aliases them alone, so that a store leaves pointers and sizes known.
template <class T>
struct Unaligned;
template <>
struct Unaligned<float> {
  typedef float Vector __attribute__((vector_size(MDN_VECTOR_BYTES), aligned(4)));
};
template <>
struct Unaligned<double> {
  typedef double Vector __attribute__((vector_size(MDN_VECTOR_BYTES), aligned(8)));
};

template <class T>
MDN_INLINE Vector<T> load(const T* from) {
  Vector<T> value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}
MDN_INLINE Vector<float> load(const float* from) { return *reinterpret_cast<const Unaligned<float>::Vector*>(from); }
MDN_INLINE Vector<double> load(const double* from) { return *reinterpret_cast<const Unaligned<double>::Vector*>(from); }

template <class T>
MDN_INLINE void store(T* to, Vector<T> value) {
  __builtin_memcpy(to, &value, sizeof value);
}
MDN_INLINE void store(float* to, Vector<float> value) { *reinterpret_cast<Unaligned<float>::Vector*>(to) = value; }
MDN_INLINE void store(double* to, Vector<double> value) { *reinterpret_cast<Unaligned<double>::Vector*>(to) = value; }

// The value, rounded before anything else takes it. GCC would make a fused multiply-add of a product and the sum that
// takes it in one instantiation of a kernel and not in another; through this function it makes none. (Clang fuses
// within an expression alone.)
template <class V>
MDN_INLINE V rounded(V value) {
#if defined(__x86_64__)
  __asm__("" : "+v"(value));  // in a register: GCC takes vectors apart around its own barrier
#elif defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
  return __builtin_assoc_barrier(value);
#elif defined(__GNUC__) && !defined(__clang__)
  __asm__("" : "+m"(value));
#endif
  return value;
}

// One sum in double for each lane of the vectors that are added. The same values give the same bits everywhere.
template <class T>
struct LaneSums;
template <>
struct LaneSums<double> {
  Vector<double> sums = {};
  MDN_INLINE void add(Vector<double> value) { sums += rounded(value); }
  MDN_INLINE double total() const {
    double total = 0;
    for (int lane = 0; lane < lanes<double>; ++lane) total += sums[lane];
    return total;
  }
};
template <>
struct LaneSums<float> {
  LaneSums<double> low, high;
  MDN_INLINE void add(Vector<float> value) {
#if MDN_VECTOR_BYTES == 64
    low.add(_mm512_maskz_cvtps_pd(0xff, _mm512_maskz_extractf32x8_ps(0xff, value, 0)));
    high.add(_mm512_maskz_cvtps_pd(0xff, _mm512_maskz_extractf32x8_ps(0xff, value, 1)));
#elif MDN_VECTOR_BYTES == 32
    low.add(_mm256_cvtps_pd(_mm256_castps256_ps128(value)));
    high.add(_mm256_cvtps_pd(_mm256_extractf128_ps(value, 1)));
#else
    low.add(Vector<double>{value[0], value[1]});
    high.add(Vector<double>{value[2], value[3]});
#endif
  }
  MDN_INLINE double total() const { return low.total() + high.total(); }
};

// Stores past the caches, for outputs that nobody reads soon. This saves reading the line that is overwritten.
template <class T>
MDN_INLINE void store_past_cache(T* to, Vector<T> value) {
#if MDN_VECTOR_BYTES == 64
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(value));
#elif MDN_VECTOR_BYTES == 32
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(value));
#else
  store(to, value);
#endif
}

// Makes the stores past the caches visible to other threads.
MDN_INLINE void finish_stores() {
#if MDN_VECTOR_BYTES >= 32
  _mm_sfence();
#endif
}

// While one lives, results below the least normal number are 0. A processor takes over a hundred cycles for each of
// those: shares of components that are out of the question would take most of a kernel's time.
class FlushSubnormals {
 public:
#if MDN_VECTOR_BYTES >= 32
  MDN_INLINE FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8000); }
  MDN_INLINE ~FlushSubnormals() { _mm_setcsr(before_); }

 private:
  const unsigned before_;
#else
  MDN_INLINE FlushSubnormals() {}
  MDN_INLINE ~FlushSubnormals() {}
#endif
};

template <class T>
MDN_INLINE bool aligned(const T* address) {
  return reinterpret_cast<uintptr_t>(address) % MDN_VECTOR_BYTES == 0;
}

template <class T>
MDN_INLINE bool any(Mask<T> mask) {
#if MDN_VECTOR_BYTES == 64
  return _mm512_test_epi32_mask(reinterpret_cast<__m512i>(mask), reinterpret_cast<__m512i>(mask)) != 0;
#elif MDN_VECTOR_BYTES == 32
  return !_mm256_testz_si256(reinterpret_cast<__m256i>(mask), reinterpret_cast<__m256i>(mask));
#else
  int64_t words[2];
  __builtin_memcpy(words, &mask, sizeof words);
  return (words[0] | words[1]) != 0;
#endif
}

}  // namespace MDN_SIMD_LEVEL
}  // namespace mdn
