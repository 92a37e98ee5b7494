// CUDA's built-ins for the host compiler, so that a .cuh is compiled unchanged and runs on the CPU, watched.
//
// Accesses to memory are seen where they go through csrc/core/cuda/device.cuh or through an atomic. Raw pointers and
// raw
// __shared__ arrays work, unseen; there is no `extern __shared__`.
#pragma once

#include <limits.h>
#include <math.h>
#include <string.h>

#include "engine.h"
#include "half_types.h"

#define __global__ __attribute__((visibility("default")))
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __grid_constant__

#define CUDA_ON_CPU_INLINE inline __attribute__((always_inline))

namespace cuda_on_cpu {

template <class P>
CUDA_ON_CPU_INLINE P load_global(const P* from, CUDA_ON_CPU_CALLER) {
  access_global(from, sizeof(P), Access::read, CUDA_ON_CPU_PLACE);
  return *from;
}

template <class P>
CUDA_ON_CPU_INLINE P load_global_written(const P* from, CUDA_ON_CPU_CALLER) {
  access_global(from, sizeof(P), Access::read, CUDA_ON_CPU_PLACE);
  return *from;
}

template <class P>
CUDA_ON_CPU_INLINE void store_global(P* to, P value, CUDA_ON_CPU_CALLER) {
  access_global(to, sizeof(P), Access::write, CUDA_ON_CPU_PLACE);
  *to = value;
}

// An element of a shared array. `Array` has element(i), is_written(i) and mark_written(i).
template <class T, class Array>
class SharedElement {
 public:
  SharedElement(Array* array, int i, Place place) : array_(array), i_(i), place_(place) {}
  SharedElement& operator=(const SharedElement& other) { return *this = static_cast<T>(other); }

  operator T() const { return read(); }
  SharedElement& operator=(T value) {
    array_->element(i_) = value;
    array_->mark_written(i_);
    return *this;
  }
  SharedElement& operator+=(T value) { return *this = static_cast<T>(read() + value); }
  SharedElement& operator-=(T value) { return *this = static_cast<T>(read() - value); }
  SharedElement& operator*=(T value) { return *this = static_cast<T>(read() * value); }
  SharedElement& operator|=(T value) { return *this = static_cast<T>(read() | value); }
  SharedElement& operator&=(T value) { return *this = static_cast<T>(read() & value); }
  SharedElement& operator++() { return *this += T(1); }

  // For atomics alone: &name[i].
  SharedElement* operator&() { return this; }

  T read() const {
    if (!array_->is_written(i_)) {
      fail("reads element " + std::to_string(i_) + " of a shared array that no thread of the block has written",
           place_);
    }
    return array_->element(i_);
  }

 private:
  Array* array_;
  int i_;
  Place place_;
};

inline void check_shared_index(int i, int size, Place place) {
  if (i < 0 || i >= size) {
    fail("accesses element " + std::to_string(i) + " of a shared array of " + std::to_string(size), place);
  }
}

// operator[] cannot take a default argument, so the place is that of an index made from an int.
struct SharedIndex {
  int i;
  Place place;
  CUDA_ON_CPU_INLINE SharedIndex(int i, CUDA_ON_CPU_CALLER) : i(i), place(CUDA_ON_CPU_PLACE) {}
};

// Static and zero before the first block: it has no constructor, as on a GPU.
template <class T, int N>
class SharedArray {
 public:
  SharedElement<T, SharedArray> operator[](SharedIndex index) {
    check_shared_index(index.i, N, index.place);
    return {this, index.i, index.place};
  }
  T& element(int i) { return elements_[i]; }
  bool is_written(int i) const { return writers_[i] == current_block; }
  void mark_written(int i) { writers_[i] = current_block; }

