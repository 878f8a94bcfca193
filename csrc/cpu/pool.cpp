// RoIPool: the maximum over whole-cell bins, with the index of the cell that attained it for the backward.
#include "backward.h"
#include "roi_pool.h"

namespace mrcnn {
namespace {

template <class T>
struct PoolOp {
  using A = Acc<T>;
  struct Prepared {
    std::vector<int64_t> y, x;  // lo, hi of each bin
    int64_t width = 0;
    Box box;
  };
  const Rois& rois;
  const std::vector<double>& scales;
  int64_t bins_y, bins_x, rounding, kind;

  static void extent(const std::vector<int64_t>& edges, int64_t* low, int64_t* high) {
    *low = edges.front();
    *high = edges.back();
  }

  void prepare(Prepared* out, int64_t k, const Level& level) const {
    const double scale = scales[rois.level[k]];
    pool_ranges(&out->y, rois, k, true, scale, bins_y, rounding, kind, level.height);
    pool_ranges(&out->x, rois, k, false, scale, bins_x, rounding, kind, level.width);
    out->width = level.width;
    extent(out->y, &out->box.y0, &out->box.y1);
    extent(out->x, &out->box.x0, &out->box.x1);
  }

  void pool(const Prepared& at, int64_t y0, int64_t x0, const T* src, int64_t row, int64_t pixel, int64_t channels,
            T* dst, int64_t bin_stride, int32_t* arg) const {
    const T* origin = src - y0 * row - x0 * pixel;
    for (int64_t b = 0; b < bins_y * bins_x; ++b) {
      const int64_t p = b / bins_x, q = b % bins_x;
      kernels<T>().pool(origin, row, pixel, at.y[2 * p], at.y[2 * p + 1], at.x[2 * q], at.x[2 * q + 1], at.width,
                        channels, dst + b * bin_stride, arg + b * bin_stride);
    }
  }

  void spread(const Prepared& at, const A* grad, int64_t bin_stride, const int32_t* arg, int64_t channels, A* map,
              int64_t row, int64_t pixel) const {
    const int64_t first = at.box.y0 * at.width, last = at.box.y1 * at.width;
    for (int64_t b = 0; b < bins_y * bins_x; ++b) {
      gradients<A>().unpool(grad + b * bin_stride, arg + b * bin_stride, first, last, pixel, channels, map);
    }
  }
};

std::tuple<Tensor, Tensor> roi_pool(std::vector<Tensor> features, Tensor rois, std::optional<Tensor> levels,
                                    std::vector<double> scales, int64_t height, int64_t width, int64_t rounding,
                                    int64_t bins, bool channels_last) {
  const char* name = "roi_pool";
  const Features f = read_features(name, features);
  check_bins(name, height, width);
  const Rois r = read_rois(name, rois, levels, f.levels.size(), scales.size(), f.images);
  const std::vector<int64_t> size{r.count, f.channels, height, width};
  Tensor out = make(features[0], size, f.type, channels_last);
  Tensor arg = make(features[0], size, ScalarType::Int, channels_last);
  MR_DISPATCH(f.type, name, {
    const PoolOp<T> op{r, scales, height, width, rounding, bins};
    const Output<T> result{static_cast<T*>(out.mutable_data_ptr()), static_cast<int32_t*>(arg.mutable_data_ptr()),
                           channels_last};
    Forward<T, PoolOp<T>>(op, f, r, scales, height * width, result).run();
  });
  return {out, arg};
}

std::vector<Tensor> roi_pool_backward(Tensor grad, Tensor argmax, Tensor rois, std::optional<Tensor> levels,
                                      std::vector<double> scales, std::vector<int64_t> sizes,
                                      std::vector<int64_t> channels_last, int64_t rounding, int64_t bins,
                                      bool /*deterministic*/) {
  const char* name = "roi_pool_backward";
  const Features f = make_gradients(name, grad, sizes, channels_last);
  const Rois r = read_rois(name, rois, levels, f.levels.size(), scales.size(), f.images);
  const Pooled g = read_pooled(name, grad, r.count, f.channels);
  const Pooled a = read_pooled(name, argmax, r.count, f.channels);
  const int64_t height = grad.size(2), width = grad.size(3);
  check_bins(name, height, width);
  STD_TORCH_CHECK(argmax.size(2) == height && argmax.size(3) == width && argmax.scalar_type() == ScalarType::Int, name,
                  ": argmax must be an int32 tensor of the gradient's shape.");
  MR_DISPATCH(f.type, name, {
    const PoolOp<T> op{r, scales, height, width, rounding, bins};
    Backward<T, PoolOp<T>>(op, f, r, height * width, static_cast<const T*>(g.keep.const_data_ptr()), g.pixels,
                           static_cast<const int32_t*>(a.keep.const_data_ptr()), a.pixels)
        .run();
  });
  return f.keep;
}

}  // namespace
}  // namespace mrcnn

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) {
  m.impl("roi_pool", TORCH_BOX(&mrcnn::roi_pool));
  m.impl("roi_pool_backward", TORCH_BOX(&mrcnn::roi_pool_backward));
}
