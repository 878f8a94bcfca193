// RoIAlign and RoIWarp whose samples are needed one by one: the maximum of a grid, and random positions.
//
// A warp's threads share a bin, so each works out the position of a sample for itself, the same in all of them.
// argmax is the number of the winning sample among those of its bin that lie on the map, -1 where the 0 of a
// sample outside won.
#include "boxes.cuh"
#include "forward.cuh"
#include "scatter.cuh"

namespace mrcnn {
namespace {

struct Drawing {
  Sampling s;
  bool maximum, random;
  uint32_t seed;
};

// The axes of a RoI, with the bound on the number of random samples applied.
template <class G>
struct Axes {
  Axis<G> y, x;

  __device__ __forceinline__ Axes(const RoiList& rois, int64_t k, double scale, const Drawing& d)
      : y(axis_of<G>(rois, k, true, scale, d.s)), x(axis_of<G>(rois, k, false, scale, d.s)) {
    if (d.random && d.s.ratio == 0) {
      y.grid = at_most(y.grid, kMaxRandomSide);
      x.grid = at_most(x.grid, kMaxRandomSide);
    }
  }
};

// Calls visit(rank, y, x) for the samples of a bin that lie on the map, in order; at least for those that touch
// cells [y0, y1) x [x0, x1).  Returns whether some of the bin's samples lie outside the map.
template <class G, class F>
MR_DEVICE bool for_each_sample(const Axes<G>& axes, const Drawing& d, int64_t k, int p, int q, int height, int width,
                               int y0, int y1, int x0, int x1, F&& visit) {
  Taps<G> y, x;
  bool outside = false;
  int rank = 0;
  if (d.random) {
    const uint32_t base = random_bin(d.seed, k, static_cast<int64_t>(p) * d.s.bins_x + q);
    const int count = static_cast<int>(axes.y.grid * axes.x.grid);
    for (int i = 0; i < count; ++i) {
      const bool inside = sample_axis(random_position(axes.y, p, random_fraction<G>(base, i, 0)), height, &y) &&
                          sample_axis(random_position(axes.x, q, random_fraction<G>(base, i, 1)), width, &x);
      if (inside) visit(rank++, y, x);
      outside |= !inside;
    }
    return outside;
  }
  // Rows and columns of the grid that are on the map follow one another, so the rank of a sample is a product.
  int64_t i0, i1, j0, j1;
  valid_samples(axes.y, p, height, &i0, &i1);
  valid_samples(axes.x, q, width, &j0, &j1);
  outside = i1 - i0 < axes.y.grid || j1 - j0 < axes.x.grid;
  int64_t from, to, left, right;
  samples_near(axes.y, p, y0, y1, &from, &to);
  samples_near(axes.x, q, x0, x1, &left, &right);
  from = at_least(from, i0);
  to = at_most(to, i1);
  left = at_least(left, j0);
  right = at_most(right, j1);
  for (int64_t i = from; i < to; ++i) {
    if (!sample_axis(grid_position(axes.y, p, i), height, &y)) continue;
    for (int64_t j = left; j < right; ++j) {
      if (!sample_axis(grid_position(axes.x, q, j), width, &x)) continue;
      visit(static_cast<int>((i - i0) * (j1 - j0) + (j - j0)), y, x);
    }
  }
  return outside;
}

template <class T, int V, class G>
MR_DEVICE void sample_bin(const Axes<G>& axes, const Drawing& d, int64_t k, int p, int q, const Level& level,
                          const T* plane, Acc<T>* best, int* index) {
  using A = Acc<T>;
  bool any = false;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    best[v] = A(0);
    index[v] = -1;
  }
  const bool outside = for_each_sample(
      axes, d, k, p, q, level.height, level.width, 0, level.height, 0, level.width,
      [&](int rank, const Taps<G>& y, const Taps<G>& x) {
        const T* low = plane + y.low * level.row;
        const T* high = plane + y.high * level.row;
        const A weights[4] = {
            static_cast<A>((G(1) - y.fraction) * (G(1) - x.fraction)), static_cast<A>((G(1) - y.fraction) * x.fraction),
            static_cast<A>(y.fraction * (G(1) - x.fraction)), static_cast<A>(y.fraction * x.fraction)};
        const T* at[4] = {low + x.low * level.pixel, low + x.high * level.pixel, high + x.low * level.pixel,
                          high + x.high * level.pixel};
        A sum[V];
#pragma unroll
        for (int t = 0; t < 4; ++t) {
          A value[V];
          load<T, V>(at[t], value);
#pragma unroll
          for (int v = 0; v < V; ++v) sum[v] = t == 0 ? weights[0] * value[v] : fused(weights[t], value[v], sum[v]);
        }
#pragma unroll
        for (int v = 0; v < V; ++v) {
          if (!d.maximum) {
            best[v] += sum[v];
          } else if (!any || sum[v] > best[v]) {
            best[v] = sum[v];
            index[v] = rank;
          }
        }
        any = true;
      });
  const int64_t count = axes.y.grid * axes.x.grid;
  const A factor = static_cast<A>(quot(G(1), static_cast<G>(at_least(count, int64_t(1)))));
#pragma unroll
  for (int v = 0; v < V; ++v) {
    if (!d.maximum) {
      best[v] *= factor;
    } else if (outside && any && best[v] < A(0)) {
      best[v] = A(0);
      index[v] = -1;
    }
  }
}

template <class T, int V, bool kPixels, class G>
MR_DEVICE void sample_roi(const Levels& levels, const RoiList& rois, const Drawing& d, const Output& out, int64_t k,
                          int which, int image) {
  const Level& level = levels.at[which];
  const Axes<G> axes(rois, k, levels.scale[which], d);
  const T* src = static_cast<const T*>(level.data) + image * level.image;
  share_out<V, kPixels>(out, [&](int bin, int64_t c) {
    const int p = bin / d.s.bins_x, q = bin - p * d.s.bins_x;
    Acc<T> best[V];
    int index[V];
    sample_bin<T, V>(axes, d, k, p, q, level, src + c * level.channel, best, index);
    const int64_t at = k * out.roi + bin * out.bin_stride + c * out.channel_stride;
    store<T, V>(static_cast<T*>(out.data) + at, best);
    store_index<V>(out.arg + at, index);
  });
}

template <class T, int V, bool kPixels, class G>
__global__ void __launch_bounds__(256, 2)
    sample_kernel(const __grid_constant__ Levels levels, const RoiList rois, const Drawing d, const Output out) {
  const int64_t k = blockIdx.x;
  int which, image;
  if (locate(rois, k, levels, &which, &image)) {
    sample_roi<T, V, kPixels, G>(levels, rois, d, out, k, which, image);
  } else {
    zero_roi<T, V, kPixels>(out, k);
  }
}

template <class G>
struct SampleScatter {
  static constexpr int kBlocks = 3;
  Drawing d;

