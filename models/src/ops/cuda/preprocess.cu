// From frames of bytes to a network's input: parts of frames cut out, resized as Pillow or OpenCV
// round it, put into a letterbox, normalised, as planes. To the last bit what the CPU gives, which
// is why this file is compiled without fused multiply-adds.
#include "common.cuh"

enum Filter { BILINEAR = 0, BICUBIC = 1, OPENCV = 2 };

// Bits behind the point of Pillow's and OpenCV's weights.
#define PIL_BITS 22
#define OPENCV_BITS 11

// One image of the batch; in the order of `Job::words` in resize.rs.
struct Job {
  u32 source, pitch;              // first byte of its part of the frame; bytes of the frame's rows
  u32 width, height;              // of that part
  u32 inner_width, inner_height;  // what it is resized to
  u32 left, top;                  // where that lies in the input
  u32 rows_first;                 // which pass comes first
  u32 between;                    // its first byte between the passes
  u32 column_table, row_table;    // its first number in the tables
  u32 column_size, row_size;      // numbers a position has there: start, count, weights
};

__device__ double filter_value(double x, u32 filter) {
  x = fabs(x);
  if (filter == BILINEAR)
    return x < 1.0 ? 1.0 - x : 0.0;
  if (x < 1.0)
    return (1.5 * x - 2.5) * x * x + 1.0;
  if (x < 2.0)
    return -0.5 * (((x - 5.0) * x + 8.0) * x - 4.0);
  return 0.0;
}

// Pillow: start, count and weights of the source positions of one target position.
__device__ void pil_window(int *window, u32 position, u32 source, u32 target, u32 filter) {
  double scale = (double)source / (double)target;
  double stretch = scale > 1.0 ? scale : 1.0;
  double support = (filter == BICUBIC ? 2.0 : 1.0) * stretch;
  double center = ((double)position + 0.5) * scale;
  long long start = (long long)(center - support + 0.5);
  long long end = (long long)(center + support + 0.5);
  if (start < 0)
    start = 0;
  if (end > (long long)source)
    end = source;
  double sum = 0.0;
  for (long long x = start; x < end; x++)
    sum += filter_value(((double)x - center + 0.5) / stretch, filter);
  window[0] = (int)start;
  window[1] = (int)(end - start);
  for (long long x = start; x < end; x++) {
    double weight = filter_value(((double)x - center + 0.5) / stretch, filter);
    window[2 + x - start] = (int)round(weight / sum * (double)(1 << PIL_BITS));
  }
}

// OpenCV: the two source positions and their weights.
__device__ void opencv_taps(int *window, u32 position, u32 source, u32 target) {
  double scale = (double)source / (double)target;
  float at = (float)(((double)position + 0.5) * scale - 0.5);
  int last = (int)source - 1, cell = (int)floorf(at);
  float fraction = at - (float)cell;
  if (cell < 0) {
    cell = 0;
    fraction = 0.f;
  }
  if (cell >= last) {
    cell = last;
    fraction = 0.f;
  }
  window[0] = cell;
  window[1] = cell + 1 < last ? cell + 1 : last;
  window[2] = (int)rintf((1.f - fraction) * (float)(1 << OPENCV_BITS));
  window[3] = (int)rintf(fraction * (float)(1 << OPENCV_BITS));
}

// The tables of all jobs. Blocks: x over positions, y over jobs, z over columns and rows.
extern "C" __global__ void resize_tables(const Job *jobs, int *tables, u32 filter) {
  Job job = jobs[blockIdx.y];
  bool rows = blockIdx.z == 1;
  u32 position = blockIdx.x * blockDim.x + threadIdx.x;
  u32 source = rows ? job.height : job.width, target = rows ? job.inner_height : job.inner_width;
  if (position >= target)
    return;
  u32 size = rows ? job.row_size : job.column_size;
  int *window = tables + (rows ? job.row_table : job.column_table) + (u64)position * size;
  if (filter == OPENCV)
    opencv_taps(window, position, source, target);
  else
    pil_window(window, position, source, target, filter);
}
EXPORT(resize_tables)

