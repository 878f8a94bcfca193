// The inner loops of NMS and matching, as a table of functions an instruction set (see kernels.h).
#pragma once
#include <cstdint>

#include "box_iou.h"
#include "vec.h"

namespace mrcnn {

// Boxes in tiles of kTile: x1 of all, y1 of all, x2, y2, and their areas.  The unused end of a tile has NaN
// areas: it overlaps nothing.
constexpr int kTile = 32;

template <class A>
inline void put(A* tiles, int64_t at, const Corners<A>& box, A area) {
  A* lane = tiles + at / kTile * (5 * kTile) + at % kTile;
  const A values[5] = {box.x1, box.y1, box.x2, box.y2, area};
  for (int i = 0; i < 5; ++i) lane[i * kTile] = values[i];
}

inline int64_t tiles_of(int64_t boxes) { return (boxes + kTile - 1) / kTile; }

template <class A>
struct BoxKernels {
  // Whether any box of the tiles overlaps this one by more than `limit` >= 0, in the arithmetic of NMS.
  bool (*overlaps)(const A* tiles, int64_t count, const Corners<A>& box, A area, A limit);

  // The IoU of ground truth number `name` with every box: where it is above `value` (a number a lane of the
  // tiles) it goes there, and the name beside it.  Returns the largest.
  A (*best)(const A* tiles, int64_t count, const Corners<A>& truth, A area, Index<A> name, A* value, Index<A>* index);

  // label[lane] = 1 where the IoU equals `wanted`, which is not 0.
  void (*claim)(const A* tiles, int64_t count, const Corners<A>& truth, A area, A wanted, int8_t* label);
};

// The table for this processor.  A: float, double.
template <class A>
const BoxKernels<A>& box_kernels();

}  // namespace mrcnn
