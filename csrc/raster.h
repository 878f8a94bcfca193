// Ground-truth masks inside RoIs: the masks of a batch as they lie in memory, and COCO's way to draw a polygon.
//
// COCO's tools (rleFrPoly of pycocotools) put the vertices on a grid five times as fine as the pixels and walk the
// edges on it, a point at each step of the longer axis.  Where the walk goes from grid column 5 c + 2 to 5 c + 3,
// the middle of pixel column c, or back, the mask changes in that column: a pixel is inside if the changes at or
// above it are odd in number.  Here nothing is walked: the one place where an edge passes the middle of a column
// is computed, with the walk's own arithmetic, so that the result is the same to the bit.
#pragma once
#include "roi_align.h"

namespace mrcnn {

// The tensors of maskrcnn/structures/packed_masks.py, with their lengths.
struct Packed {
  const double* points;         // [vertices, 2]
  const int64_t* polygon_ends;  // [polygons]
  const int32_t* changes;       // [change_count]
  const int64_t* column_ends;   // [columns]
  const int64_t* instances;     // [count, 3]
  const double* placing;        // [count, 4]
  int64_t vertices, polygons, change_count, columns, count;
};

// Entries [first, last) of something.
struct Range {
  int64_t first, last;
};

// Range i of those that end at ends[0], ends[stride], ...; inside [0, most) whatever stands there.
MR_HD Range range_of(const int64_t* ends, int64_t i, int64_t stride, int64_t most) {
  const int64_t first = i > 0 ? clip(ends[(i - 1) * stride], int64_t(0), most) : 0;
  return {first, clip(ends[i * stride], first, most)};
}

MR_HD Range polygons_of(const Packed& p, int64_t instance) { return range_of(p.instances, instance, 3, p.polygons); }
MR_HD Range columns_of(const Packed& p, int64_t instance) { return range_of(p.instances + 1, instance, 3, p.columns); }
MR_HD Range vertices_of(const Packed& p, int64_t polygon) { return range_of(p.polygon_ends, polygon, 1, p.vertices); }
MR_HD Range changes_of(const Packed& p, int64_t column) { return range_of(p.column_ends, column, 1, p.change_count); }

// ---- polygons ----

// Detectron2 (rasterize_polygons_within_box) takes no side of a box for smaller than this, in pixels.
constexpr double kMinSide = 0.1;

// How one axis of a box is mapped to `size` pixels.
struct Mapping {
  double corner, scale;
};

MR_HD Mapping map_axis(double low, double high, int64_t size) {
  return {low, quot(static_cast<double>(size), at_least(add(high, -low), kMinSide))};
}

// A vertex coordinate on the fine grid; far outside of any box it stops at +-2^30.  Rounded as COCO does, which
// differs from the nearest below zero alone, where no pixel is.
MR_HD int32_t on_grid(double v, const Mapping& m) {
  const double fine = add(mul(5.0, mul(add(v, -m.corner), m.scale)), 0.5);
  if (!(fine > -1073741824.0)) return -1073741824;  // and NaN
  return static_cast<int32_t>(at_most(fine, 1073741824.0));
}

// An edge on the fine grid, from the lower end of its longer axis on.
struct Edge {
  int64_t x, y, length;  // where it starts, and its steps
  double slope;          // of the other axis, a step
  bool flat;             // the longer axis is x
  int64_t low, high;     // of x
};

MR_HD Edge make_edge(int64_t xs, int64_t ys, int64_t xe, int64_t ye) {
  const int64_t dx = xs < xe ? xe - xs : xs - xe, dy = ys < ye ? ye - ys : ys - ye;
  Edge e{};
  e.flat = dx >= dy;
  e.length = e.flat ? dx : dy;
  if (e.flat ? xs > xe : ys > ye) {
    int64_t swap = xs;
    xs = xe;
    xe = swap;
    swap = ys;
    ys = ye;
    ye = swap;
  }
  e.x = xs;
  e.y = ys;
  e.low = xs < xe ? xs : xe;
  e.high = xs < xe ? xe : xs;
  if (e.length > 0) {
    e.slope = quot(static_cast<double>(e.flat ? ye - ys : xe - xs), static_cast<double>(e.length));
  }
  return e;
}

// Where the walk is on the other axis after t steps.
MR_HD int64_t walk(const Edge& e, int64_t t) {
  return static_cast<int64_t>(
      add(add(static_cast<double>(e.flat ? e.y : e.x), mul(e.slope, static_cast<double>(t))), 0.5));
}

MR_HD bool crosses(const Edge& e, int64_t column) { return e.low <= 5 * column + 2 && e.high >= 5 * column + 3; }

// The first pixel row, of `rows` (that many: none), below the place where the edge passes the middle of a column
// that it crosses.
MR_HD int64_t crossing(const Edge& e, int64_t column, int64_t rows) {
  const int64_t middle = 5 * column + 2;
  int64_t y;
  if (e.flat) {
    const int64_t a = walk(e, middle - e.x), b = walk(e, middle - e.x + 1);
    y = a < b ? a : b;
  } else {
    // The first step on the other side of the middle: a guess, which is off by rounding alone.
    const bool right = e.slope > 0.0;
    const auto past = [&](int64_t t) { return right ? walk(e, t) > middle : walk(e, t) <= middle; };
    const double guess = quot(add(static_cast<double>(middle - e.x), 0.5), e.slope);
    int64_t t = clip(to_int(guess), int64_t(1), e.length);
    while (t > 1 && past(t - 1)) --t;
    while (t < e.length && !past(t)) ++t;
    y = e.y + t - 1;
  }
  return y <= 2 ? 0 : at_most((y + 2) / 5, rows);
}

// Rows `row` and below, as bits, of the 64 rows from `first` on.
MR_HD uint64_t rows_from(int64_t row, int64_t first) {
  if (row <= first) return ~uint64_t(0);
  return row - first >= 64 ? 0 : ~uint64_t(0) << (row - first);
}

// ---- bitmaps ----

// A box in the frame in which an instance's bitmap is stored, as RoIAlign reads it.  Not aligned (soft), index x
// stands for the point x + 0.5 of the current frame; that point is kept.
template <class T>
MR_HD void map_box(const T* box, const double* placing, bool soft, T* out) {
  const double half = soft ? 0.5 : 0.0;
  for (int i = 0; i < 4; ++i) {
    const double moved = add(add(static_cast<double>(box[i]), half), -placing[2 + i % 2]);
    out[i] = static_cast<T>(add(quot(moved, placing[i % 2]), -half));
  }
}

template <class T>
MR_HD bool is_finite(const T* box) {
  T sum = 0;
  for (int i = 0; i < 4; ++i) sum += box[i] * T(0);
  return sum == T(0);
}

MR_HD int64_t align_geometry(bool soft) { return soft ? kPlain : kAligned; }

}  // namespace mrcnn
