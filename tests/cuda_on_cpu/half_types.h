// CUDA's 16-bit floating-point types and their conversions, which round once, to the nearest even.
#pragma once

#include <stdint.h>
#include <string.h>

#include "vector_types.h"

namespace cuda_on_cpu {

// A value in a format of 1 + exponent_bits + mantissa_bits = 16 bits.
template <int exponent_bits, int mantissa_bits>
uint16_t narrow(double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>(bits >> 63 << 15);
  constexpr int bias = (1 << (exponent_bits - 1)) - 1;
  constexpr uint16_t infinity = ((1 << exponent_bits) - 1) << mantissa_bits;
  const uint64_t magnitude = bits << 1 >> 1;
  if (magnitude > 0x7ff0000000000000) return 0x7fff;  // NaN, CUDA's canonical one
  const int exponent = static_cast<int>(magnitude >> 52) - 1023;
  if (exponent > bias) return sign | infinity;
  // The kept bits of 1.mantissa (a subnormal keeps fewer), rounded to the nearest even; a carry into the exponent is
  // what it should be, up to infinity.
  const int dropped = 52 - mantissa_bits + (exponent < 1 - bias ? 1 - bias - exponent : 0);
  if (dropped > 53) return sign;
  const uint64_t significand = (magnitude & 0xfffffffffffff) | 0x10000000000000;
  const uint64_t kept = significand >> dropped, rest = significand << (64 - dropped);
  const uint64_t half = uint64_t{1} << 63;
  uint64_t result = kept + (rest > half || (rest == half && (kept & 1)));
  if (exponent >= 1 - bias) result += static_cast<uint64_t>(exponent + bias - 1) << mantissa_bits;
  return sign | static_cast<uint16_t>(result);
}

template <int exponent_bits, int mantissa_bits>
float widen(uint16_t bits) {
  constexpr int bias = (1 << (exponent_bits - 1)) - 1;
  const uint32_t sign = static_cast<uint32_t>(bits >> 15) << 31;
  const uint32_t exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1);
  const uint32_t mantissa = bits & ((1 << mantissa_bits) - 1);
  uint32_t wide;
  if (exponent == (1 << exponent_bits) - 1) {
    wide = sign | 0x7f800000 | mantissa << (23 - mantissa_bits);
  } else if (exponent == 0 && bias < 127) {
    const float value = static_cast<float>(mantissa) * __builtin_ldexpf(1, 1 - bias - mantissa_bits);
    return sign ? -value : value;
  } else {
    wide = sign | (exponent + 127 - (exponent == 0 ? 127 : bias)) << 23 | mantissa << (23 - mantissa_bits);
  }
  float result;
  memcpy(&result, &wide, sizeof result);
  return result;
}

}  // namespace cuda_on_cpu

struct __half {
  uint16_t __x;
  __half() = default;
  explicit __half(float value) : __x(cuda_on_cpu::narrow<5, 10>(value)) {}
  explicit __half(double value) : __x(cuda_on_cpu::narrow<5, 10>(value)) {}
  operator float() const { return cuda_on_cpu::widen<5, 10>(__x); }
};

struct __nv_bfloat16 {
  uint16_t __x;
  __nv_bfloat16() = default;
  explicit __nv_bfloat16(float value) : __x(cuda_on_cpu::narrow<8, 7>(value)) {}
  explicit __nv_bfloat16(double value) : __x(cuda_on_cpu::narrow<8, 7>(value)) {}
  operator float() const { return cuda_on_cpu::widen<8, 7>(__x); }
};

struct alignas(4) __half2 {
  __half x, y;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
using half = __half;
using half2 = __half2;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline float __half2float(__half value) { return value; }
inline __half __float2half(float value) { return __half(value); }
inline __half __float2half_rn(float value) { return __half(value); }
inline __half __double2half(double value) { return __half(value); }
inline float __bfloat162float(__nv_bfloat16 value) { return value; }
inline __nv_bfloat16 __float2bfloat16(float value) { return __nv_bfloat16(value); }
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return __nv_bfloat16(value); }
inline __nv_bfloat16 __double2bfloat16(double value) { return __nv_bfloat16(value); }

inline float2 __half22float2(__half2 value) { return {value.x, value.y}; }
inline __half2 __float22half2_rn(float2 value) { return {__half(value.x), __half(value.y)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline float2 __bfloat1622float2(__nv_bfloat162 value) { return {value.x, value.y}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 value) { return {__nv_bfloat16(value.x), __nv_bfloat16(value.y)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }

inline __half __ushort_as_half(unsigned short bits) {
  __half value;
  value.__x = bits;
  return value;
}
inline unsigned short __half_as_ushort(__half value) { return value.__x; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
  __nv_bfloat16 value;
  value.__x = bits;
  return value;
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.__x; }
