// Device-side geometry on top of the formulas in ../roi_align.h: axes of RoIs, the taps of one bin, and which
// cells a RoI can reach.
#pragma once
#include "common.cuh"
#include "roi_align.h"

namespace mrcnn {

// The shape of an operator that weighs cells.
struct Sampling {
  int bins_y, bins_x;
  int geometry, ratio;  // ratio 0: adaptive
};

inline Sampling make_sampling(const char* name, const Levels& maps, int64_t height, int64_t width, int64_t geometry,
                              int64_t ratio) {
  STD_TORCH_CHECK(geometry >= kPlain && geometry <= kPrecise, name, ": unknown geometry ", geometry, ".");
  STD_TORCH_CHECK(ratio <= 4096, name, ": the sampling ratio must not exceed 4096.");
  bool wide = height > 1 && width > 1;
  for (int i = 0; i < maps.count; ++i) wide = wide && maps.at[i].height > 1 && maps.at[i].width > 1;
  STD_TORCH_CHECK(wide || geometry != kLegacy, name,
                  ": the legacy geometry needs an output and a map of at least 2 a side.");
  return {static_cast<int>(height), static_cast<int>(width), static_cast<int>(geometry),
          static_cast<int>(std::max<int64_t>(ratio, 0))};
}

template <class G>
MR_DEVICE Axis<G> axis_of(const RoiList& rois, int64_t k, bool vertical, double scale, const Sampling& s) {
  const G* row = static_cast<const G*>(rois.rows) + 5 * k;
  return make_axis<G>(row[vertical ? 2 : 1], row[vertical ? 4 : 3], static_cast<G>(scale),
                      vertical ? s.bins_y : s.bins_x, s.geometry, s.ratio);
}

// Samples [first, last) of bin p outside of which none can touch the cells [low, high).  Only a bound (each
// sample is still tested): it keeps large bins from looping over samples far from where the caller looks.
template <class G>
MR_DEVICE void samples_near(const Axis<G>& a, int64_t p, int64_t low, int64_t high, int64_t* first, int64_t* last) {
  *first = 0;
  *last = a.grid;
  if (a.grid <= 4 || !(a.bin > G(0))) return;
  const double step = static_cast<double>(a.bin) / static_cast<double>(a.grid);
  const double base = static_cast<double>(a.start) + static_cast<double>(p) * static_cast<double>(a.bin);
  const double slack = (fabs(base) + fabs(static_cast<double>(a.start))) * 1e-6 / step + 3.0;
  *first = clip(to_int(floor((static_cast<double>(low) - 1.0 - base) / step - slack)), int64_t(0), a.grid);
  *last = clip(to_int(ceil((static_cast<double>(high) - base) / step + slack)), *first, a.grid);
}

// Samples [first, last) of bin p that lie on the map; positions are monotone along an axis, so they follow one
// another.
template <class G>
MR_DEVICE void valid_samples(const Axis<G>& a, int64_t p, int64_t length, int64_t* first, int64_t* last) {
  Taps<G> t;
  samples_near(a, p, 0, length, first, last);
  while (*first < *last && !sample_axis(grid_position(a, p, *first), length, &t)) ++*first;
  while (*last > *first && !sample_axis(grid_position(a, p, *last - 1), length, &t)) --*last;
}

// Calls tap(cell, weight) for the taps of bin p, in the order of the samples and unmerged; at least for all that
// lie on the cells [low, high).
template <class G, class F>
MR_DEVICE void bin_taps(const Axis<G>& a, int64_t p, int geometry, int64_t length, int64_t low, int64_t high, F&& tap) {
  Taps<G> t;
  if (geometry == kLegacy) {
    if (!legacy_axis(a, p, length, &t)) return;
    tap(t.low, G(1) - t.fraction);
    tap(t.high, t.fraction);
  } else if (geometry == kPrecise) {
    if (!(a.bin > G(0))) return;
    G from, to;
    int64_t first, last;
    precise_edges(a, p, &from, &to);
    precise_range(from, to, length, &first, &last);
    first = at_least(first, low);
    last = at_most(last, high);
    for (int64_t i = first; i < last; ++i) tap(i, quot(precise_weight(from, to, i), a.bin));
  } else {
    int64_t first, last;
    samples_near(a, p, low, high, &first, &last);
    const G share = a.grid > 0 ? quot(G(1), static_cast<G>(a.grid)) : G(0);
    for (int64_t i = first; i < last; ++i) {
      if (!sample_axis(grid_position(a, p, i), length, &t)) continue;
      tap(t.low, (G(1) - t.fraction) * share);
      tap(t.high, t.fraction * share);
    }
  }
}

// Cells [*low, *high) that positions between the edges `from` and `to` can touch, with room for rounding.
MR_DEVICE void reach(double from, double to, int64_t length, int* low, int* high) {
  if (from > to) {
    const double swap = from;
    from = to;
    to = swap;
  }
  const double slack = (fabs(from) + fabs(to)) * 1e-6;
  *low = static_cast<int>(clip(to_int(floor(from - slack)) - 1, int64_t(0), length));
  *high = static_cast<int>(clip(to_int(floor(to + slack)) + 3, int64_t(0), length));
}

// The same for bins [p, p + count) of an axis.
template <class G>
MR_DEVICE void bins_reach(const Axis<G>& a, int64_t p, int64_t count, int64_t length, int* low, int* high) {
  const double from = static_cast<double>(a.start) + static_cast<double>(p) * static_cast<double>(a.bin);
  reach(from, from + static_cast<double>(count) * static_cast<double>(a.bin), length, low, high);
}

MR_DEVICE void roi_reach(const RoiList& rois, int64_t k, bool vertical, double scale, const Sampling& s, int64_t p,
                         int64_t count, int64_t length, int* low, int* high) {
  if (rois.wide) {
    bins_reach(axis_of<double>(rois, k, vertical, scale, s), p, count, length, low, high);
  } else {
    bins_reach(axis_of<float>(rois, k, vertical, scale, s), p, count, length, low, high);
  }
}

}  // namespace mrcnn
