// The cells that each RoI of an averaging or sampling operator can reach, for the backward (see tiles.cuh).
#pragma once
#include "geometry.cuh"
#include "tiles.cuh"

namespace mrcnn {

static __global__ void __launch_bounds__(256)
    boxes_kernel(const __grid_constant__ Levels maps, const RoiList rois, const Sampling s, const RoiBoxes boxes) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= rois.count) return;
  RoiBox box{-1, 0, 0, 0, 0};
  int level, image;
  if (locate(rois, k, maps, &level, &image)) {
    const Level& l = maps.at[level];
    box.map = static_cast<int>(level * maps.images + image);
    roi_reach(rois, k, true, maps.scale[level], s, 0, s.bins_y, l.height, &box.y0, &box.y1);
    roi_reach(rois, k, false, maps.scale[level], s, 0, s.bins_x, l.width, &box.x0, &box.x1);
  }
  boxes.put(k, box);
}

static inline void write_boxes(const Backward& b, const Sampling& s) {
  MR_LAUNCH(boxes_kernel, dim3(blocks(b.rois.count, 256)), dim3(256), 0, b.stream, b.levels, b.rois, s, b.roi_boxes());
}

}  // namespace mrcnn
