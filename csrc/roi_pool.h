// Geometry of RoIPool: how a box becomes whole cells, and how those are cut into bins.
//
// Defaults (kRound, kOverlap) follow torchvision's expressions in their order.  T is float or double.
#pragma once
#include "exact.h"

namespace mrcnn {

// The numbers are the positions in maskrcnn/layers/ops.py's ROUNDINGS and BINS.
enum Rounding : int64_t { kRound = 0, kFloor = 1, kSppnet = 2 };
enum Bins : int64_t { kOverlap = 0, kPartition = 1, kTruncate = 2 };

// One side of a box in cells.
struct PoolSide {
  int64_t start;
  int64_t side;
};

template <class T>
MR_HD PoolSide pool_side(T low, T high, T scale, int64_t rounding, int64_t bins) {
  T first = mul(low, scale), last = mul(high, scale);
  if (rounding == kRound) {  // C's round: halves away from zero
    first = std::round(first);
    last = std::round(last);
  } else if (rounding == kFloor) {
    first = std::floor(first);
    last = std::floor(last);
  } else {  // He et al. 2014, appendix: left/top floor + 1, right/bottom ceil - 1
    first = add(std::floor(first), T(1));
    last = add(std::ceil(last), T(-1));
  }
  PoolSide s{};
  s.start = to_int(first);
  s.side = to_int(last) - s.start;
  s.side = bins == kOverlap ? at_least(s.side + 1, int64_t(1)) : at_least(s.side, int64_t(0));
  return s;
}

// Half-open cell range [lo, hi) of bin p of `count`, clipped to the map.
template <class T>
MR_HD void pool_edges(PoolSide s, int64_t p, int64_t count, int64_t length, int64_t bins, int64_t* lo, int64_t* hi) {
  int64_t a, b;
  if (bins == kOverlap) {
    const T size = quot(static_cast<T>(s.side), static_cast<T>(count));
    a = to_int(std::floor(mul(static_cast<T>(p), size)));
    b = to_int(std::ceil(mul(static_cast<T>(p + 1), size)));
  } else if (bins == kPartition) {
    a = p * s.side / count;
    b = (p + 1) * s.side / count;
  } else {
    a = p * (s.side / count);
    b = (p + 1) * (s.side / count);
  }
  *lo = clip(a + s.start, int64_t(0), length);
  *hi = clip(b + s.start, int64_t(0), length);
}

}  // namespace mrcnn
