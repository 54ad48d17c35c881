// Passes over planes: max pooling, sums of gated streams.
#include "common.cuh"

// The largest number of every window; what is outside is never the largest. Blocks: x over images
// and channels, y over pixels.
template <typename T> __device__ void max_pool(const T *x, T *output, const ConvSizes &sizes) {
  u32 pixel = blockIdx.y * blockDim.x + threadIdx.x;
  u32 pixels = sizes.out_height * sizes.out_width;
  if (pixel >= pixels)
    return;
  int top = (int)(pixel / sizes.out_width * sizes.stride) - (int)sizes.padding;
  int left = (int)(pixel % sizes.out_width * sizes.stride) - (int)sizes.padding;
  const T *input = x + (u64)blockIdx.x * sizes.height * sizes.width;
  float most = -INFINITY;
  for (int row = top < 0 ? 0 : top; row < top + (int)sizes.kernel && row < (int)sizes.height; row++)
    for (int column = left < 0 ? 0 : left;
         column < left + (int)sizes.kernel && column < (int)sizes.width; column++) {
      float value = wide(input[(u64)row * sizes.width + column]);
      most = value > most || value != value ? value : most;
    }
  narrow(output + (u64)blockIdx.x * pixels + pixel, most);
}

// The sum of up to four streams, each [planes, size], every plane times its gate: gates are
// [streams, planes]. Streams that are not there are null. Blocks: x over planes, y over pixels.
template <typename T>
__device__ void gated_sum(const T *a, const T *b, const T *c, const T *d, const T *gates, T *output,
                          u32 planes, u32 size) {
  u32 pixel = blockIdx.y * blockDim.x + threadIdx.x, plane = blockIdx.x;
  if (pixel >= size)
    return;
  u64 at = (u64)plane * size + pixel;
  const T *streams[4] = {a, b, c, d};
  float sum = 0.f;
#pragma unroll
  for (u32 stream = 0; stream < 4; stream++)
    if (streams[stream])
      sum += wide(gates[stream * planes + plane]) * wide(streams[stream][at]);
  narrow(output + at, sum);
}

#define KERNEL(type, suffix)                                                                       \
  extern "C" __global__ void max_pool_##suffix(const type *x, type *output, ConvSizes sizes) {     \
    max_pool(x, output, sizes);                                                                    \
  }                                                                                                \
  EXPORT(max_pool_##suffix)                                                                        \
  extern "C" __global__ void gated_sum_##suffix(const type *a, const type *b, const type *c,       \
                                                const type *d, const type *gates, type *output,    \
                                                u32 planes, u32 size) {                            \
    gated_sum(a, b, c, d, gates, output, planes, size);                                            \
  }                                                                                                \
  EXPORT(gated_sum_##suffix)
FOR_EACH_TYPE(KERNEL)
#undef KERNEL
