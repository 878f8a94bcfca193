// The gradient of PrRoI pooling for the RoI coordinates (Jiang et al. 2018, section 3.3).
//
// With merged taps a bin is sum_ij wy[i] wx[j] f[i, j], and only the weights depend on the coordinates, so
//   dL/dedge = sum over bins and taps of (dw/dedge) w <grad, f[i, j]>   with the dot product over channels.
// One thread sums a RoI in a fixed order.
#include "geometry.h"
#include "parallel.h"
#include "roi_align.h"

namespace mrcnn {
namespace {

template <class T>
struct Local {
  Scratch<T> map, grad;
};

// Adds one block of channels: src at cell (0, 0), total[4] = dL/d(x1, y1, x2, y2).
template <class T, class A>
void add_block(const PreciseTaps<A>& y, const PreciseTaps<A>& x, int64_t bins_y, int64_t bins_x, const T* src,
               int64_t row, int64_t pixel, const T* grad, int64_t bin_stride, int64_t channels, double* total) {
  const auto& kernel = kernels<T>();
  for (int64_t p = 0; p < bins_y; ++p) {
    for (int64_t q = 0; q < bins_x; ++q) {
      double y_low = 0, y_high = 0, x_low = 0, x_high = 0;
      for (int32_t i = y.taps.begin[p]; i < y.taps.begin[p + 1]; ++i) {
        for (int32_t j = x.taps.begin[q]; j < x.taps.begin[q + 1]; ++j) {
          const T* cell = src + y.taps.index[i] * row + x.taps.index[j] * pixel;
          const double d = kernel.dot(grad + (p * bins_x + q) * bin_stride, cell, channels);
          y_low += d * y.by_low[i] * x.taps.weight[j];
          y_high += d * y.by_high[i] * x.taps.weight[j];
          x_low += d * y.taps.weight[i] * x.by_low[j];
          x_high += d * y.taps.weight[i] * x.by_high[j];
        }
      }
      total[0] += x_low * x.low_low[q] + x_high * x.high_low[q];
      total[1] += y_low * y.low_low[p] + y_high * y.high_low[p];
      total[2] += x_low * x.low_high[q] + x_high * x.high_high[q];
      total[3] += y_low * y.low_high[p] + y_high * y.high_high[p];
    }
  }
}

template <class T>
void one_roi(const Features& f, const Rois& rois, int64_t k, double scale, int64_t bins_y, int64_t bins_x,
             const T* grad, bool grad_pixels, Local<T>& local, double* total) {
  using A = Acc<T>;
  const Level& level = f.levels[rois.level[k]];
  const auto& kernel = kernels<T>();
  const int64_t bins = bins_y * bins_x;
  PreciseTaps<A> y, x;
  precise_taps(&y, rois, k, true, scale, bins_y, level.height);
  precise_taps(&x, rois, k, false, scale, bins_x, level.width);
  const int64_t h = y.taps.high - y.taps.low, w = x.taps.high - x.taps.low;
  if (h <= 0 || w <= 0) return;
  const T* image = static_cast<const T*>(level.data) + rois.image[k] * level.image;
  for (int64_t c = 0; c < f.channels; c += 64) {
    const int64_t n = std::min<int64_t>(64, f.channels - c);
    const T* g = grad + k * f.channels * bins;
    int64_t bin_stride = f.channels;
    if (grad_pixels) {
      g += c;
    } else {
      T* tile = local.grad.get(bins * 64);
      kernel.transpose(g + c * bins, bins, n, bins, tile, n);
      g = tile;
      bin_stride = n;
    }
    const T* src = image + c;
    int64_t row = level.row, pixel = level.pixel;
    if (!level.pixels) {
      T* tile = local.map.get(h * w * 64);
      pixel = n;
      row = w * n;
      for (int64_t i = 0; i < h; ++i) {
        const T* line = image + c * level.channel + (y.taps.low + i) * level.row + x.taps.low;
        kernel.transpose(line, level.channel, n, w, tile + i * row, n);
      }
      src = tile - y.taps.low * row - x.taps.low * pixel;
    }
    add_block(y, x, bins_y, bins_x, src, row, pixel, g, bin_stride, n, total);
  }
}

Tensor roi_precise_rois_backward(Tensor grad, std::vector<Tensor> features, Tensor rois, std::optional<Tensor> levels,
                                 std::vector<double> scales) {
  const char* name = "roi_precise_rois_backward";
  const Features f = read_features(name, features);
  const Rois r = read_rois(name, rois, levels, f.levels.size(), scales.size(), f.images);
  const Pooled g = read_pooled(name, grad, r.count, f.channels);
  STD_TORCH_CHECK(grad.scalar_type() == f.type, name, ": the gradient must have the features' type.");
  const int64_t height = grad.size(2), width = grad.size(3);
  check_bins(name, height, width);
  Tensor out = make(rois, {r.count, 5}, rois.scalar_type(), false);
  MR_DISPATCH(f.type, name, {
    std::vector<Local<T>> locals(std::max<int64_t>(torch::stable::get_num_threads(), 1));
    const T* gradient = static_cast<const T*>(g.keep.const_data_ptr());
    for_each_unit(r.count, [&](int64_t thread, int64_t k) {
      double total[4] = {0, 0, 0, 0};
      if (f.channels > 0) {
        one_roi<T>(f, r, k, scales[r.level[k]], height, width, gradient, g.pixels, locals[thread], total);
      }
      for (int i = 0; i < 5; ++i) {
        const double value = i ? total[i - 1] : 0.0;
        if (r.wide) {
          static_cast<double*>(out.mutable_data_ptr())[5 * k + i] = value;
        } else {
          static_cast<float*>(out.mutable_data_ptr())[5 * k + i] = static_cast<float>(value);
        }
      }
    });
  });
  return out;
}

}  // namespace
}  // namespace mrcnn

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) {
  m.impl("roi_precise_rois_backward", TORCH_BOX(&mrcnn::roi_precise_rois_backward));
}
