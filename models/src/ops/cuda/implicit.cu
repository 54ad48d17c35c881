// Convolutions in f16 and bf16 on the tensor cores, without patches as columns in memory: the weights'
// matrix times the patches, which each block gathers for its part, then bias, shortcut and activation
// on the sums in f32. From compute capability 8.0 on.
//
// A block makes 64 channels of 128 pixels, in steps of 32 inputs, and loads the next step's numbers
// while it multiplies this one's. Its 8 warps, 2 by 4, make 32 by 32 each, by mma.m16n8k16.
#include "matrix.cuh"

#define BLOCK_M 64
#define BLOCK_N 128
#define BLOCK_K 32
// Rows apart by an odd number of 16 bytes: the 8 rows that ldmatrix reads lie in different banks.
#define PITCH_A (BLOCK_K + 8)
#define PITCH_B (BLOCK_N + 8)
#define IMPLICIT_THREADS 256
#define OF_A (BLOCK_M * BLOCK_K / IMPLICIT_THREADS) // numbers that a thread loads: 8 beside each other
#define OF_B (BLOCK_N * BLOCK_K / IMPLICIT_THREADS) // 16, one pixel's inputs one after the other

// A pixel of the output, and where the window over it begins.
struct Pixel {
  bool there;
  int top, left;
  u64 first; // of the image's numbers
};

__device__ __forceinline__ Pixel pixel_at(const ConvSizes &sizes, u32 index, u32 count) {
  Pixel pixel;
  u32 pixels = sizes.out_height * sizes.out_width, within = index % pixels;
  pixel.there = index < count;
  pixel.top = (int)(within / sizes.out_width * sizes.stride) - (int)sizes.padding;
  pixel.left = (int)(within % sizes.out_width * sizes.stride) - (int)sizes.padding;
  pixel.first = (u64)(index / pixels) * sizes.channels * sizes.height * sizes.width;
  return pixel;
}

// Weights of one output channel, `from` on; zeros beyond.
template <typename T>
__device__ __forceinline__ void load_weights(const T *weight, u32 outputs, u32 inputs, u32 output,
                                             u32 from, T *to) {
  const T *row = weight + (u64)output * inputs + from;
  // All rows begin at 16 bytes if one does and they are that long.
  if (inputs % OF_A == 0 && (u64)weight % 16 == 0 && output < outputs && from < inputs) {
    *(uint4 *)to = *(const uint4 *)row;
    return;
  }
#pragma unroll
  for (u32 i = 0; i < OF_A; i++) {
    narrow(to + i, 0.f);
    if (output < outputs && from + i < inputs)
      to[i] = row[i];
  }
}

// Inputs of one pixel, `from` on: channel by channel, tap by tap; zeros outside and beyond.
template <typename T, u32 KERNEL>
__device__ __forceinline__ void load_patch(const T *x, const ConvSizes &sizes, const Pixel &pixel,
                                           u32 inputs, u32 from, T *to) {
  const u32 kernel = KERNEL ? KERNEL : sizes.kernel;
#pragma unroll
  for (u32 i = 0; i < OF_B; i++) {
    u32 input = from + i, channel = input / (kernel * kernel), tap = input % (kernel * kernel);
    int row = pixel.top + (int)(tap / kernel), column = pixel.left + (int)(tap % kernel);
    narrow(to + i, 0.f);
    if (pixel.there && input < inputs && row >= 0 && row < (int)sizes.height && column >= 0 &&
        column < (int)sizes.width)
      to[i] = x[pixel.first + ((u64)channel * sizes.height + row) * sizes.width + column];
  }
}

// Not inlined: each of the 32 sums of a thread would have all activations beside it.
__device__ __noinline__ float activated(float sum, u32 activation) {
  return activate(sum, activation);
}

