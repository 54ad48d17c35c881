// What convolutions need beside the matrix product: depthwise filters, patches as columns, and what
// follows a product (bias, shortcut, activation) in one pass.
#include "common.cuh"

// One filter a channel. Blocks: x over images and channels, y over pixels; one thread a pixel.
// KERNEL is the side of the filter where it is known at compile time, else 0. `bias` may be null.
template <typename T, u32 KERNEL>
__device__ void filter(const T *x, const T *weight, const T *bias, T *output, const ConvSizes &sizes,
                       u32 activation) {
  u32 pixel = blockIdx.y * blockDim.x + threadIdx.x;
  u32 plane = blockIdx.x;
  u32 pixels = sizes.out_height * sizes.out_width;
  if (pixel >= pixels)
    return;
  const u32 kernel = KERNEL ? KERNEL : sizes.kernel;
  u32 channel = plane % sizes.channels;
  const T *taps = weight + (u64)channel * kernel * kernel;
  const T *input = x + (u64)plane * sizes.height * sizes.width;
  int top = (int)(pixel / sizes.out_width * sizes.stride) - (int)sizes.padding;
  int left = (int)(pixel % sizes.out_width * sizes.stride) - (int)sizes.padding;
  float sum = bias ? wide(bias[channel]) : 0.f;
#pragma unroll
  for (u32 dy = 0; dy < kernel; dy++) {
    int row = top + (int)dy;
    if (row < 0 || row >= (int)sizes.height)
      continue;
#pragma unroll
    for (u32 dx = 0; dx < kernel; dx++) {
      int column = left + (int)dx;
      if (column >= 0 && column < (int)sizes.width)
        sum += wide(taps[dy * kernel + dx]) * wide(input[(u64)row * sizes.width + column]);
    }
  }
  narrow(output + (u64)plane * pixels + pixel, activate(sum, activation));
}

template <typename T>
__device__ void depthwise(const T *x, const T *weight, const T *bias, T *output,
                          const ConvSizes &sizes, u32 activation) {
  switch (sizes.kernel) {
  case 3:
    return filter<T, 3>(x, weight, bias, output, sizes, activation);
  case 5:
    return filter<T, 5>(x, weight, bias, output, sizes, activation);
  default:
    return filter<T, 0>(x, weight, bias, output, sizes, activation);
  }
}

// The pixels under every tap: [batch, channels, height, width] to
// [batch, channels * kernel * kernel, out_height * out_width], so that a convolution is the weight's
// matrix times this one, in the order in which the next layer wants it. With `together`, the number of
// images, each row has the pixels of all of them: [channels * kernel * kernel, batch * pixels].
// Blocks: x over images, channels and taps, y over pixels.
template <typename T>
__device__ void columns(const T *x, T *output, const ConvSizes &sizes, u32 together) {
  u32 pixel = blockIdx.y * blockDim.x + threadIdx.x;
  u32 pixels = sizes.out_height * sizes.out_width;
  if (pixel >= pixels)
    return;
  u32 taps = sizes.kernel * sizes.kernel;
  u32 plane = blockIdx.x / taps, tap = blockIdx.x % taps;
  int row = (int)(pixel / sizes.out_width * sizes.stride + tap / sizes.kernel) - (int)sizes.padding;
  int column =
      (int)(pixel % sizes.out_width * sizes.stride + tap % sizes.kernel) - (int)sizes.padding;
  bool inside = row >= 0 && row < (int)sizes.height && column >= 0 && column < (int)sizes.width;
  const T *input = x + (u64)plane * sizes.height * sizes.width;
  u64 row_at = blockIdx.x;
  if (together)
    row_at = ((u64)(plane % sizes.channels) * taps + tap) * together + plane / sizes.channels;
  T *to = output + row_at * pixels + pixel;
  if (inside)
    *to = input[(u64)row * sizes.width + column];
  else
    narrow(to, 0.f);
}

// activation(x + bias + residual); `bias` and `residual` may be null. The number at `index` belongs
// to channel `index / inner % channels`: `inner` is the size of a plane, or 1 for rows.
template <typename T>
__device__ void epilogue(const T *x, const T *bias, const T *residual, T *output, u32 total,
                         u32 channels, u32 inner, u32 activation) {
  for (u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x; index < total;
       index += (u64)gridDim.x * blockDim.x) {
    float value = wide(x[index]);
    if (bias)
      value += wide(bias[(u32)index / inner % channels]);
    if (residual)
      value += wide(residual[index]);
    narrow(output + index, activate(value, activation));
  }
}

#define KERNEL(type, suffix)                                                                       \
  extern "C" __global__ void depthwise_##suffix(const type *x, const type *weight,                 \
                                                const type *bias, type *output, ConvSizes sizes,   \
                                                u32 activation) {                                  \
    depthwise(x, weight, bias, output, sizes, activation);                                         \
  }                                                                                                \
  EXPORT(depthwise_##suffix)                                                                       \
  extern "C" __global__ void columns_##suffix(const type *x, type *output, ConvSizes sizes,        \
                                              u32 together) {                                      \
    columns(x, output, sizes, together);                                                           \
  }                                                                                                \
  EXPORT(columns_##suffix)                                                                         \
  extern "C" __global__ void epilogue_##suffix(const type *x, const type *bias,                    \
                                               const type *residual, type *output, u32 total,      \
                                               u32 channels, u32 inner, u32 activation) {          \
    epilogue(x, bias, residual, output, total, channels, inner, activation);                       \
  }                                                                                                \
  EXPORT(epilogue_##suffix)
FOR_EACH_TYPE(KERNEL)
#undef KERNEL
