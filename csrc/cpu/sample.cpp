// RoIAlign and RoIWarp whose samples are needed one by one: the maximum of a grid, and random positions.
#include "backward.h"
#include "roi_align.h"

namespace mrcnn {
namespace {

template <class T>
struct SampleOp {
  using A = Acc<T>;
  using Prepared = BinSamples<A>;
  const Rois& rois;
  const std::vector<double>& scales;
  int64_t bins_y, bins_x, geometry, ratio;
  bool maximum, random;
  int64_t seed;

  void prepare(Prepared* out, int64_t k, const Level& level) const {
    bin_samples(out, rois, k, scales[rois.level[k]], bins_y, bins_x, geometry, ratio, random, seed, level.height,
                level.width);
  }

  void pool(const Prepared& at, int64_t y0, int64_t x0, const T* src, int64_t row, int64_t pixel, int64_t channels,
            T* dst, int64_t bin_stride, int32_t* arg) const {
    std::vector<Sample<A>> samples;
    for (int64_t b = 0; b < bins_y * bins_x; ++b) {
      const int64_t count = resolve(at, b, y0, x0, row, pixel, &samples);
      kernels<T>().sample(src, samples.data(), count, at.factor, maximum, at.outside[b], channels, dst + b * bin_stride,
                          arg + b * bin_stride);
    }
  }

  void spread(const Prepared& at, const A* grad, int64_t bin_stride, const int32_t* arg, int64_t channels, A* map,
              int64_t row, int64_t pixel) const {
    std::vector<Sample<A>> samples;
    for (int64_t b = 0; b < bins_y * bins_x; ++b) {
      const int64_t count = resolve(at, b, 0, 0, row, pixel, &samples);
      gradients<A>().unsample(grad + b * bin_stride, arg ? arg + b * bin_stride : nullptr, samples.data(), count,
                              at.factor, maximum, channels, map);
    }
  }
};

void check_sampling(const char* name, int64_t geometry, int64_t ratio) {
  STD_TORCH_CHECK(geometry >= kPlain && geometry <= kWarp, name, ": unknown geometry ", geometry, ".");
  STD_TORCH_CHECK(ratio <= 4096, name, ": the sampling ratio must not exceed 4096.");
}

std::tuple<Tensor, Tensor> roi_sample(std::vector<Tensor> features, Tensor rois, std::optional<Tensor> levels,
                                      std::vector<double> scales, int64_t height, int64_t width, int64_t geometry,
                                      int64_t ratio, bool maximum, bool random, int64_t seed, bool channels_last) {
  const char* name = "roi_sample";
  const Features f = read_features(name, features);
  check_bins(name, height, width);
  check_sampling(name, geometry, ratio);
  const Rois r = read_rois(name, rois, levels, f.levels.size(), scales.size(), f.images);
  const std::vector<int64_t> size{r.count, f.channels, height, width};
  Tensor out = make(features[0], size, f.type, channels_last);
  Tensor arg = make(features[0], size, ScalarType::Int, channels_last);
  MR_DISPATCH(f.type, name, {
    const SampleOp<T> op{r, scales, height, width, geometry, ratio, maximum, random, seed};
    const Output<T> result{static_cast<T*>(out.mutable_data_ptr()), static_cast<int32_t*>(arg.mutable_data_ptr()),
                           channels_last};
    Forward<T, SampleOp<T>>(op, f, r, scales, height * width, result).run();
  });
  return {out, arg};
}

std::vector<Tensor> roi_sample_backward(Tensor grad, Tensor argmax, Tensor rois, std::optional<Tensor> levels,
                                        std::vector<double> scales, std::vector<int64_t> sizes,
                                        std::vector<int64_t> channels_last, int64_t geometry, int64_t ratio,
                                        bool maximum, bool random, int64_t seed, bool /*deterministic*/) {
  const char* name = "roi_sample_backward";
  const Features f = make_gradients(name, grad, sizes, channels_last);
  check_sampling(name, geometry, ratio);
  const Rois r = read_rois(name, rois, levels, f.levels.size(), scales.size(), f.images);
  const Pooled g = read_pooled(name, grad, r.count, f.channels);
  const Pooled a = read_pooled(name, argmax, r.count, f.channels);
  const int64_t height = grad.size(2), width = grad.size(3);
  check_bins(name, height, width);
  STD_TORCH_CHECK(argmax.size(2) == height && argmax.size(3) == width && argmax.scalar_type() == ScalarType::Int, name,
                  ": argmax must be an int32 tensor of the gradient's shape.");
  MR_DISPATCH(f.type, name, {
    const SampleOp<T> op{r, scales, height, width, geometry, ratio, maximum, random, seed};
    Backward<T, SampleOp<T>>(op, f, r, height * width, static_cast<const T*>(g.keep.const_data_ptr()), g.pixels,
                             maximum ? static_cast<const int32_t*>(a.keep.const_data_ptr()) : nullptr, a.pixels)
        .run();
  });
  return f.keep;
}

}  // namespace
}  // namespace mrcnn

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) {
  m.impl("roi_sample", TORCH_BOX(&mrcnn::roi_sample));
  m.impl("roi_sample_backward", TORCH_BOX(&mrcnn::roi_sample_backward));
}
