// What all kernels share: number types, activations, sums over warps.
//
// Numbers are read and written as f32, f16 or bf16 and computed in f32. Each kernel is written once
// as a template and exported once a type, as `name_f32`, `name_f16` and `name_bf16`.
//
// With MTMC_EMULATED the same source is plain C++ for the emulator of the tests.
#pragma once

#ifdef MTMC_EMULATED
#include "emulator/shim.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define EXPORT(name)
typedef __half f16;
typedef __nv_bfloat16 bf16;
__device__ __forceinline__ float wide(f16 value) { return __half2float(value); }
__device__ __forceinline__ float wide(bf16 value) { return __bfloat162float(value); }
__device__ __forceinline__ void narrow(f16 *out, float value) { *out = __float2half_rn(value); }
__device__ __forceinline__ void narrow(bf16 *out, float value) { *out = __float2bfloat16_rn(value); }
#endif

__device__ __forceinline__ float wide(float value) { return value; }
__device__ __forceinline__ void narrow(float *out, float value) { *out = value; }

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Exports `kernel`, a macro of type and suffix, for all types.
#define FOR_EACH_TYPE(kernel) kernel(float, f32) kernel(f16, f16) kernel(bf16, bf16)

#define WARP 32
#define ALL_LANES 0xffffffffu

// Planes and the windows that pass over them; in the order in which programs.rs gives them.
struct ConvSizes {
  u32 channels, height, width, out_height, out_width, kernel, stride, padding;
};

// In the order of the numbers that launches are given.
enum Activation { IDENTITY = 0, RELU = 1, SILU = 2, GELU = 3, QUICK_GELU = 4 };

__device__ __forceinline__ float activate(float x, u32 activation) {
  switch (activation) {
  case RELU:
    return x > 0.f ? x : (x != x ? x : 0.f); // NaN stays NaN
  case SILU:
    return x / (1.f + expf(-x));
  case GELU:
    return 0.5f * x * (1.f + erff(x * 0.70710678118654752f));
  case QUICK_GELU:
    return x / (1.f + expf(-1.702f * x));
  default:
    return x;
  }
}

__device__ __forceinline__ float warp_sum(float value) {
  for (int apart = WARP / 2; apart > 0; apart /= 2)
    value += __shfl_xor_sync(ALL_LANES, value, apart);
  return value;
}

__device__ __forceinline__ float warp_max(float value) {
  for (int apart = WARP / 2; apart > 0; apart /= 2)
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, apart));
  return value;
}
