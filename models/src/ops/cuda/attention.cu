// Scaled dot-product attention without mask in one pass over the keys (online softmax: Milakov and
// Gimelshein, 2018; Dao et al., FlashAttention, 2022): no matrix of scores is ever stored.
//
// A block has four warps of four queries each. Keys and values pass through shared memory in tiles
// of 32; every lane has the score of one key of the tile and up to four numbers of each result.
#include "common.cuh"

#define TILE 32
#define WARPS 4
#define QUERIES 4
#define MAX_HEAD 128
#define PARTS (MAX_HEAD / WARP)

// In the order in which programs.rs gives them; strides count numbers.
struct AttentionSizes {
  u32 queries, keys, heads, head;
  u32 query_batch, query_row, key_batch, key_row, value_batch, value_row;
};

// query: [batch, queries, heads * head], key and value: [batch, keys, heads * head]; the result is
// as the query, without gaps. Blocks: x over groups of 16 queries, y over heads, z over images.
template <typename T>
__device__ void attention(const T *query, const T *key, const T *value, T *output,
                          const AttentionSizes &sizes, float scale) {
  __shared__ float queries[WARPS * QUERIES][MAX_HEAD];
  // One more, so that the lanes, each in a row of its own, are in different banks.
  __shared__ float keys[TILE][MAX_HEAD + 1];
  __shared__ float values[TILE][MAX_HEAD];
  u32 thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP;
  u32 first = blockIdx.x * WARPS * QUERIES, head = sizes.head;
  u64 offset = blockIdx.y * head;
  query += (u64)blockIdx.z * sizes.query_batch + offset;
  key += (u64)blockIdx.z * sizes.key_batch + offset;
  value += (u64)blockIdx.z * sizes.value_batch + offset;
  for (u32 i = thread; i < WARPS * QUERIES * head; i += blockDim.x) {
    u32 row = i / head, at = i % head;
    bool there = first + row < sizes.queries;
    queries[row][at] =
        there ? wide(query[(u64)(first + row) * sizes.query_row + at]) * scale : 0.f;
  }
  float most[QUERIES], sum[QUERIES], mixed[QUERIES][PARTS];
  for (u32 q = 0; q < QUERIES; q++) {
    most[q] = -INFINITY;
    sum[q] = 0.f;
    for (u32 part = 0; part < PARTS; part++)
      mixed[q][part] = 0.f;
  }
  for (u32 start = 0; start < sizes.keys; start += TILE) {
    u32 count = sizes.keys - start < TILE ? sizes.keys - start : TILE;
    __syncthreads(); // everybody is done with the tile before
    for (u32 i = thread; i < count * head; i += blockDim.x) {
      u32 row = i / head, at = i % head;
      keys[row][at] = wide(key[(u64)(start + row) * sizes.key_row + at]);
      values[row][at] = wide(value[(u64)(start + row) * sizes.value_row + at]);
    }
    __syncthreads();
    for (u32 q = 0; q < QUERIES; q++) {
      const float *mine = queries[warp * QUERIES + q];
      float score = -INFINITY;
      if (lane < count) {
        score = 0.f;
        for (u32 at = 0; at < head; at++)
          score += mine[at] * keys[lane][at];
      }
      float largest = fmaxf(most[q], warp_max(score));
      float weight = lane < count ? expf(score - largest) : 0.f;
      float shrink = expf(most[q] - largest); // 0 the first time
      sum[q] = sum[q] * shrink + warp_sum(weight);
      most[q] = largest;
      for (u32 part = 0; part < PARTS; part++)
        mixed[q][part] *= shrink;
      for (u32 row = 0; row < count; row++) {
        float of_row = __shfl_sync(ALL_LANES, weight, row);
        for (u32 part = 0; part < PARTS; part++)
          if (part * WARP + lane < head)
            mixed[q][part] += of_row * values[row][part * WARP + lane];
      }
    }
  }
  for (u32 q = 0; q < QUERIES; q++) {
    u32 row = first + warp * QUERIES + q;
    if (row >= sizes.queries)
      continue;
    T *to = output + ((u64)blockIdx.z * sizes.queries + row) * sizes.heads * head + offset;
    for (u32 part = 0; part < PARTS; part++)
      if (part * WARP + lane < head)
        narrow(to + part * WARP + lane, mixed[q][part] / sum[q]);
  }
}

#define KERNEL(type, suffix)                                                                       \
  extern "C" __global__ void __launch_bounds__(WARPS *WARP)                                        \
      attention_##suffix(const type *query, const type *key, const type *value, type *output,      \
                         AttentionSizes sizes, float scale) {                                      \
    attention(query, key, value, output, sizes, scale);                                            \
  }                                                                                                \
  EXPORT(attention_##suffix)
FOR_EACH_TYPE(KERNEL)
#undef KERNEL
