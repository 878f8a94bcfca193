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

// Forward passes and layout, for a storage type T.
template <class T>
struct Kernels {
  using A = Acc<T>;

  // dst[p, q, c] = sum_ij y.weight[p, i] x.weight[q, j] src[i, j, c];  strides in elements.
  void (*average)(const T* src, int64_t row, int64_t pixel, TapList<A> y, TapList<A> x, int64_t bins_y, int64_t bins_x,
                  int64_t channels, T* dst, int64_t bin_stride);

  // dst[c] = factor sum_s sample_s(c), or the first maximum over s with its index in arg (-1: the 0 of a
  // sample outside the map, which counts if `outside`; and everywhere for a sum).
  void (*sample)(const T* src, const Sample<A>* samples, int64_t count, A factor, bool maximum, bool outside,
                 int64_t channels, T* dst, int32_t* arg);

  // dst[c] = maximum of src over rows [y0, y1) and columns [x0, x1), arg[c] = y width + x of the first one.
  void (*pool)(const T* src, int64_t row, int64_t pixel, int64_t y0, int64_t y1, int64_t x0, int64_t x1, int64_t width,
               int64_t channels, T* dst, int32_t* arg);

  // sum_c a[c] b[c]
  A (*dot)(const T* a, const T* b, int64_t channels);

  // dst[c, r] = src[r, c] for `rows` x `columns` elements; strides between rows of each, in elements.  Also
  // widening to the accumulator and rounding from it; copies are dst[r, c] = src[r, c].
  void (*transpose)(const T* src, int64_t src_stride, int64_t rows, int64_t columns, T* dst, int64_t dst_stride);
  void (*transpose_widen)(const T* src, int64_t src_stride, int64_t rows, int64_t columns, A* dst, int64_t dst_stride);
  void (*transpose_round)(const A* src, int64_t src_stride, int64_t rows, int64_t columns, T* dst, int64_t dst_stride);
  void (*copy_widen)(const T* src, int64_t src_stride, int64_t rows, int64_t columns, A* dst, int64_t dst_stride);
  void (*copy_round)(const A* src, int64_t src_stride, int64_t rows, int64_t columns, T* dst, int64_t dst_stride);
};

// Backward passes, on accumulators (float or double).
template <class A>
struct Gradients {
  // dst[i, j, c] += sum_pq rows.weight[i, p] columns.weight[j, q] grad[p, q, c]: the transpose of `average`.
  void (*spread)(const A* grad, int64_t bin_stride, int64_t bins_x, TapList<A> rows, int64_t row_count,
                 TapList<A> columns, int64_t column_count, int64_t channels, A* dst, int64_t row, int64_t pixel);

  // The transpose of `sample`.
  void (*unsample)(const A* grad, const int32_t* arg, const Sample<A>* samples, int64_t count, A factor, bool maximum,
                   int64_t channels, A* dst);

  // dst[arg[c], c] += grad[c] where arg[c] is one of the cells [first, last).
  void (*unpool)(const A* grad, const int32_t* arg, int64_t first, int64_t last, int64_t pixel, int64_t channels,
                 A* dst);
};

// The widest instruction set of this processor that the tables know, or the one that MASKRCNN_CPU asks for.
enum class Isa { kBaseline, kAvx2, kAvx512 };
Isa isa();

// The tables for this processor.  T: float, double, Half, BFloat16;  A: float, double.
template <class T>
const Kernels<T>& kernels();
template <class A>
const Gradients<A>& gradients();

// An argmax takes the same moves as a float of its size.
inline void transpose_int(const int32_t* src, int64_t ss, int64_t rows, int64_t columns, int32_t* dst, int64_t ds) {
  kernels<float>().transpose(reinterpret_cast<const float*>(src), ss, rows, columns, reinterpret_cast<float*>(dst), ds);
}

}  // namespace mrcnn
