// The levels that deformable attention samples, and where in them a sample lies.
#pragma once
#include "common.cuh"

#define MAX_LEVELS 8

// In the order in which programs.rs gives them.
struct Levels {
  u32 count;
  u32 height[MAX_LEVELS];
  u32 width[MAX_LEVELS];
  u32 points[MAX_LEVELS];
};

// A sample's place in its level: the cell to the left of it and above, which may lie outside, and how
// far towards the next ones it lies.
struct Place {
  bool inside; // near enough for any cell to count; false for NaN
  u32 first;   // cells of the levels before
  int height, width, top, left;
  float lower_part, right_part;
};

// `location`: x and y in 0..1 of the level, half-pixel centres.
template <typename T>
__device__ __forceinline__ Place place_in(u32 height, u32 width, u32 first, const T *location) {
  Place place = {};
  place.first = first;
  place.height = (int)height;
  place.width = (int)width;
  float x = wide(location[0]) * place.width - 0.5f, y = wide(location[1]) * place.height - 0.5f;
  place.inside = x > -1.f && y > -1.f && x < place.width && y < place.height;
  if (place.inside) {
    place.left = (int)floorf(x);
    place.top = (int)floorf(y);
    place.right_part = x - place.left;
    place.lower_part = y - place.top;
  }
  return place;
}

// Of a head's sample `point`, whichever its level.
template <typename T>
__device__ __forceinline__ Place place_of(const Levels &levels, u32 point, const T *location) {
  u32 level = 0, first = 0;
  while (level + 1 < levels.count && point >= levels.points[level]) {
    point -= levels.points[level];
    first += levels.height[level] * levels.width[level];
    level++;
  }
  return place_in(levels.height[level], levels.width[level], first, location);
}
