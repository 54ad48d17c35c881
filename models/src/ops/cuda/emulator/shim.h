// CUDA's language on a CPU, as far as the kernels use it: the threads of a block are fibers that take
// turns, shared memory is static memory, and barriers wait until all have come.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

struct Index {
  unsigned x, y, z;
};

extern Index gridDim, blockDim, blockIdx, threadIdx;

#define __global__
#define __device__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __shared__ static
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

// Barriers and exchanges between the fibers of a block; main.cpp.
void __syncthreads();
void __syncwarp(unsigned mask = 0xffffffffu);
uint64_t exchange(uint64_t mine, unsigned lane);
unsigned __ballot_sync(unsigned mask, bool vote);
[[noreturn]] void fail(const char *what);

template <typename T> T exchanged(T value, unsigned lane) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = exchange(bits, lane);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

unsigned lane_of_thread();

template <typename T> T __shfl_sync(unsigned, T value, unsigned lane) {
  return exchanged(value, lane % 32);
}

template <typename T> T __shfl_xor_sync(unsigned, T value, unsigned mask) {
  return exchanged(value, lane_of_thread() ^ mask);
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Fibers take turns only at barriers: nothing comes between.
template <typename T> T atomicAdd(T *to, T what) {
  T before = *to;
  *to += what;
  return before;
}
inline unsigned atomicMax(unsigned *to, unsigned what) {
  unsigned before = *to;
  *to = what > before ? what : before;
  return before;
}

// What does not fit is as undefined here as the sanitizer finds it.
inline long long __float2ll_rn(float value) { return (long long)std::nearbyint(value); }

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

inline float wide(bf16 value) { return __uint_as_float((unsigned)value.bits << 16); }

// To the nearest, ties to even.
inline void narrow(bf16 *out, float value) {
  unsigned bits = __float_as_uint(value);
  if (value != value)
    out->bits = 0x7fff;
  else
    out->bits = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float wide(f16 value) {
  unsigned sign = (unsigned)(value.bits & 0x8000) << 16;
  unsigned exponent = value.bits >> 10 & 31, fraction = value.bits & 0x3ff;
  if (exponent == 31)
    return __uint_as_float(sign | 0x7f800000u | fraction << 13);
  float size = exponent ? std::ldexp(1024.f + fraction, (int)exponent - 25)
                        : std::ldexp((float)fraction, -24);
  return sign ? -size : size;
}

// To the nearest, ties to even: by the rounding of f64 to whole numbers of the last place.
inline void narrow(f16 *out, float value) {
  uint16_t sign = (uint16_t)(__float_as_uint(value) >> 16 & 0x8000);
  double size = std::fabs((double)value);
  if (value != value) {
    out->bits = 0x7fff;
    return;
  }
  int exponent = 0;
  std::frexp(size, &exponent); // size = [0.5, 1) * 2^exponent
  if (exponent < -13)
    exponent = -13; // below the smallest normal number
  double places = size > 65536.0 ? 1e9 : std::nearbyint(std::ldexp(size, 11 - exponent));
  double rounded = std::ldexp(places, exponent - 11);
  if (rounded > 65504.0) {
    out->bits = sign | 0x7c00;
    return;
  }
  if (rounded < std::ldexp(1.0, -14)) {
    out->bits = sign | (uint16_t)std::ldexp(rounded, 24);
    return;
  }
  std::frexp(rounded, &exponent);
  uint16_t fraction = (uint16_t)((unsigned)std::ldexp(rounded, 11 - exponent) & 0x3ff);
  out->bits = sign | (uint16_t)((exponent + 14) << 10) | fraction;
}

// Kernels by name, as the driver finds them in a module: each takes pointers to its arguments.
typedef void (*Thunk)(void **);
struct Export {
  Export(const char *name, Thunk thunk);
};

template <auto F> struct Call;
template <typename... A, void (*F)(A...)> struct Call<F> {
  static void run(void **arguments) { with(arguments, std::index_sequence_for<A...>()); }
  template <size_t... I> static void with(void **arguments, std::index_sequence<I...>) {
    F(*(A *)arguments[I]...);
  }
};
#define EXPORT(name) static Export exported_##name(#name, Call<name>::run);
