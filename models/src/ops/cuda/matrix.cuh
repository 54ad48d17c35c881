// The tensor cores' instructions, by the PTX ISA's names: fragments of matrices of f16 and bf16.
#pragma once
#include "common.cuh"

#ifndef MTMC_EMULATED
// ldmatrix.m8n8.x4: four matrices of 8 by 8 numbers from shared memory. Lane i gives the address of
// row i % 8 of matrix i / 8, at 16 bytes; of each matrix it gets row i / 4, columns i % 4 * 2 and next.
template <typename T> __device__ __forceinline__ void load_matrices(u32 to[4], const T *row) {
  u32 address = (u32)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

// The same with .trans: rows i % 4 * 2 and next, column i / 4.
template <typename T> __device__ __forceinline__ void load_matrices_turned(u32 to[4], const T *row) {
  u32 address = (u32)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

// mma.m16n8k16: sums (16 by 8) += a (16 by 16) times b (16 by 8). Of lane i, with g = i / 4 and
// t = i % 4 * 2: a[0] row g, columns t and next; a[1] row g + 8; a[2] row g, columns t + 8 and next;
// a[3] both; b[0] rows t and next, column g; b[1] rows t + 8 and next; sums[0], [1] row g, columns t
// and next; sums[2], [3] row g + 8.
#define MULTIPLY_ADD(type, name)                                                                   \
  __device__ __forceinline__ void multiply_add(float sums[4], const u32 a[4], const u32 b[2],      \
                                               type *) {                                           \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name ".f32 "                    \
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                 \
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));              \
  }
MULTIPLY_ADD(f16, "f16")
MULTIPLY_ADD(bf16, "bf16")
#undef MULTIPLY_ADD
#else
// The same, for the emulator: all lanes lay their share down, then each takes what it gets.
struct Share {
  u64 parts[3];
};
const Share *shared_by_warp(const Share &mine); // of the 32 lanes; main.cpp

inline u32 pair(u32 low, u32 high) { return low | high << 16; }

template <typename T> void load_matrices_any(u32 to[4], const T *row, bool turned) {
  if ((u64)row % 16 != 0)
    fail("ldmatrix needs rows at 16 bytes");
  const Share *rows = shared_by_warp({{(u64)row, 0, 0}});
  u32 lane = lane_of_thread();
  for (u32 matrix = 0; matrix < 4; matrix++) {
    u32 parts[2];
    for (u32 next = 0; next < 2; next++) {
      u32 from = turned ? lane % 4 * 2 + next : lane / 4;
      u32 column = turned ? lane / 4 : lane % 4 * 2 + next;
      parts[next] = ((const T *)rows[matrix * 8 + from].parts[0])[column].bits;
    }
    to[matrix] = pair(parts[0], parts[1]);
  }
}
template <typename T> void load_matrices(u32 to[4], const T *row) {
  load_matrices_any(to, row, false);
}
template <typename T> void load_matrices_turned(u32 to[4], const T *row) {
  load_matrices_any(to, row, true);
}

template <typename T> void multiply_add(float sums[4], const u32 a[4], const u32 b[2], T *) {
  const Share *lanes = shared_by_warp(
      {{a[0] | (u64)a[1] << 32, a[2] | (u64)a[3] << 32, b[0] | (u64)b[1] << 32}});
  u32 lane = lane_of_thread();
  auto half = [](u64 words, u32 word, u32 which) {
    T value;
    value.bits = (u16)(words >> (32 * word + 16 * which));
    return wide(value);
  };
  for (u32 part = 0; part < 4; part++) {
    u32 row = lane / 4 + part / 2 * 8, column = lane % 4 * 2 + part % 2;
    float sum = sums[part];
    for (u32 k = 0; k < 16; k++) {
      u64 words_a = lanes[row % 8 * 4 + k % 8 / 2].parts[k / 8];
      u64 words_b = lanes[column * 4 + k % 8 / 2].parts[2];
      sum += half(words_a, row / 8, k % 2) * half(words_b, k / 8, k % 2);
    }
    sums[part] = sum;
  }
}
#endif
