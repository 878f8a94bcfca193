// How much boxes (x1, y1, x2, y2) overlap: what non-maximum suppression and matching compare.
//
// Templates over a number or a vector of numbers (cpu/vec.h).  Both compilers are told to round after every
// step (docs/build.md), so every device gives the bits of the formulas in plain torch.  A NaN in a box makes its
// area NaN, and with it every comparison false.
#pragma once
#include <cmath>
#include <limits>

#if defined(__CUDACC__)
#define MR_BOX static __host__ __device__ __forceinline__
#else
#define MR_BOX static inline __attribute__((always_inline))
#endif

namespace mrcnn {

template <class V>
struct Corners {
  V x1, y1, x2, y2;
};

template <class V>
MR_BOX V positive_part(V v) {
  return v < V{} ? V{} : v;
}

template <class V>
MR_BOX V intersection(const Corners<V>& a, const Corners<V>& b) {
  const V x1 = a.x1 < b.x1 ? b.x1 : a.x1, x2 = b.x2 < a.x2 ? b.x2 : a.x2;
  const V y1 = a.y1 < b.y1 ? b.y1 : a.y1, y2 = b.y2 < a.y2 ? b.y2 : a.y2;
  return positive_part(x2 - x1) * positive_part(y2 - y1);
}

// As torchvision's NMS has it: of a box with one negative side negative.
template <class V>
MR_BOX V signed_area(const Corners<V>& a) {
  return (a.x2 - a.x1) * (a.y2 - a.y1);
}

// As maskrcnn.structures.box_area has it.
template <class V>
MR_BOX V box_area(const Corners<V>& a) {
  return positive_part(a.x2 - a.x1) * positive_part(a.y2 - a.y1);
}

// As maskrcnn.structures.box_iou has it: 0 where nothing is covered.
template <class V>
MR_BOX V iou_of(V inter, V area_a, V area_b) {
  const V covered = area_a + area_b - inter;
  return covered > V{} ? inter / covered : V{};
}

// The largest T that is not above `limit`: comparing a T with it says what comparing with `limit` itself says.
template <class T>
inline T not_above(double limit) {
  const T near = static_cast<T>(limit);
  return static_cast<double>(near) > limit ? std::nextafter(near, -std::numeric_limits<T>::infinity()) : near;
}

}  // namespace mrcnn
