// Geometry of the operators that weigh cells: RoIAlign, RoIWarp, the legacy RoIAlign and PrRoI pooling.
//
// Each works on one axis at a time.  A bin of an axis is a short list of taps (cell, weight) and the value of
// a two-dimensional bin is  sum_ij wy[i] wx[j] f[i, j]:  bilinear samples on a regular grid, the points of the
// legacy operator and the integral of the hat kernel are all such products.  (Random samples and the maximum
// of samples are not: they use the samples one by one, see sample_axis and random_fraction.)
//
// start, size, bin and sample count follow torchvision's expressions in their order, so that the adaptive
// count never differs from it.  T is float or double, the type of the RoIs.
#pragma once
#include "exact.h"

namespace mrcnn {

// The numbers are those of maskrcnn/layers/geometry.py.
enum Geometry : int64_t { kPlain = 0, kAligned = 1, kWarp = 2, kLegacy = 3, kPrecise = 4 };

// Where the bins and samples of one axis lie, in cells.
template <class T>
struct Axis {
  T start;       // first edge
  T bin;         // size of a bin; for kLegacy the step between points
  int64_t grid;  // samples a bin (kPlain, kAligned, kWarp)
};

// Random samples a side when their count is adaptive: bounded, since all of them are drawn.
constexpr int64_t kMaxRandomSide = 64;

template <class T>
MR_HD Axis<T> make_axis(T low, T high, T scale, int64_t bins, int64_t geometry, int64_t ratio) {
  Axis<T> axis{};
  const T count = static_cast<T>(bins);
  if (geometry == kLegacy) {
    axis.start = mul(low, scale);
    axis.bin = quot(at_least(add(add(mul(high, scale), -axis.start), T(1)), T(0)), add(count, T(-1)));
    return axis;
  }
  if (geometry == kPrecise) {
    axis.start = mul(low, scale);
    axis.bin = quot(at_least(add(mul(high, scale), -axis.start), T(0)), count);
    return axis;
  }
  T size;
  if (geometry == kWarp) {
    axis.start = std::round(mul(low, scale));
    size = at_least(add(add(std::round(mul(high, scale)), -axis.start), T(1)), T(1));
  } else {
    const T offset = geometry == kAligned ? T(0.5) : T(0);
    axis.start = add(mul(low, scale), -offset);
    size = add(add(mul(high, scale), -offset), -axis.start);
    if (geometry == kPlain) size = at_least(size, T(1));
  }
  axis.bin = quot(size, count);
  axis.grid = ratio > 0 ? ratio : static_cast<int64_t>(clip(std::ceil(axis.bin), T(0), T(1073741824.0)));
  return axis;
}

// Position of regular sample i of bin p: start + p bin + (i + 0.5) bin / grid.
template <class T>
MR_HD T grid_position(const Axis<T>& a, int64_t p, int64_t i) {
  const T base = add(a.start, mul(static_cast<T>(p), a.bin));
  return add(base, quot(mul(add(static_cast<T>(i), T(0.5)), a.bin), static_cast<T>(a.grid)));
}

// Position of a random sample of bin p, `fraction` in [0, 1).
template <class T>
MR_HD T random_position(const Axis<T>& a, int64_t p, T fraction) {
  return add(add(a.start, mul(static_cast<T>(p), a.bin)), mul(fraction, a.bin));
}

// Samples [first, last) of bin p outside of which none can lie on a map of `length` cells.  Only a bound: it
// keeps a box of a billion cells from looping over a billion samples; each sample is still tested.
template <class T>
MR_HD void sample_range(const Axis<T>& a, int64_t p, int64_t length, int64_t* first, int64_t* last) {
  *first = 0;
  *last = a.grid;
  if (a.grid <= 64 || !(a.bin > T(0))) return;
  const double step = static_cast<double>(a.bin) / static_cast<double>(a.grid);
  const double base = static_cast<double>(a.start) + static_cast<double>(p) * static_cast<double>(a.bin);
  const double slack = (std::fabs(base) + std::fabs(static_cast<double>(a.start))) * 1e-6 / step + 3.0;
  *first = clip(to_int(std::floor((-1.0 - base) / step - slack)), int64_t(0), a.grid);
  *last = clip(to_int(std::ceil((static_cast<double>(length) - base) / step + slack)), *first, a.grid);
}

// One bilinear sample on one axis: cells low and high and the weight of high (that of low is 1 - high).
template <class T>
struct Taps {
  int64_t low, high;
  T fraction;
};

// False if the sample lies more than a cell outside the map and counts as 0.
template <class T>
MR_HD bool sample_axis(T y, int64_t length, Taps<T>* taps) {
  if (!(y >= T(-1) && y <= static_cast<T>(length))) return false;
  if (y <= T(0)) y = T(0);
  taps->low = static_cast<int64_t>(y);
  if (taps->low >= length - 1) {
    taps->low = taps->high = length - 1;
    taps->fraction = T(0);
  } else {
    taps->high = taps->low + 1;
    taps->fraction = add(y, -static_cast<T>(taps->low));
  }
  return true;
}

// Point p of the legacy operator: top-left cell min(floor(y), length - 2), so that the fraction may exceed 1
// beyond the last cell; false outside [0, length).  length >= 2.
template <class T>
MR_HD bool legacy_axis(const Axis<T>& a, int64_t p, int64_t length, Taps<T>* taps) {
  const T y = add(mul(static_cast<T>(p), a.bin), a.start);
  if (!(y >= T(0) && y < static_cast<T>(length))) return false;
  const int64_t cell = static_cast<int64_t>(y);
  taps->low = cell < length - 2 ? cell : length - 2;
  taps->high = taps->low + 1;
  taps->fraction = add(y, -static_cast<T>(taps->low));
  return true;
}

// Edges [a, b] of bin p of PrRoI pooling.
template <class T>
MR_HD void precise_edges(const Axis<T>& axis, int64_t p, T* a, T* b) {
  *a = add(axis.start, mul(static_cast<T>(p), axis.bin));
  *b = add(*a, axis.bin);
}

// Cells [first, last) whose hat reaches into [a, b].
template <class T>
MR_HD void precise_range(T a, T b, int64_t length, int64_t* first, int64_t* last) {
  *first = clip(to_int(std::floor(a)), int64_t(0), length);
  *last = clip(to_int(std::ceil(b)) + 1, *first, length);
}

// Integral of hat(t - cell) over [a, b].  Each half is width times midpoint height: no difference of two
// large antiderivatives, so thin bins lose no digits.
template <class T>
MR_HD T precise_weight(T a, T b, int64_t cell) {
  const T i = static_cast<T>(cell);
  T u = at_least(a, i - T(1)), v = at_most(b, i);
  T total = v > u ? (v - u) * ((u + v) * T(0.5) - (i - T(1))) : T(0);
  u = at_least(a, i);
  v = at_most(b, i + T(1));
  if (v > u) total += (v - u) * ((i + T(1)) - (u + v) * T(0.5));
  return total;
}

// hat(t - cell) = max(0, 1 - |t - cell|)
template <class T>
MR_HD T hat(T t, int64_t cell) {
  const T d = T(1) - std::fabs(t - static_cast<T>(cell));
  return d > T(0) ? d : T(0);
}

// Counter-based random numbers (MurmurHash3's finaliser over seed, RoI, bin, sample): the same on every
// device, for any number of threads, and in the Python twin.
MR_HD uint32_t mix(uint32_t h) {
  h ^= h >> 16;
  h *= 0x85EBCA6Bu;
  h ^= h >> 13;
  h *= 0xC2B2AE35u;
  return h ^ (h >> 16);
}

MR_HD uint32_t random_bin(uint32_t seed, int64_t roi, int64_t bin) {
  const uint32_t h = mix(mix(seed) + static_cast<uint32_t>(roi) * 0x9E3779B9u);
  return mix(h + static_cast<uint32_t>(bin) * 0x85EBCA6Bu);
}

// Fraction of the bin at which sample i lies, on the y (side 0) or x axis (side 1); in [0, 1).
template <class T>
MR_HD T random_fraction(uint32_t bin, int64_t i, int side) {
  const uint32_t h = mix(bin + (2u * static_cast<uint32_t>(i) + side) * 0xC2B2AE35u);
  return static_cast<T>(h >> 8) * static_cast<T>(5.9604644775390625e-08);  // 2^-24
}

}  // namespace mrcnn
