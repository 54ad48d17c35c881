// The way back through convolutions and deformable attention. Every number is a sum in an order that
// depends on the shapes alone, so that a training step gives the same bits each time; the one sum
// whose order nobody can fix, over the samples that fall on a cell, is taken in whole numbers.
#include "levels.cuh"

// The sum of `of(tap, pixel)` over all taps that see the input's `cell`, each with the output's pixel
// whose window that is.
template <typename F> __device__ float over_windows(const ConvSizes &sizes, u32 cell, F of) {
  u32 row = cell / sizes.width + sizes.padding, column = cell % sizes.width + sizes.padding;
  float sum = 0.f;
  for (u32 dy = 0; dy < sizes.kernel && dy <= row; dy++) {
    u32 y = (row - dy) / sizes.stride;
    if ((row - dy) % sizes.stride || y >= sizes.out_height)
      continue;
    for (u32 dx = 0; dx < sizes.kernel && dx <= column; dx++) {
      u32 x = (column - dx) / sizes.stride;
      if ((column - dx) % sizes.stride == 0 && x < sizes.out_width)
        sum += of(dy * sizes.kernel + dx, y * sizes.out_width + x);
    }
  }
  return sum;
}

// The way back of `columns`: [batch, channels * kernel * kernel, out_height * out_width] to
// [batch, channels, height, width], each cell the sum of what its taps have.
// Blocks: x over images and channels, y over cells.
template <typename T> __device__ void fold(const T *columns, T *output, const ConvSizes &sizes) {
  u32 cell = blockIdx.y * blockDim.x + threadIdx.x, cells = sizes.height * sizes.width;
  if (cell >= cells)
    return;
  u32 pixels = sizes.out_height * sizes.out_width;
  const T *own = columns + (u64)blockIdx.x * sizes.kernel * sizes.kernel * pixels;
  float sum = over_windows(
      sizes, cell, [=](u32 tap, u32 pixel) { return wide(own[(u64)tap * pixels + pixel]); });
  narrow(output + (u64)blockIdx.x * cells + cell, sum);
}

// The gradient of a depthwise convolution's input. Blocks as those of `fold`.
template <typename T>
__device__ void depthwise_to_input(const T *weight, const T *gradient, T *output,
                                   const ConvSizes &sizes) {
  u32 cell = blockIdx.y * blockDim.x + threadIdx.x, cells = sizes.height * sizes.width;
  if (cell >= cells)
    return;
  u32 pixels = sizes.out_height * sizes.out_width;
  const T *own = gradient + (u64)blockIdx.x * pixels;
  const T *taps = weight + (u64)(blockIdx.x % sizes.channels) * sizes.kernel * sizes.kernel;
  float sum = over_windows(
      sizes, cell, [=](u32 tap, u32 pixel) { return wide(taps[tap]) * wide(own[pixel]); });
  narrow(output + (u64)blockIdx.x * cells + cell, sum);
}

// The sum of a whole block's values, for its first thread. Blocks are whole warps, at most 32.
__device__ __forceinline__ float block_sum(float value) {
  __shared__ float of_warps[WARP];
  u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  value = warp_sum(value);
  if (lane == 0)
    of_warps[warp] = value;
  __syncthreads();
  return warp_sum(lane < blockDim.x / WARP ? of_warps[lane] : 0.f);
}

// The gradient of a depthwise convolution's weights: one block a channel and tap.
template <typename T>
__device__ void depthwise_to_weight(const T *x, const T *gradient, T *output,
                                    const ConvSizes &sizes, u32 batch) {
  u32 taps = sizes.kernel * sizes.kernel;
  u32 channel = blockIdx.x / taps, tap = blockIdx.x % taps;
  u32 pixels = sizes.out_height * sizes.out_width;
  float sum = 0.f;
  for (u64 at = threadIdx.x; at < (u64)batch * pixels; at += blockDim.x) {
    u64 plane = at / pixels * sizes.channels + channel;
    u32 pixel = (u32)(at % pixels);
    int row = (int)(pixel / sizes.out_width * sizes.stride + tap / sizes.kernel) - (int)sizes.padding;
    int column =
        (int)(pixel % sizes.out_width * sizes.stride + tap % sizes.kernel) - (int)sizes.padding;
    if (row < 0 || row >= (int)sizes.height || column < 0 || column >= (int)sizes.width)
      continue;
    const T *input = x + plane * sizes.height * sizes.width;
    sum += wide(input[(u64)row * sizes.width + column]) * wide(gradient[plane * pixels + pixel]);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0)
    narrow(output + blockIdx.x, sum);
}