// Three channels of one pixel, mixed from those `step` bytes apart.
__device__ void pil_mix(const u8 *from, u64 step, const int *window, u8 *to) {
  int sums[3] = {1 << (PIL_BITS - 1), 1 << (PIL_BITS - 1), 1 << (PIL_BITS - 1)};
  from += window[0] * step;
  for (int tap = 0; tap < window[1]; tap++, from += step)
    for (int channel = 0; channel < 3; channel++)
      sums[channel] += (int)from[channel] * window[2 + tap];
  for (int channel = 0; channel < 3; channel++) {
    int value = sums[channel] >> PIL_BITS;
    to[channel] = (u8)(value < 0 ? 0 : value > 255 ? 255 : value);
  }
}

// Pillow's first pass. Blocks: x over pixels, y over jobs.
extern "C" __global__ void resize_first(const u8 *frames, const Job *jobs, const int *tables,
                                        u8 *between) {
  Job job = jobs[blockIdx.y];
  u32 pixel = blockIdx.x * blockDim.x + threadIdx.x;
  u32 width = job.rows_first ? job.width : job.inner_width;
  u32 height = job.rows_first ? job.inner_height : job.height;
  if (pixel >= width * height)
    return;
  u32 x = pixel % width, y = pixel / width;
  u8 *to = between + job.between + (u64)pixel * 3;
  const u8 *frame = frames + job.source;
  if (job.rows_first)
    pil_mix(frame + x * 3, job.pitch, tables + job.row_table + (u64)y * job.row_size, to);
  else
    pil_mix(frame + (u64)y * job.pitch, 3, tables + job.column_table + (u64)x * job.column_size, to);
}
EXPORT(resize_first)

__device__ void opencv_pixel(const u8 *frame, u32 pitch, const int *column, const int *row, u8 *to) {
  for (int channel = 0; channel < 3; channel++) {
    int mixed[2];
    for (int side = 0; side < 2; side++) {
      const u8 *line = frame + (u64)row[side] * pitch;
      mixed[side] = line[column[0] * 3 + channel] * column[2] + line[column[1] * 3 + channel] * column[3];
    }
    int sum = (row[2] * (mixed[0] >> 4) >> 16) + (row[3] * (mixed[1] >> 4) >> 16);
    int value = (sum + 2) >> 2;
    to[channel] = (u8)(value < 0 ? 0 : value > 255 ? 255 : value);
  }
}

// Of the three channels each: (value / 255 - mean) / std.
struct Normal {
  float mean[3], std[3];
};

// The second pass, or OpenCV's only one, and what follows: [jobs, 3, height, width].
// Blocks: x over pixels of the input, y over jobs.
template <typename T>
__device__ void resize_last(const u8 *frames, const Job *jobs, const int *tables, const u8 *between,
                            T *output, const Normal &normal, u32 filter, u32 width, u32 height,
                            u32 border) {
  Job job = jobs[blockIdx.y];
  u32 pixel = blockIdx.x * blockDim.x + threadIdx.x;
  if (pixel >= width * height)
    return;
  // Left of and above the inner part these wrap around and are large.
  u32 x = pixel % width - job.left, y = pixel / width - job.top;
  u8 values[3] = {(u8)border, (u8)border, (u8)border};
  if (x < job.inner_width && y < job.inner_height) {
    const int *column = tables + job.column_table + (u64)x * job.column_size;
    const int *row = tables + job.row_table + (u64)y * job.row_size;
    const u8 *from = between + job.between;
    if (filter == OPENCV)
      opencv_pixel(frames + job.source, job.pitch, column, row, values);
    else if (job.rows_first)
      pil_mix(from + (u64)y * job.width * 3, 3, column, values);
    else
      pil_mix(from + x * 3, (u64)job.inner_width * 3, row, values);
  }
  T *to = output + (u64)blockIdx.y * 3 * width * height + pixel;
  for (u32 channel = 0; channel < 3; channel++)
    narrow(to + (u64)channel * width * height,
           ((float)values[channel] / 255.f - normal.mean[channel]) / normal.std[channel]);
}

#define KERNEL(type, suffix)                                                                       \
  extern "C" __global__ void resize_last_##suffix(                                                 \
      const u8 *frames, const Job *jobs, const int *tables, const u8 *between, type *output,       \
      Normal normal, u32 filter, u32 width, u32 height, u32 border) {                              \
    resize_last(frames, jobs, tables, between, output, normal, filter, width, height, border);     \
  }                                                                                                \
  EXPORT(resize_last_##suffix)
FOR_EACH_TYPE(KERNEL)
#undef KERNEL
