// Geometry of whole RoIs for the CPU kernels, built on the formulas in ../roi_align.h and ../roi_pool.h.
#pragma once
#include <vector>

#include "kernels.h"
#include "tensors.h"

namespace mrcnn {

// The cells a RoI touches: rows [y0, y1), columns [x0, x1); empty if y1 <= y0 or x1 <= x0.
struct Box {
  int64_t y0 = 0, y1 = 0, x0 = 0, x1 = 0;
  bool empty() const { return y1 <= y0 || x1 <= x0; }
};

// The bins of one axis as taps merged by cell, at most one tap a cell and bin.
template <class A>
struct AxisTaps {
  std::vector<int32_t> begin, index;
  std::vector<A> weight;
  int32_t low = 0, high = 0;  // cells [low, high)
  TapList<A> list() const { return {begin.data(), index.data(), weight.data()}; }
};

// bins -> cells, as AverageBody wants it.
template <class A>
void average_taps(AxisTaps<A>* taps, const Rois& rois, int64_t k, bool vertical, double scale, int64_t bins,
                  int64_t geometry, int64_t ratio, int64_t length);

// cells [low, high) -> bins, as SpreadBody wants it.
template <class A>
void transpose_taps(const AxisTaps<A>& taps, AxisTaps<A>* out);

// Bilinear samples of every bin, begin[bin] .. begin[bin + 1]; offsets hold y * 2^32 + x, see resolve().
template <class A>
struct BinSamples {
  std::vector<int64_t> begin;
  std::vector<Sample<A>> samples;
  std::vector<uint8_t> outside;  // whether a bin has samples outside the map
  A factor = 1;                  // 1 / number of samples a bin
  Box box;
};

// The samples of bin b as offsets from cell (y0, x0) of memory with these strides.
template <class A>
inline int64_t resolve(const BinSamples<A>& all, int64_t b, int64_t y0, int64_t x0, int64_t row, int64_t pixel,
                       std::vector<Sample<A>>* out) {
  out->assign(all.samples.begin() + all.begin[b], all.samples.begin() + all.begin[b + 1]);
  for (Sample<A>& s : *out) {
    for (int64_t& o : s.offset) o = ((o >> 32) - y0) * row + ((o & 0xFFFFFFFF) - x0) * pixel;
  }
  return static_cast<int64_t>(out->size());
}

template <class A>
void bin_samples(BinSamples<A>* out, const Rois& rois, int64_t k, double scale, int64_t bins_y, int64_t bins_x,
                 int64_t geometry, int64_t ratio, bool random, int64_t seed, int64_t height, int64_t width);

// Cell ranges of RoIPool's bins along one axis: lo[p], hi[p].
void pool_ranges(std::vector<int64_t>* edges, const Rois& rois, int64_t k, bool vertical, double scale, int64_t bins,
                 int64_t rounding, int64_t kind, int64_t length);

// PrRoI pooling along one axis with the derivative of each weight by the bin's two edges.
template <class A>
struct PreciseTaps {
  AxisTaps<A> taps;
  std::vector<A> by_low, by_high;                              // d weight / d edge, beside taps.weight
  std::vector<double> low_low, low_high, high_low, high_high;  // d edge / d RoI coordinate, a bin
};

template <class A>
void precise_taps(PreciseTaps<A>* out, const Rois& rois, int64_t k, bool vertical, double scale, int64_t bins,
                  int64_t length);

}  // namespace mrcnn
