// Operators whose bins are weighted sums of cells: RoIAlign, RoIWarp (both averaging a grid), the legacy
// RoIAlign and PrRoI pooling.  One kernel serves all of them: they differ in the taps of an axis alone.
#include "backward.h"
#include "roi_align.h"

namespace mrcnn {
namespace {

template <class T>
struct Average {
  using A = Acc<T>;
  struct Prepared {
    AxisTaps<A> y, x;
    Box box;
  };
  const Rois& rois;
  const std::vector<double>& scales;
  int64_t bins_y, bins_x, geometry, ratio;

  void prepare(Prepared* out, int64_t k, const Level& level) const {
    const double scale = scales[rois.level[k]];
    average_taps(&out->y, rois, k, true, scale, bins_y, geometry, ratio, level.height);
    average_taps(&out->x, rois, k, false, scale, bins_x, geometry, ratio, level.width);
    out->box = {out->y.low, out->y.high, out->x.low, out->x.high};
  }

  void pool(const Prepared& at, int64_t y0, int64_t x0, const T* src, int64_t row, int64_t pixel, int64_t channels,
            T* dst, int64_t bin_stride, int32_t*) const {
    kernels<T>().average(src - y0 * row - x0 * pixel, row, pixel, at.y.list(), at.x.list(), bins_y, bins_x, channels,
                         dst, bin_stride);
  }
};

template <class T>
struct Spread {
  using A = Acc<T>;
  struct Prepared {
    AxisTaps<A> rows, columns;
    Box box;
  };
  Average<T> forward;

  void prepare(Prepared* out, int64_t k, const Level& level) const {
    typename Average<T>::Prepared taps;
    forward.prepare(&taps, k, level);
    transpose_taps(taps.y, &out->rows);
    transpose_taps(taps.x, &out->columns);
    out->box = taps.box;
  }

  void spread(const Prepared& at, const A* grad, int64_t bin_stride, const int32_t*, int64_t channels, A* map,
              int64_t row, int64_t pixel) const {
    gradients<A>().spread(grad, bin_stride, forward.bins_x, at.rows.list(), at.rows.high - at.rows.low,
                          at.columns.list(), at.columns.high - at.columns.low, channels,
                          map + at.rows.low * row + at.columns.low * pixel, row, pixel);
  }
};

void check_geometry(const char* name, const Features& f, int64_t geometry, int64_t height, int64_t width) {
  STD_TORCH_CHECK(geometry >= kPlain && geometry <= kPrecise, name, ": unknown geometry ", geometry, ".");
  if (geometry != kLegacy) return;
  bool wide = height > 1 && width > 1;
  for (const Level& l : f.levels) wide = wide && l.height > 1 && l.width > 1;
  STD_TORCH_CHECK(wide, name, ": the legacy geometry needs an output and a map of at least 2 a side.");
}

Tensor roi_average(std::vector<Tensor> features, Tensor rois, std::optional<Tensor> levels, std::vector<double> scales,
                   int64_t height, int64_t width, int64_t geometry, int64_t ratio, bool channels_last) {
  const char* name = "roi_average";
  const Features f = read_features(name, features);
  check_bins(name, height, width);
  check_geometry(name, f, geometry, height, width);
  const Rois r = read_rois(name, rois, levels, f.levels.size(), scales.size(), f.images);
  Tensor out = make(features[0], {r.count, f.channels, height, width}, f.type, channels_last);
  MR_DISPATCH(f.type, name, {
    const Average<T> op{r, scales, height, width, geometry, ratio};
    const Output<T> result{static_cast<T*>(out.mutable_data_ptr()), nullptr, channels_last};
    Forward<T, Average<T>>(op, f, r, scales, height * width, result).run();
  });
  return out;
}

std::vector<Tensor> roi_average_backward(Tensor grad, Tensor rois, std::optional<Tensor> levels,
                                         std::vector<double> scales, std::vector<int64_t> sizes,
                                         std::vector<int64_t> channels_last, int64_t geometry, int64_t ratio,
                                         bool /*deterministic*/) {
  const char* name = "roi_average_backward";
  const Features f = make_gradients(name, grad, sizes, channels_last);
  const Rois r = read_rois(name, rois, levels, f.levels.size(), scales.size(), f.images);
  const Pooled g = read_pooled(name, grad, r.count, f.channels);
  const int64_t height = grad.size(2), width = grad.size(3);
  check_bins(name, height, width);
  check_geometry(name, f, geometry, height, width);
  MR_DISPATCH(f.type, name, {
    const Spread<T> op{{r, scales, height, width, geometry, ratio}};
    Backward<T, Spread<T>>(op, f, r, height * width, static_cast<const T*>(g.keep.const_data_ptr()), g.pixels, nullptr,
                           false)
        .run();
  });
  return f.keep;
}

}  // namespace
}  // namespace mrcnn

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) {
  m.impl("roi_average", TORCH_BOX(&mrcnn::roi_average));
  m.impl("roi_average_backward", TORCH_BOX(&mrcnn::roi_average_backward));
}
