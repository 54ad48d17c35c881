// Inner products of many vectors with many, for searches in galleries. A product is summed in the
// order of its numbers, whatever is computed beside it: no bit depends on the batch.
#include "common.cuh"

#define SIDE 64
#define DEPTH 16
#define EACH 4

// left: [m, dim], right: [n, dim]; output: [m, n], f32. Blocks of 16 × 16 threads, each with 4 × 4
// products: x over n, y over m.
template <typename T>
__device__ void products(const T *left, const T *right, float *output, u32 m, u32 n, u32 dim) {
  __shared__ float a[DEPTH][SIDE + 1];
  __shared__ float b[DEPTH][SIDE + 1];
  u32 first_row = blockIdx.y * SIDE, first_column = blockIdx.x * SIDE;
  u32 thread = threadIdx.y * blockDim.x + threadIdx.x;
  float sums[EACH][EACH] = {};
  for (u32 start = 0; start < dim; start += DEPTH) {
    __syncthreads();
    for (u32 i = thread; i < SIDE * DEPTH; i += blockDim.x * blockDim.y) {
      u32 vector = i / DEPTH, at = i % DEPTH;
      bool inside = start + at < dim;
      bool in_left = inside && first_row + vector < m;
      bool in_right = inside && first_column + vector < n;
      a[at][vector] = in_left ? wide(left[(u64)(first_row + vector) * dim + start + at]) : 0.f;
      b[at][vector] = in_right ? wide(right[(u64)(first_column + vector) * dim + start + at]) : 0.f;
    }
    __syncthreads();
    for (u32 at = 0; at < DEPTH; at++)
      for (u32 i = 0; i < EACH; i++)
        for (u32 j = 0; j < EACH; j++)
          sums[i][j] = fmaf(a[at][threadIdx.y + i * 16], b[at][threadIdx.x + j * 16], sums[i][j]);
  }
  for (u32 i = 0; i < EACH; i++)
    for (u32 j = 0; j < EACH; j++) {
      u32 row = first_row + threadIdx.y + i * 16, column = first_column + threadIdx.x + j * 16;
      if (row < m && column < n)
        output[(u64)row * n + column] = sums[i][j];
    }
}

#define KERNEL(type, suffix)                                                                       \
  extern "C" __global__ void __launch_bounds__(256)                                                \
      products_##suffix(const type *left, const type *right, float *output, u32 m, u32 n,          \
                        u32 dim) {                                                                 \
    products(left, right, output, m, n, dim);                                                      \
  }                                                                                                \
  EXPORT(products_##suffix)
FOR_EACH_TYPE(KERNEL)
#undef KERNEL
