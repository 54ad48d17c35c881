// Multi-scale deformable attention (Zhu et al., Deformable DETR, 2021): one thread an output number.
// Neighbouring threads have neighbouring channels, so that the four cells of a sample are read in
// whole lines; the sample's place is the same for all threads of a head.
#include "levels.cuh"

// value: [batch, cells, heads, size]; locations: [batch, queries, heads, points, 2];
// weights: [batch, queries, heads, points]; output: [batch, queries, heads * size], `total` numbers.
template <typename T>
__device__ void deformable(const T *value, const T *locations, const T *weights, T *output,
                           const Levels &levels, u32 total, u32 queries, u32 cells, u32 heads,
                           u32 size, u32 points) {
  u32 index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= total)
    return;
  u32 channels = heads * size;
  u32 channel = index % channels, query = index / channels;
  u64 sample = ((u64)query * heads + channel / size) * points;
  const T *level_value = value + (u64)(query / queries) * cells * channels + channel;
  float sum = 0.f;
  for (u32 level = 0; level < levels.count; level++) {
    int height = levels.height[level], width = levels.width[level];
    for (u32 point = 0; point < levels.points[level]; point++, sample++) {
      float x = wide(locations[2 * sample]) * width - 0.5f;
      float y = wide(locations[2 * sample + 1]) * height - 0.5f;
      // Outside altogether; NaN too.
      if (!(x > -1.f && y > -1.f && x < width && y < height))
        continue;
      int left = (int)floorf(x), top = (int)floorf(y);
      float right_part = x - left, lower_part = y - top;
      float mixed = 0.f;
      for (int dy = 0; dy < 2; dy++) {
        int row = top + dy;
        if (row < 0 || row >= height)
          continue;
        float row_part = dy ? lower_part : 1.f - lower_part;
        for (int dx = 0; dx < 2; dx++) {
          int column = left + dx;
          if (column < 0 || column >= width)
            continue;
          float part = row_part * (dx ? right_part : 1.f - right_part);
          mixed += part * wide(level_value[(u64)(row * width + column) * channels]);
        }
      }
      sum += mixed * wide(weights[sample]);
    }
    level_value += (u64)height * width * channels;
  }
  narrow(output + index, sum);
}

#define KERNEL(type, suffix)                                                                       \
  extern "C" __global__ void deformable_##suffix(                                                  \
      const type *value, const type *locations, const type *weights, type *output, Levels levels,  \
      u32 total, u32 queries, u32 cells, u32 heads, u32 size, u32 points) {                        \
    deformable(value, locations, weights, output, levels, total, queries, cells, heads, size,      \
               points);                                                                            \
  }                                                                                                \
  EXPORT(deformable_##suffix)
FOR_EACH_TYPE(KERNEL)
#undef KERNEL
