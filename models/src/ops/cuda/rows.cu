// Passes over rows of neighbouring numbers, one warp a row: layer norm, softmax, means, the best.
#include "common.cuh"

// The row of this warp; at least `rows` where there is none.
__device__ __forceinline__ u32 row_of_warp() {
  return blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
}

// Mean 0 and variance 1, times `weight` plus `bias` ([size] each). The variance is taken around the
// mean in a pass of its own: squares less squares would cost two digits where the mean is large.
template <typename T>
__device__ void layer_norm(const T *x, const T *weight, const T *bias, T *output, u32 rows, u32 size,
                           float eps) {
  u32 row = row_of_warp(), lane = threadIdx.x % WARP;
  if (row >= rows)
    return;
  const T *input = x + (u64)row * size;
  float sum = 0.f;
  for (u32 i = lane; i < size; i += WARP)
    sum += wide(input[i]);
  float mean = warp_sum(sum) / size;
  float squares = 0.f;
  for (u32 i = lane; i < size; i += WARP) {
    float off = wide(input[i]) - mean;
    squares += off * off;
  }
  float scale = 1.f / sqrtf(warp_sum(squares) / size + eps);
  for (u32 i = lane; i < size; i += WARP)
    narrow(output + (u64)row * size + i,
           (wide(input[i]) - mean) * scale * wide(weight[i]) + wide(bias[i]));
}

template <typename T> __device__ void softmax(const T *x, T *output, u32 rows, u32 size) {
  u32 row = row_of_warp(), lane = threadIdx.x % WARP;
  if (row >= rows)
    return;
  const T *input = x + (u64)row * size;
  float most = -INFINITY;
  for (u32 i = lane; i < size; i += WARP)
    most = fmaxf(most, wide(input[i]));
  most = warp_max(most);
  float sum = 0.f;
  for (u32 i = lane; i < size; i += WARP)
    sum += expf(wide(input[i]) - most);
  float scale = 1.f / warp_sum(sum);
  for (u32 i = lane; i < size; i += WARP)
    narrow(output + (u64)row * size + i, expf(wide(input[i]) - most) * scale);
}

// [rows, size] to [rows].
template <typename T> __device__ void means(const T *x, T *output, u32 rows, u32 size) {
  u32 row = row_of_warp(), lane = threadIdx.x % WARP;
  if (row >= rows)
    return;
  float sum = 0.f;
  for (u32 i = lane; i < size; i += WARP)
    sum += wide(x[(u64)row * size + i]);
  sum = warp_sum(sum);
  if (lane == 0)
    narrow(output + row, sum / size);
}

#define NO_INDEX 0xffffffffu

// Where each row's largest number is, the first of equal ones, and what it is. NaN never is; where
// there is nothing else, the index is NO_INDEX and the number 0.
template <typename T>
__device__ void best(const T *x, u32 *indices, float *values, u32 rows, u32 size) {
  u32 row = row_of_warp(), lane = threadIdx.x % WARP;
  if (row >= rows)
    return;
  u32 index = NO_INDEX;
  float most = 0.f;
  for (u32 i = lane; i < size; i += WARP) {
    float value = wide(x[(u64)row * size + i]);
    if (value == value && (index == NO_INDEX || value > most)) {
      index = i;
      most = value;
    }
  }
  for (int apart = WARP / 2; apart > 0; apart /= 2) {
    u32 other = __shfl_xor_sync(ALL_LANES, index, apart);
    float value = __shfl_xor_sync(ALL_LANES, most, apart);
    if (other != NO_INDEX &&
        (index == NO_INDEX || value > most || (value == most && other < index))) {
      index = other;
      most = value;
    }
  }
  if (lane == 0) {
    indices[row] = index;
    values[row] = most;
  }
}

#define KERNEL(type, suffix)                                                                       \
  extern "C" __global__ void layer_norm_##suffix(const type *x, const type *weight,                \
                                                 const type *bias, type *output, u32 rows,         \
                                                 u32 size, float eps) {                            \
    layer_norm(x, weight, bias, output, rows, size, eps);                                          \
  }                                                                                                \
  EXPORT(layer_norm_##suffix)                                                                      \
  extern "C" __global__ void softmax_##suffix(const type *x, type *output, u32 rows, u32 size) {   \
    softmax(x, output, rows, size);                                                                \
  }                                                                                                \
  EXPORT(softmax_##suffix)                                                                         \
  extern "C" __global__ void means_##suffix(const type *x, type *output, u32 rows, u32 size) {     \
    means(x, output, rows, size);                                                                  \
  }                                                                                                \
  EXPORT(means_##suffix)                                                                           \
  extern "C" __global__ void best_##suffix(const type *x, u32 *indices, float *values, u32 rows,   \
                                           u32 size) {                                             \
    best(x, indices, values, rows, size);                                                          \
  }                                                                                                \
  EXPORT(best_##suffix)
FOR_EACH_TYPE(KERNEL)
#undef KERNEL
