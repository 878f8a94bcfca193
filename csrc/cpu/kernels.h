// The inner loops, as tables of functions: one table a storage type and instruction set.
//
// All work on "pixel" memory, where the channels of one cell lie side by side (channels_last, or a scratch
// copy of it), and never look at a RoI: geometry arrives as taps, samples or cell ranges.
#pragma once
#include <cstdint>

#include "vec.h"

namespace mrcnn {

// For each entry e the taps index[begin[e] .. begin[e + 1]) with their weights.
template <class A>
struct TapList {
  const int32_t* begin;
  const int32_t* index;
  const A* weight;
};

// One bilinear sample: element offsets of four cells and their weights.
template <class A>
struct Sample {
  int64_t offset[4];
  A weight[4];
};

template <class T>
struct Kernels {
  using A = Acc<T>;

  // dst[p, q, c] = sum_ij y.weight[p, i] x.weight[q, j] src[i, j, c];  strides in elements.
  void (*average)(const T* src, int64_t row, int64_t pixel, TapList<A> y, TapList<A> x, int64_t bins_y, int64_t bins_x,
                  int64_t channels, T* dst, int64_t bin_stride);

  // Its transpose: dst[i, j, c] += sum_pq rows.weight[i, p] columns.weight[j, q] grad[p, q, c].
  void (*spread)(const T* grad, int64_t bin_stride, int64_t bins_x, TapList<A> rows, int64_t row_count,
                 TapList<A> columns, int64_t column_count, int64_t channels, A* dst, int64_t row, int64_t pixel);

  // dst[c] = factor sum_s sample_s(c), or the first maximum over s with its index in arg (-1: the 0 of a
  // sample outside the map, which counts if `outside`).
  void (*sample)(const T* src, const Sample<A>* samples, int64_t count, A factor, bool maximum, bool outside,
                 int64_t channels, T* dst, int32_t* arg);

  // Its transpose.
  void (*unsample)(const T* grad, const int32_t* arg, const Sample<A>* samples, int64_t count, A factor, bool maximum,
                   int64_t channels, A* dst);

  // dst[c] = maximum of src over rows [y0, y1) and columns [x0, x1), arg[c] = y width + x of the first one.
  void (*pool)(const T* src, int64_t row, int64_t pixel, int64_t y0, int64_t y1, int64_t x0, int64_t x1, int64_t width,
               int64_t channels, T* dst, int32_t* arg);

  // dst[arg[c], c] += grad[c] where arg[c] is one of the cells [first, last)
  void (*unpool)(const T* grad, const int32_t* arg, int64_t first, int64_t last, int64_t pixel, int64_t channels,
                 A* dst);

  // sum_c a[c] b[c]
  A (*dot)(const T* a, const T* b, int64_t channels);

  // dst[c, r] = src[r, c] for `rows` x `columns` elements; strides between rows of each, in elements.
  void (*transpose)(const T* src, int64_t src_stride, int64_t rows, int64_t columns, T* dst, int64_t dst_stride);
  void (*transpose_int)(const int32_t* src, int64_t src_stride, int64_t rows, int64_t columns, int32_t* dst,
                        int64_t dst_stride);
  // The same with a rounding from accumulator to storage type, and the plain copy with that rounding.
  void (*transpose_round)(const A* src, int64_t src_stride, int64_t rows, int64_t columns, T* dst, int64_t dst_stride);
  void (*copy_round)(const A* src, int64_t src_stride, int64_t rows, int64_t columns, T* dst, int64_t dst_stride);
};

// The table for this processor.  T: float, double, Half, BFloat16.
template <class T>
const Kernels<T>& kernels();

}  // namespace mrcnn