// Gradients of deformable attention's locations and weights: one warp a sample, lanes over the
// head's channels. Shapes as in deformable.cu; `gradient` is that of its output.
template <typename T>
__device__ void deformable_to_samples(const T *value, const T *locations, const T *weights,
                                      const T *gradient, T *to_locations, T *to_weights,
                                      const Levels &levels, u32 samples, u32 queries, u32 cells,
                                      u32 heads, u32 size, u32 points) {
  u32 sample = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
  u32 lane = threadIdx.x % WARP;
  if (sample >= samples)
    return;
  u32 of_head = sample / points, head = of_head % heads, image = of_head / heads / queries;
  Place place = place_of(levels, sample % points, locations + 2 * (u64)sample);
  float to_weight = 0.f, to_x = 0.f, to_y = 0.f;
  if (place.inside) {
    const T *cell = value + ((u64)image * cells + place.first) * heads * size + head * size;
    const T *coming = gradient + (u64)of_head * size;
    for (u32 channel = lane; channel < size; channel += WARP) {
      float corners[2][2];
      for (int dy = 0; dy < 2; dy++)
        for (int dx = 0; dx < 2; dx++) {
          int row = place.top + dy, column = place.left + dx;
          bool there = row >= 0 && row < place.height && column >= 0 && column < place.width;
          u64 at = there ? (u64)(row * place.width + column) * heads * size + channel : 0;
          corners[dy][dx] = there ? wide(cell[at]) : 0.f;
        }
      float along_top = corners[0][1] - corners[0][0], along_bottom = corners[1][1] - corners[1][0];
      float top = corners[0][0] + place.right_part * along_top;
      float bottom = corners[1][0] + place.right_part * along_bottom;
      float g = wide(coming[channel]);
      to_weight += g * (top + place.lower_part * (bottom - top));
      to_x += g * (along_top + place.lower_part * (along_bottom - along_top));
      to_y += g * (bottom - top);
    }
  }
  to_weight = warp_sum(to_weight);
  to_x = warp_sum(to_x);
  to_y = warp_sum(to_y);
  if (lane == 0) {
    float weight = wide(weights[sample]);
    narrow(to_weights + sample, to_weight);
    narrow(to_locations + 2 * (u64)sample, to_x * weight * place.width);
    narrow(to_locations + 2 * (u64)sample + 1, to_y * weight * place.height);
  }
}

// Zeros, before sums are added up.
extern "C" __global__ void zero_sums(u64 *sums, u32 count, u32 *most) {
  for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < count;
       at += (u64)gridDim.x * blockDim.x)
    sums[at] = 0;
  if (blockIdx.x == 0 && threadIdx.x < 2)
    most[threadIdx.x] = 0;
}
EXPORT(zero_sums)

// The largest size of a number, as bits: as whole numbers they are in the same order, with infinity
// and then NaN last. `most` is zero before.
template <typename T> __device__ void largest(const T *x, u32 *most, u32 which, u32 count) {
  u32 own = 0;
  for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < count;
       at += (u64)gridDim.x * blockDim.x) {
    u32 bits = __float_as_uint(wide(x[at])) & 0x7fffffff;
    own = bits > own ? bits : own;
  }
  for (int apart = WARP / 2; apart > 0; apart /= 2) {
    u32 other = __shfl_xor_sync(ALL_LANES, own, apart);
    own = other > own ? other : own;
  }
  if (threadIdx.x % WARP == 0)
    atomicMax(most + which, own);
}

// What a sample adds to a cell is at most `bound` = the largest gradient times the largest weight. In
// units of 2^-places, `summands` of them fit into 63 bits.
__device__ __forceinline__ int fixed_places(float bound, u32 summands) {
  int exponent = 0, room = 0;
  frexpf(bound, &exponent); // bound < 2^exponent
  while (room < 32 && (summands >> room) > 0)
    room++; // summands < 2^room
  return 62 - exponent - room;
}