 private:
  T elements_[N];
  uint64_t writers_[N];
};

template <class T>
class DynamicSharedArray {
 public:
  DynamicSharedArray(T* elements, uint64_t* writers, int size) : elements_(elements), writers_(writers), size_(size) {}
  SharedElement<T, const DynamicSharedArray> operator[](SharedIndex index) const {
    check_shared_index(index.i, size_, index.place);
    return {this, index.i, index.place};
  }
  T& element(int i) const { return elements_[i]; }
  bool is_written(int i) const {
    bool written = true;
    for (size_t byte = 0; byte < sizeof(T); ++byte) written &= writers_[i * sizeof(T) + byte] == current_block;
    return written;
  }
  void mark_written(int i) const {
    for (size_t byte = 0; byte < sizeof(T); ++byte) writers_[i * sizeof(T) + byte] = current_block;
  }

 private:
  T* elements_;
  uint64_t* writers_;
  int size_;
};

template <class T>
DynamicSharedArray<T> dynamic_shared(int first, int elements, CUDA_ON_CPU_CALLER) {
  const DynamicSharedMemory memory = dynamic_shared_memory();
  const size_t end = first + elements * sizeof(T);
  if (first < 0 || elements < 0 || end > memory.size) {
    fail("asks for bytes " + std::to_string(first) + " to " + std::to_string(end) + " of " +
             std::to_string(memory.size) + " bytes of dynamic shared memory",
         CUDA_ON_CPU_PLACE);
  }
  if (first % sizeof(T) != 0) fail("a dynamic shared array is not aligned to its elements", CUDA_ON_CPU_PLACE);
  return {reinterpret_cast<T*>(memory.bytes + first), memory.writers + first, elements};
}

template <class T>
uint64_t to_bits(T value) {
  static_assert(std::is_arithmetic<T>::value || sizeof(T) == 2, "shuffles take numbers");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  return bits;
}

template <class T>
T from_bits(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
T shuffle(unsigned mask, T value, int source, Place place) {
  return from_bits<T>(exchange_in_warp(WarpOperation::shuffle, mask, to_bits(value), source, place));
}

// The first lane of the segment of `width` lanes that this thread's lane is in.
inline int first_of_segment(int width, Place place) {
  if (width < 1 || width > warpSize || (width & (width - 1)) != 0) {
    fail("shuffles in segments of " + std::to_string(width) + " lanes, not of a power of two up to 32", place);
  }
  return lane_of_thread() & ~(width - 1);
}

}  // namespace cuda_on_cpu

CUDA_ON_CPU_INLINE void __syncthreads(CUDA_ON_CPU_CALLER) {
  cuda_on_cpu::wait_for_block(cuda_on_cpu::BlockVote::none, 0, CUDA_ON_CPU_PLACE);
}
CUDA_ON_CPU_INLINE int __syncthreads_count(int predicate, CUDA_ON_CPU_CALLER) {
  return cuda_on_cpu::wait_for_block(cuda_on_cpu::BlockVote::count, predicate, CUDA_ON_CPU_PLACE);
}
CUDA_ON_CPU_INLINE int __syncthreads_and(int predicate, CUDA_ON_CPU_CALLER) {
  return cuda_on_cpu::wait_for_block(cuda_on_cpu::BlockVote::all, predicate, CUDA_ON_CPU_PLACE);
}
CUDA_ON_CPU_INLINE int __syncthreads_or(int predicate, CUDA_ON_CPU_CALLER) {
  return cuda_on_cpu::wait_for_block(cuda_on_cpu::BlockVote::any, predicate, CUDA_ON_CPU_PLACE);
}
CUDA_ON_CPU_INLINE void __syncwarp(unsigned mask = 0xffffffff, CUDA_ON_CPU_CALLER) {
  cuda_on_cpu::exchange_in_warp(cuda_on_cpu::WarpOperation::sync, mask, 0, 0, CUDA_ON_CPU_PLACE);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize, CUDA_ON_CPU_CALLER) {
  const int first = cuda_on_cpu::first_of_segment(width, CUDA_ON_CPU_PLACE);
  return cuda_on_cpu::shuffle(mask, value, first + (source & (width - 1)), CUDA_ON_CPU_PLACE);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize, CUDA_ON_CPU_CALLER) {
  const int lane = cuda_on_cpu::lane_of_thread(), end = cuda_on_cpu::first_of_segment(width, CUDA_ON_CPU_PLACE) + width;
  return cuda_on_cpu::shuffle(mask, value, lane + static_cast<int>(delta) < end ? lane + static_cast<int>(delta) : lane,
                              CUDA_ON_CPU_PLACE);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, CUDA_ON_CPU_CALLER) {
  const int lane = cuda_on_cpu::lane_of_thread(), first = cuda_on_cpu::first_of_segment(width, CUDA_ON_CPU_PLACE);
  return cuda_on_cpu::shuffle(
      mask, value, lane - static_cast<int>(delta) >= first ? lane - static_cast<int>(delta) : lane, CUDA_ON_CPU_PLACE);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int other, int width = warpSize, CUDA_ON_CPU_CALLER) {
  const int lane = cuda_on_cpu::lane_of_thread(), end = cuda_on_cpu::first_of_segment(width, CUDA_ON_CPU_PLACE) + width;
  return cuda_on_cpu::shuffle(mask, value, (lane ^ other) < end ? lane ^ other : lane, CUDA_ON_CPU_PLACE);
}

CUDA_ON_CPU_INLINE unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_CPU_CALLER) {
  return static_cast<unsigned>(
      cuda_on_cpu::exchange_in_warp(cuda_on_cpu::WarpOperation::ballot, mask, predicate != 0, 0, CUDA_ON_CPU_PLACE));
}
CUDA_ON_CPU_INLINE int __all_sync(unsigned mask, int predicate, CUDA_ON_CPU_CALLER) {
  return static_cast<int>(
      cuda_on_cpu::exchange_in_warp(cuda_on_cpu::WarpOperation::all, mask, predicate != 0, 0, CUDA_ON_CPU_PLACE));
}
CUDA_ON_CPU_INLINE int __any_sync(unsigned mask, int predicate, CUDA_ON_CPU_CALLER) {
  return static_cast<int>(
      cuda_on_cpu::exchange_in_warp(cuda_on_cpu::WarpOperation::any, mask, predicate != 0, 0, CUDA_ON_CPU_PLACE));
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, CUDA_ON_CPU_CALLER) {
  return static_cast<unsigned>(cuda_on_cpu::exchange_in_warp(cuda_on_cpu::WarpOperation::match_any, mask,
                                                             cuda_on_cpu::to_bits(value), 0, CUDA_ON_CPU_PLACE));
}

