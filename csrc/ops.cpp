// Every operator schema, in one place.  The kernels live in cpu/*.cpp and cuda/*.cu, the fake (meta) versions
// and autograd in maskrcnn/layers/autograd.py.
//
// features: levels [N, C, Hl, Wl];  rois: [K, 5] float32 or float64;  levels: int64 [K];  scales: one a level;
// sizes: N, C, H0, W0, H1, W1, ...;  channels_last: the layout of the result (of each level's gradient).
// geometry: see roi_align.h (0 plain, 1 aligned, 2 warp, 3 legacy, 4 precise); sampling_ratio 0 = adaptive.
// rounding, bins: see roi_pool.h.  deterministic: no atomics, the same bits every run (on the CPU always so).
// nms, match: see box_iou.h;  boxes, truth: float32 or float64;  real, truth_real: bool, which rows count;
// groups: int64, of the shape of `scores`.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

STABLE_TORCH_LIBRARY(maskrcnn, m) {
  m.def(
      "roi_average(Tensor[] features, Tensor rois, Tensor? levels, float[] scales, int height, int width, "
      "int geometry, int sampling_ratio, bool channels_last) -> Tensor");
  m.def(
      "roi_average_backward(Tensor grad, Tensor rois, Tensor? levels, float[] scales, SymInt[] sizes, "
      "int[] channels_last, int geometry, int sampling_ratio, bool deterministic) -> Tensor[]");
  m.def(
      "roi_sample(Tensor[] features, Tensor rois, Tensor? levels, float[] scales, int height, int width, "
      "int geometry, int sampling_ratio, bool maximum, bool random, int seed, bool channels_last) "
      "-> (Tensor, Tensor)");
  m.def(
      "roi_sample_backward(Tensor grad, Tensor argmax, Tensor rois, Tensor? levels, float[] scales, "
      "SymInt[] sizes, int[] channels_last, int geometry, int sampling_ratio, bool maximum, bool random, int seed, "
      "bool deterministic) -> Tensor[]");
  m.def(
      "roi_pool(Tensor[] features, Tensor rois, Tensor? levels, float[] scales, int height, int width, "
      "int rounding, int bins, bool channels_last) -> (Tensor, Tensor)");
  m.def(
      "roi_pool_backward(Tensor grad, Tensor argmax, Tensor rois, Tensor? levels, float[] scales, SymInt[] sizes, "
      "int[] channels_last, int rounding, int bins, bool deterministic) -> Tensor[]");
  m.def(
      "roi_precise_rois_backward(Tensor grad, Tensor[] features, Tensor rois, Tensor? levels, float[] scales) "
      "-> Tensor");
  m.def(
      "nms(Tensor boxes, Tensor scores, Tensor real, Tensor? groups, float iou_threshold, SymInt count) "
      "-> (Tensor, Tensor)");
  m.def(
      "match(Tensor truth, Tensor truth_real, Tensor boxes, float low, float high, bool low_quality, float floor) "
      "-> (Tensor, Tensor)");
  m.def("rle_areas(Tensor text, Tensor sizes, Tensor totals) -> Tensor");
  m.def(
      "rasterise(Tensor points, Tensor polygon_ends, Tensor changes, Tensor column_ends, Tensor instances, "
      "Tensor placing, Tensor boxes, Tensor instance, int size, bool soft) -> Tensor");
}
