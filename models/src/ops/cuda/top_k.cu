// The k largest numbers of every row, largest first, equal ones by rising index, NaN as minus
// infinity: one block a row. Four rounds of counting bytes find the k-th largest, then those above
// it are taken, of those equal to it the first ones, and what was taken is sorted.
#include "common.cuh"

#define THREADS 512
#define MAX_K 1024

// Larger numbers have larger keys (as Rust's `total_cmp` has it: -0 before +0).
__device__ __forceinline__ u32 order_key(float value) {
  if (value != value)
    value = -INFINITY;
  u32 bits = __float_as_uint(value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Sorts `size` numbers, a power of two, largest first (Batcher's bitonic network).
__device__ void sort_falling(u64 *numbers, u32 size) {
  for (u32 length = 2; length <= size; length *= 2)
    for (u32 apart = length / 2; apart > 0; apart /= 2) {
      __syncthreads();
      for (u32 i = threadIdx.x; i < size; i += blockDim.x) {
        u32 other = i ^ apart;
        bool falling = (i & length) == 0;
        if (other > i && (numbers[i] < numbers[other]) == falling && numbers[i] != numbers[other]) {
          u64 kept = numbers[i];
          numbers[i] = numbers[other];
          numbers[other] = kept;
        }
      }
    }
  __syncthreads();
}

// values: [rows, n]; indices: [rows, k]. 0 < k <= MAX_K, k <= n.
template <typename T> __device__ void top_k(const T *values, u32 *indices, u32 n, u32 k) {
  __shared__ u32 counts[256];
  __shared__ u32 prefix, wanted, taken;
  __shared__ u32 of_warp[THREADS / WARP];
  __shared__ u64 best[MAX_K];
  const T *row = values + (u64)blockIdx.x * n;
  u32 thread = threadIdx.x;
  if (thread == 0) {
    prefix = 0;
    wanted = k;
    taken = 0;
  }
  u32 known = 0; // bits of the k-th largest key that are known
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (u32 i = thread; i < 256; i += blockDim.x)
      counts[i] = 0;
    __syncthreads();
    for (u32 i = thread; i < n; i += blockDim.x) {
      u32 key = order_key(wide(row[i]));
      if ((key & known) == prefix)
        atomicAdd(&counts[key >> shift & 255], 1u);
    }
    __syncthreads();
    if (thread == 0) {
      u32 byte = 255;
      while (counts[byte] < wanted)
        wanted -= counts[byte--];
      prefix |= byte << shift;
    }
    known |= 255u << shift;
    __syncthreads();
  }
  // `wanted` of those equal to `prefix`, all above it.
  u32 above = k - wanted, equal = 0;
  for (u32 start = 0; start < n; start += blockDim.x) {
    u32 i = start + thread;
    u32 key = i < n ? order_key(wide(row[i])) : 0; // no number's key is 0
    if (i < n && key > prefix)
      best[atomicAdd(&taken, 1u)] = (u64)key << 32 | (u32)~i;
    bool same = i < n && key == prefix;
    u32 lanes = __ballot_sync(ALL_LANES, same);
    if (thread % WARP == 0)
      of_warp[thread / WARP] = __popc(lanes);
    __syncthreads();
    u32 before = equal + __popc(lanes & ((1u << thread % WARP) - 1));
    for (u32 warp = 0; warp < blockDim.x / WARP; warp++) {
      if (warp < thread / WARP)
        before += of_warp[warp];
      equal += of_warp[warp];
    }
    if (same && before < wanted)
      best[above + before] = (u64)key << 32 | (u32)~i;
    __syncthreads(); // everybody has read the counts
  }
  u32 size = 1;
  while (size < k)
    size *= 2;
  for (u32 i = k + thread; i < size; i += blockDim.x)
    best[i] = 0;
  sort_falling(best, size);
  for (u32 i = thread; i < k; i += blockDim.x)
    indices[(u64)blockIdx.x * k + i] = ~(u32)best[i];
}

#define KERNEL(type, suffix)                                                                       \
  extern "C" __global__ void __launch_bounds__(THREADS)                                            \
      top_k_##suffix(const type *values, u32 *indices, u32 n, u32 k) {                             \
    top_k(values, indices, n, k);                                                                  \
  }                                                                                                \
  EXPORT(top_k_##suffix)
FOR_EACH_TYPE(KERNEL)
#undef KERNEL
#undef THREADS