#define CUDA_ON_CPU_REDUCE(name, type, operation)                                                                \
  CUDA_ON_CPU_INLINE type __reduce_##name##_sync(unsigned mask, type value, CUDA_ON_CPU_CALLER) {                \
    return static_cast<type>(cuda_on_cpu::exchange_in_warp(cuda_on_cpu::WarpOperation::operation, mask,          \
                                                           static_cast<unsigned>(value), 0, CUDA_ON_CPU_PLACE)); \
  }
CUDA_ON_CPU_REDUCE(add, unsigned, add)
CUDA_ON_CPU_REDUCE(add, int, add)
CUDA_ON_CPU_REDUCE(min, unsigned, minimum)
CUDA_ON_CPU_REDUCE(min, int, minimum_signed)
CUDA_ON_CPU_REDUCE(max, unsigned, maximum)
CUDA_ON_CPU_REDUCE(max, int, maximum_signed)
CUDA_ON_CPU_REDUCE(and, unsigned, bit_and)
CUDA_ON_CPU_REDUCE(or, unsigned, bit_or)
CUDA_ON_CPU_REDUCE(xor, unsigned, bit_xor)
#undef CUDA_ON_CPU_REDUCE

// Atomics: threads never interleave within one, so that each is its plain operation.

// On a pointer to global memory, and on the address of an element of a shared array.
#define CUDA_ON_CPU_ATOMIC(name, expression)                                                        \
  template <class T>                                                                                \
  CUDA_ON_CPU_INLINE T name(T* address, std::common_type_t<T> value, CUDA_ON_CPU_CALLER) {          \
    cuda_on_cpu::access_global(address, sizeof(T), cuda_on_cpu::Access::atomic, CUDA_ON_CPU_PLACE); \
    const T old = *address;                                                                         \
    *address = expression;                                                                          \
    return old;                                                                                     \
  }                                                                                                 \
  template <class T, class Array>                                                                   \
  T name(cuda_on_cpu::SharedElement<T, Array>* element, std::common_type_t<T> value) {              \
    const T old = element->read();                                                                  \
    *element = expression;                                                                          \
    return old;                                                                                     \
  }