  __device__ __forceinline__ void bin_reach(const RoiList& rois, int64_t k, bool vertical, double scale, int p,
                                            int length, int* low, int* high) const {
    roi_reach(rois, k, vertical, scale, d.s, p, 1, length, low, high);
  }

  __device__ __forceinline__ Axes<G> begin(const RoiList& rois, int64_t k, double scale) const {
    return Axes<G>(rois, k, scale, d);
  }

  template <class T>
  __device__ __forceinline__ void add(const Cells<T>& cells, const Axes<G>& axes, int64_t k, int p, int q,
                                      const T* grad, const int32_t* arg) const {
    using A = Acc<T>;
    const int chosen = d.maximum ? *arg : 0;
    if (chosen < 0) return;
    A value = widen(*grad);
    if (!d.maximum) {
      const int64_t count = axes.y.grid * axes.x.grid;
      value *= static_cast<A>(quot(G(1), static_cast<G>(at_least(count, int64_t(1)))));
    }
    for_each_sample(axes, d, k, p, q, cells.height, cells.width, cells.y0, cells.y0 + kSide, cells.x0, cells.x0 + kSide,
                    [&](int rank, const Taps<G>& y, const Taps<G>& x) {
                      if (d.maximum && rank != chosen) return;
                      const G fy = y.fraction, fx = x.fraction;
                      cells.add(y.low, x.low, static_cast<A>((G(1) - fy) * (G(1) - fx)) * value);
                      cells.add(y.low, x.high, static_cast<A>((G(1) - fy) * fx) * value);
                      cells.add(y.high, x.low, static_cast<A>(fy * (G(1) - fx)) * value);
                      cells.add(y.high, x.high, static_cast<A>(fy * fx) * value);
                    });
  }
};

Drawing make_drawing(const char* name, const Levels& maps, int64_t height, int64_t width, int64_t geometry,
                     int64_t ratio, bool maximum, bool random, int64_t seed) {
  check_bins(name, height, width);
  STD_TORCH_CHECK(geometry >= kPlain && geometry <= kWarp, name, ": unknown geometry ", geometry, ".");
  return {make_sampling(name, maps, height, width, geometry, ratio), maximum, random, static_cast<uint32_t>(seed)};
}

std::tuple<Tensor, Tensor> roi_sample(std::vector<Tensor> features, Tensor rois, std::optional<Tensor> levels,
                                      std::vector<double> scales, int64_t height, int64_t width, int64_t geometry,
                                      int64_t ratio, bool maximum, bool random, int64_t seed, bool channels_last) {
  const char* name = "roi_sample";
  const Levels maps = read_features(name, features, scales);
  Tensor keep;
  const RoiList r = read_rois(name, rois, levels, maps, features[0], &keep);
  const Drawing d = make_drawing(name, maps, height, width, geometry, ratio, maximum, random, seed);
  const DeviceGuard guard(features[0].get_device_index());
  const std::vector<int64_t> size{r.count, maps.channels, height, width};
  const Tensor out = make(features[0], size, features[0].scalar_type(), channels_last);
  const Tensor arg = make(features[0], size, ScalarType::Int, channels_last);
  if (r.count == 0 || maps.channels == 0) return {out, arg};
  const cudaStream_t stream = current_stream(out);
  MR_DISPATCH(features[0].scalar_type(), name, {
    const Output o = make_output(out, static_cast<int32_t*>(arg.mutable_data_ptr()), channels_last);
    const ForwardPlan plan = plan_forward(maps, o, r.count, sizeof(T));
    MR_FORWARD(
        plan,
        if (r.wide) {
          MR_LAUNCH((sample_kernel<T, V, kPixels, double>), plan.grid, plan.block, 0, stream, maps, r, d, o);
        } else { MR_LAUNCH((sample_kernel<T, V, kPixels, float>), plan.grid, plan.block, 0, stream, maps, r, d, o); });
  });
  return {out, arg};
}

std::vector<Tensor> roi_sample_backward(Tensor grad, Tensor argmax, Tensor rois, std::optional<Tensor> levels,
                                        std::vector<double> scales, std::vector<int64_t> sizes,
                                        std::vector<int64_t> channels_last, int64_t geometry, int64_t ratio,
                                        bool maximum, bool random, int64_t seed, bool /*deterministic*/) {
  const char* name = "roi_sample_backward";
  const DeviceGuard guard(grad.get_device_index());
  const Backward b = begin_backward(name, grad, argmax, rois, levels, scales, sizes, channels_last);
  const Drawing d = make_drawing(name, b.levels, grad.size(2), grad.size(3), geometry, ratio, maximum, random, seed);
  if (b.empty) return b.maps;
  write_boxes(b, d.s);
  MR_DISPATCH(grad.scalar_type(), name, {
    if (b.rois.wide) {
      launch_scatter<T>(b, SampleScatter<double>{d}, d.s.bins_y, d.s.bins_x);
    } else {
      launch_scatter<T>(b, SampleScatter<float>{d}, d.s.bins_y, d.s.bins_x);
    }
  });
  return b.maps;
}

}  // namespace
}  // namespace mrcnn

MR_REGISTER {
  m.impl("roi_sample", TORCH_BOX(&mrcnn::roi_sample));
  m.impl("roi_sample_backward", TORCH_BOX(&mrcnn::roi_sample_backward));
}
