// Non-maximum suppression of boxes in the order of falling scores: who overlaps whom by all pairs at
// once, then one pass down the list.
#include "common.cuh"

#define WORD 32
#define MAX_WORDS 256

// Intersection over union of two boxes x1, y1, x2, y2, as `BBox::iou` computes it.
__device__ float iou(const float *a, const float *b) {
  float width = fmaxf(fminf(a[2], b[2]) - fmaxf(a[0], b[0]), 0.f);
  float height = fmaxf(fminf(a[3], b[3]) - fmaxf(a[1], b[1]), 0.f);
  float shared = width * height;
  float area_a = fmaxf(a[2] - a[0], 0.f) * fmaxf(a[3] - a[1], 0.f);
  float area_b = fmaxf(b[2] - b[0], 0.f) * fmaxf(b[3] - b[1], 0.f);
  float together = area_a + area_b - shared;
  return together > 0.f ? shared / together : 0.f;
}

// boxes: [batch, count, 4], classes: [batch, count]; mask: [batch, count, words], bit j of row i set
// where box j comes after i, is of its class and overlaps it by more than `limit`.
// Blocks: x over words, y over groups of 32 rows, z over images; 32 threads.
extern "C" __global__ void overlaps(const float *boxes, const u32 *classes, u32 *mask, u32 count,
                                    float limit) {
  u32 row = blockIdx.y * WORD + threadIdx.x;
  if (row >= count)
    return;
  boxes += (u64)blockIdx.z * count * 4;
  classes += (u64)blockIdx.z * count;
  u32 words = (count + WORD - 1) / WORD, bits = 0;
  for (u32 bit = 0; bit < WORD; bit++) {
    u32 other = blockIdx.x * WORD + bit;
    if (other > row && other < count && classes[other] == classes[row] &&
        iou(boxes + (u64)row * 4, boxes + (u64)other * 4) > limit)
      bits |= 1u << bit;
  }
  mask[((u64)blockIdx.z * count + row) * words + blockIdx.x] = bits;
}
EXPORT(overlaps)

// kept: [batch, count], 1 where a box stays. One block of one warp an image; count <= 32 * MAX_WORDS.
extern "C" __global__ void suppress(const u32 *mask, u8 *kept, u32 count) {
  __shared__ u32 gone[MAX_WORDS];
  u32 words = (count + WORD - 1) / WORD;
  mask += (u64)blockIdx.x * count * words;
  for (u32 word = threadIdx.x; word < words; word += WARP)
    gone[word] = 0;
  __syncwarp();
  for (u32 row = 0; row < count; row++) {
    bool stays = !(gone[row / WORD] >> row % WORD & 1);
    __syncwarp(); // all have read before one writes
    if (threadIdx.x == 0)
      kept[(u64)blockIdx.x * count + row] = stays;
    if (stays)
      for (u32 word = threadIdx.x; word < words; word += WARP)
        gone[word] |= mask[(u64)row * words + word];
    __syncwarp();
  }
}
EXPORT(suppress)