// Adds to the values' gradient what comes back through each sample, in whole numbers, whose sum does
// not depend on who comes first. Threads as those of the forward pass: one a number of `gradient`.
template <typename T>
__device__ void deformable_to_sums(const T *locations, const T *weights, const T *gradient,
                                   const u32 *most, u64 *sums, const Levels &levels, u32 total,
                                   u32 queries, u32 cells, u32 heads, u32 size, u32 points) {
  u32 index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= total)
    return;
  u32 channels = heads * size, channel = index % channels, query = index / channels;
  u64 sample = ((u64)query * heads + channel / size) * points;
  float bound = __uint_as_float(most[0]) * __uint_as_float(most[1]);
  if (!(bound <= 3.4e38f))
    return; // not finite: `sums_to_value` says so
  int places = fixed_places(bound, queries * points);
  float coming = wide(gradient[index]);
  u32 first = 0;
  for (u32 level = 0; level < levels.count; level++) {
    u32 height = levels.height[level], width = levels.width[level];
    for (u32 point = 0; point < levels.points[level]; point++, sample++) {
      Place place = place_in(height, width, first, locations + 2 * sample);
      if (!place.inside)
        continue;
      u64 *own = sums + ((u64)(query / queries) * cells + first) * channels + channel;
      float to_sample = coming * wide(weights[sample]);
      for (int dy = 0; dy < 2; dy++)
        for (int dx = 0; dx < 2; dx++) {
          int row = place.top + dy, column = place.left + dx;
          if (row < 0 || row >= place.height || column < 0 || column >= place.width)
            continue;
          float part = (dy ? place.lower_part : 1.f - place.lower_part) *
                       (dx ? place.right_part : 1.f - place.right_part);
          long long fixed = __float2ll_rn(ldexpf(to_sample * part, places));
          atomicAdd(own + (u64)(row * place.width + column) * channels, (u64)fixed);
        }
    }
    first += height * width;
  }
}

template <typename T>
__device__ void sums_to_value(const u64 *sums, const u32 *most, T *output, u32 count,
                              u32 summands) {
  float bound = __uint_as_float(most[0]) * __uint_as_float(most[1]);
  int places = fixed_places(bound, summands);
  for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < count;
       at += (u64)gridDim.x * blockDim.x) {
    float sum = ldexpf((float)(long long)sums[at], -places);
    narrow(output + at, bound <= 3.4e38f ? sum : __uint_as_float(0x7fc00000));
  }
}

#define KERNEL(type, suffix)                                                                       \
  extern "C" __global__ void fold_##suffix(const type *columns, type *output, ConvSizes sizes) {   \
    fold(columns, output, sizes);                                                                  \
  }                                                                                                \
  EXPORT(fold_##suffix)                                                                            \
  extern "C" __global__ void depthwise_to_input_##suffix(const type *weight, const type *gradient, \
                                                         type *output, ConvSizes sizes) {          \
    depthwise_to_input(weight, gradient, output, sizes);                                           \
  }                                                                                                \
  EXPORT(depthwise_to_input_##suffix)                                                              \
  extern "C" __global__ void depthwise_to_weight_##suffix(                                         \
      const type *x, const type *gradient, type *output, ConvSizes sizes, u32 batch) {             \
    depthwise_to_weight(x, gradient, output, sizes, batch);                                        \
  }                                                                                                \
  EXPORT(depthwise_to_weight_##suffix)                                                             \
  extern "C" __global__ void deformable_to_samples_##suffix(                                       \
      const type *value, const type *locations, const type *weights, const type *gradient,         \
      type *to_locations, type *to_weights, Levels levels, u32 samples, u32 queries, u32 cells,    \
      u32 heads, u32 size, u32 points) {                                                           \
    deformable_to_samples(value, locations, weights, gradient, to_locations, to_weights, levels,   \
                          samples, queries, cells, heads, size, points);                           \
  }                                                                                                \
  EXPORT(deformable_to_samples_##suffix)                                                           \
  extern "C" __global__ void largest_##suffix(const type *x, u32 *most, u32 which, u32 count) {    \
    largest(x, most, which, count);                                                                \
  }                                                                                                \
  EXPORT(largest_##suffix)                                                                         \
  extern "C" __global__ void deformable_to_sums_##suffix(                                          \
      const type *locations, const type *weights, const type *gradient, const u32 *most,           \
      u64 *sums, Levels levels, u32 total, u32 queries, u32 cells, u32 heads, u32 size,            \
      u32 points) {                                                                                \
    deformable_to_sums(locations, weights, gradient, most, sums, levels, total, queries, cells,    \
                       heads, size, points);                                                       \
  }                                                                                                \
  EXPORT(deformable_to_sums_##suffix)                                                              \
  extern "C" __global__ void sums_to_value_##suffix(const u64 *sums, const u32 *most,              \
                                                    type *output, u32 count, u32 summands) {       \
    sums_to_value(sums, most, output, count, summands);                                            \
  }                                                                                                \
  EXPORT(sums_to_value_##suffix)
FOR_EACH_TYPE(KERNEL)
#undef KERNEL
