// The accesses to memory that kernels use in place of raw ones. Under nvcc they cost nothing: a load or a store is one
// instruction, a shared array is an array. Under the host compiler (MDN_CUDA_ON_CPU) tests/cuda_on_cpu counts and
// checks each access of the same source. Nothing here knows torch.
//
// - Global memory: load_global and store_global, for scalars and for Pack<T, N>, N elements moved by one instruction.
// - Shared memory: `__shared__ SharedArray<T, N> name;` and, where its size is known only at the launch,
//   `dynamic_shared<T>(first byte, elements)`. An element is read by `const T value = name[i];` (never `auto`: on the
//   CPU name[i] is a proxy) and written by `name[i] = value;`; `&name[i]` is for atomics alone.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#else
#ifndef MDN_CUDA_ON_CPU
#define MDN_CUDA_ON_CPU
#endif
#include "cuda_on_cpu.h"
#endif

#define MDN_ON_DEVICE __device__ __forceinline__
#define MDN_ON_BOTH __host__ __device__ __forceinline__

namespace mdn {
namespace device {

constexpr int warp_lanes = 32;
constexpr unsigned all_lanes = 0xffffffffu;

// N elements that move as one. They are at most 16 bytes, a power of two, at an address that is a multiple of their
// size.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  static_assert(sizeof(T) * N <= 16 && (sizeof(T) * N & (sizeof(T) * N - 1)) == 0, "one vector instruction moves it");
  T elements[N];
  MDN_ON_BOTH T& operator[](int i) { return elements[i]; }
  MDN_ON_BOTH const T& operator[](int i) const { return elements[i]; }
};

// How many elements of T a full vector instruction moves.
template <class T>
constexpr int pack_width = 16 / static_cast<int>(sizeof(T));

#if defined(__CUDACC__)

// The built-in type that moves `bytes` bytes in one instruction.
template <int bytes>
struct Word;
template <>
struct Word<1> {
  using Type = unsigned char;
};
template <>
struct Word<2> {
  using Type = unsigned short;
};
template <>
struct Word<4> {
  using Type = unsigned int;
};
template <>
struct Word<8> {
  using Type = uint2;
};
template <>
struct Word<16> {
  using Type = uint4;
};
template <class P>
using WordOf = typename Word<sizeof(P)>::Type;

template <class To, class From>
MDN_ON_DEVICE To same_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "same_bits changes the type, not the size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// Loads from memory that nothing writes while the kernel runs.
template <class P>
MDN_ON_DEVICE P load_global(const P* from) {
  return same_bits<P>(__ldg(reinterpret_cast<const WordOf<P>*>(from)));
}

// Loads from memory that this kernel may have written: other blocks' partial sums after a fence, a workspace.
template <class P>
MDN_ON_DEVICE P load_global_written(const P* from) {
  return same_bits<P>(__ldcg(reinterpret_cast<const WordOf<P>*>(from)));
}

// Stores to memory that this kernel does not read again. What is stored leaves the caches first.
template <class P>
MDN_ON_DEVICE void store_global(P* to, P value) {
  __stcs(reinterpret_cast<WordOf<P>*>(to), same_bits<WordOf<P>>(value));
}

// e^x of an x that was rounded when it was computed: the instruction's error, 2^-22 of the result, and that of x times
// log2(e) are of the size that x's own rounding has made already.
MDN_ON_DEVICE float exp_of_rounded(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * 1.44269504f));
  return power;
}
MDN_ON_DEVICE double exp_of_rounded(double x) { return exp(x); }

// log x in two instructions, with an error of 2^-22 for x in (1/2, 2), else of the 2^-22nd part of the result: enough
// where a few of them are summed with numbers of that size.
MDN_ON_DEVICE float log_of_few(float x) {
  float power;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power * 0.693147181f;
}
MDN_ON_DEVICE double log_of_few(double x) { return log(x); }

template <class T, int N>
class SharedArray {
 public:
  MDN_ON_DEVICE T& operator[](int i) { return elements_[i]; }

 private:
  T elements_[N];
};

template <class T>
class DynamicSharedArray {
 public:
  MDN_ON_DEVICE explicit DynamicSharedArray(T* elements) : elements_(elements) {}
  MDN_ON_DEVICE T& operator[](int i) const { return elements_[i]; }

 private:
  T* elements_;
};

// An array of `elements` elements in the launch's dynamic shared memory. It begins at byte `first`, a multiple of T's
// size.
template <class T>
MDN_ON_DEVICE DynamicSharedArray<T> dynamic_shared(int first, int elements) {
  extern __shared__ uint4 mdn_dynamic_shared[];
  return DynamicSharedArray<T>(reinterpret_cast<T*>(reinterpret_cast<unsigned char*>(mdn_dynamic_shared) + first));
}

#else

using cuda_on_cpu::dynamic_shared;
using cuda_on_cpu::DynamicSharedArray;
using cuda_on_cpu::load_global;
using cuda_on_cpu::load_global_written;
using cuda_on_cpu::SharedArray;
using cuda_on_cpu::store_global;

template <class T>
T exp_of_rounded(T x) {
  return std::exp(x);
}
template <class T>
T log_of_few(T x) {
  return std::log(x);
}

#endif

}  // namespace device
}  // namespace mdn