// x: [batch, channels, height, width]; weight: [outputs, channels, kernel, kernel]; bias: [outputs] or
// null; residual: as the output, or null; output: [batch, outputs, out_height, out_width]; `count`
// pixels of all images. Blocks: x over pixels, y over output channels.
template <typename T, u32 KERNEL>
__device__ void implicit(const T *x, const T *weight, const T *bias, const T *residual, T *output,
                         const ConvSizes &sizes, u32 outputs, u32 count, u32 activation,
                         T (&of_a)[2][BLOCK_M * PITCH_A], T (&of_b)[2][BLOCK_K * PITCH_B]) {
  u32 kernel = KERNEL ? KERNEL : sizes.kernel, inputs = sizes.channels * kernel * kernel;
  u32 thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
  u32 first_m = blockIdx.y * BLOCK_M, first_n = blockIdx.x * BLOCK_N;
  // What this thread loads.
  u32 a_row = thread / (BLOCK_K / OF_A), a_column = thread % (BLOCK_K / OF_A) * OF_A;
  u32 b_column = thread % BLOCK_N, b_row = thread / BLOCK_N * OF_B;
  Pixel pixel = pixel_at(sizes, first_n + b_column, count);
  __align__(16) T next_a[OF_A];
  T next_b[OF_B];
  // What this warp makes.
  u32 warp_m = warp % 2 * 32, warp_n = warp / 2 * 32;
  float sums[2][4][4] = {};

  u32 steps = (inputs + BLOCK_K - 1) / BLOCK_K;
  for (u32 step = 0; step <= steps; step++) {
    if (step < steps) {
      u32 from = step * BLOCK_K;
      load_weights(weight, outputs, inputs, first_m + a_row, from + a_column, next_a);
      load_patch<T, KERNEL>(x, sizes, pixel, inputs, from + b_row, next_b);
    }
    if (step > 0) {
      const T *a = of_a[(step - 1) % 2], *b = of_b[(step - 1) % 2];
#pragma unroll
      for (u32 k = 0; k < BLOCK_K; k += 16) {
        u32 as[2][4], bs[2][4];
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
          load_matrices(as[i], a + (warp_m + i * 16 + lane % 16) * PITCH_A + k + lane / 16 * 8);
          load_matrices_turned(bs[i], b + (k + lane % 16) * PITCH_B + warp_n + i * 16 + lane / 16 * 8);
        }
#pragma unroll
        for (u32 i = 0; i < 2; i++)
#pragma unroll
          for (u32 j = 0; j < 4; j++)
            multiply_add(sums[i][j], as[i], bs[j / 2] + j % 2 * 2, (T *)nullptr);
      }
    }
    if (step < steps) {
      // Nobody reads these any more: all have passed the barrier of the step before.
      *(uint4 *)(of_a[step % 2] + a_row * PITCH_A + a_column) = *(const uint4 *)next_a;
#pragma unroll
      for (u32 i = 0; i < OF_B; i++)
        of_b[step % 2][(b_row + i) * PITCH_B + b_column] = next_b[i];
      __syncthreads();
    }
  }

  u32 pixels = sizes.out_height * sizes.out_width;
#pragma unroll
  for (u32 i = 0; i < 2; i++)
#pragma unroll
    for (u32 j = 0; j < 4; j++)
#pragma unroll
      for (u32 part = 0; part < 4; part++) {
        u32 channel = first_m + warp_m + i * 16 + lane / 4 + part / 2 * 8;
        u32 index = first_n + warp_n + j * 8 + lane % 4 * 2 + part % 2;
        if (channel >= outputs || index >= count)
          continue;
        u64 at = ((u64)(index / pixels) * outputs + channel) * pixels + index % pixels;
        float sum = sums[i][j][part];
        if (bias)
          sum += wide(bias[channel]);
        if (residual)
          sum += wide(residual[at]);
        narrow(output + at, activated(sum, activation));
      }
}

template <typename T>
__device__ void implicit_of(const T *x, const T *weight, const T *bias, const T *residual, T *output,
                            const ConvSizes &sizes, u32 outputs, u32 count, u32 activation) {
  __shared__ __align__(16) T a[2][BLOCK_M * PITCH_A];
  __shared__ __align__(16) T b[2][BLOCK_K * PITCH_B];
  switch (sizes.kernel) {
  case 1:
    return implicit<T, 1>(x, weight, bias, residual, output, sizes, outputs, count, activation, a,
                          b);
  case 3:
    return implicit<T, 3>(x, weight, bias, residual, output, sizes, outputs, count, activation, a,
                          b);
  default:
    return implicit<T, 0>(x, weight, bias, residual, output, sizes, outputs, count, activation, a,
                          b);
  }
}

#define KERNEL(type, suffix)                                                                       \
  extern "C" __global__ void __launch_bounds__(IMPLICIT_THREADS)                                   \
      implicit_##suffix(const type *x, const type *weight, const type *bias, const type *residual, \
                        type *output, ConvSizes sizes, u32 outputs, u32 count, u32 activation) {   \
    implicit_of(x, weight, bias, residual, output, sizes, outputs, count, activation);             \
  }                                                                                                \
  EXPORT(implicit_##suffix)
KERNEL(f16, f16)
KERNEL(bf16, bf16)
#undef KERNEL