CUDA_ON_CPU_ATOMIC(atomicAdd, static_cast<T>(old + value))
CUDA_ON_CPU_ATOMIC(atomicSub, static_cast<T>(old - value))
CUDA_ON_CPU_ATOMIC(atomicMin, (value < old ? value : old))
CUDA_ON_CPU_ATOMIC(atomicMax, (value > old ? value : old))
CUDA_ON_CPU_ATOMIC(atomicAnd, static_cast<T>(old& value))
CUDA_ON_CPU_ATOMIC(atomicOr, static_cast<T>(old | value))
CUDA_ON_CPU_ATOMIC(atomicXor, static_cast<T>(old ^ value))
CUDA_ON_CPU_ATOMIC(atomicExch, value)
CUDA_ON_CPU_ATOMIC(atomicInc, (old >= value ? T(0) : static_cast<T>(old + 1)))
#undef CUDA_ON_CPU_ATOMIC

template <class T>
CUDA_ON_CPU_INLINE T atomicCAS(T* address, std::common_type_t<T> compare, std::common_type_t<T> value,
                               CUDA_ON_CPU_CALLER) {
  cuda_on_cpu::access_global(address, sizeof(T), cuda_on_cpu::Access::atomic, CUDA_ON_CPU_PLACE);
  const T old = *address;
  if (old == compare) *address = value;
  return old;
}
template <class T, class Array>
T atomicCAS(cuda_on_cpu::SharedElement<T, Array>* element, std::common_type_t<T> compare, std::common_type_t<T> value) {
  const T old = element->read();
  if (old == compare) *element = value;
  return old;
}

template <class T>
CUDA_ON_CPU_INLINE T __ldg(const T* from, CUDA_ON_CPU_CALLER) {
  return cuda_on_cpu::load_global(from, CUDA_ON_CPU_PLACE);
}

#define CUDA_ON_CPU_MIN_MAX(type)                           \
  inline type min(type a, type b) { return b < a ? b : a; } \
  inline type max(type a, type b) { return a < b ? b : a; }
CUDA_ON_CPU_MIN_MAX(int)
CUDA_ON_CPU_MIN_MAX(unsigned)
CUDA_ON_CPU_MIN_MAX(long)
CUDA_ON_CPU_MIN_MAX(unsigned long)
CUDA_ON_CPU_MIN_MAX(long long)
CUDA_ON_CPU_MIN_MAX(unsigned long long)
#undef CUDA_ON_CPU_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

#define CUDA_ON_CPU_SAME_BITS(name, to, from) \
  inline to name(from value) {                \
    to result;                                \
    memcpy(&result, &value, sizeof result);   \
    return result;                            \
  }
CUDA_ON_CPU_SAME_BITS(__float_as_int, int, float)
CUDA_ON_CPU_SAME_BITS(__float_as_uint, unsigned, float)
CUDA_ON_CPU_SAME_BITS(__int_as_float, float, int)
CUDA_ON_CPU_SAME_BITS(__uint_as_float, float, unsigned)
CUDA_ON_CPU_SAME_BITS(__double_as_longlong, long long, double)
CUDA_ON_CPU_SAME_BITS(__longlong_as_double, double, long long)
#undef CUDA_ON_CPU_SAME_BITS

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline int __clzll(long long bits) { return bits == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(bits)); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float rsqrtf(float a) { return 1 / sqrtf(a); }
