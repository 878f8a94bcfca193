// The gradient of PrRoI pooling for the RoI coordinates (Jiang et al. 2018, section 3.3).
//
// A bin is sum_ij wy[i] wx[j] f[i, j], and only the weights depend on the coordinates, so
//   dL/dedge = sum over bins, cells and channels of (dw/dedge) w grad f[i, j].
// One block a RoI.  For each bin the block works out the weights of its cells, up to 64 a side at a time, in shared
// memory; a thread takes every 128th channel and sums bins and cells in a fixed order, then the block adds its
// threads up as a tree: the same bits every run.
#include "geometry.cuh"

namespace mrcnn {
namespace {

constexpr int kThreads = 128;
constexpr int kCells = 64;  // a side whose weights are in shared memory at once

// A bin along one axis: its edges, its cells, and how the edges move with the RoI's low and high coordinates.
template <class G>
struct Span {
  G from, to, size;
  int first, last;
  double low_low, low_high, high_low, high_high;  // d edge / d coordinate
};

template <class G>
MR_DEVICE Span<G> span_of(const Axis<G>& axis, int p, int bins, double scale, int64_t length) {
  Span<G> s{};
  if (!(axis.bin > G(0))) return s;
  int64_t first, last;
  precise_edges(axis, p, &s.from, &s.to);
  precise_range(s.from, s.to, length, &first, &last);
  s.first = static_cast<int>(first);
  s.last = static_cast<int>(last);
  s.size = axis.bin;
  // edge e lies at scale (low (1 - e / bins) + high e / bins)
  const double at = static_cast<double>(p) / bins, next = static_cast<double>(p + 1) / bins;
  s.low_low = scale * (1 - at);
  s.low_high = scale * at;
  s.high_low = scale * (1 - next);
  s.high_high = scale * next;
  return s;
}

template <class A>
struct Weights {
  A value, by_low, by_high;
};

// Weight of a cell and its derivatives by the two edges: with W the integral of the hat and w = W / (b - a),
// dw/da = (w - hat(a)) / (b - a), dw/db = (hat(b) - w) / (b - a).
template <class G, class A>
MR_DEVICE Weights<A> weigh(const Span<G>& s, int cell) {
  const G w = quot(precise_weight(s.from, s.to, cell), s.size);
  return {static_cast<A>(w), static_cast<A>(quot(w - hat(s.from, cell), s.size)),
          static_cast<A>(quot(hat(s.to, cell) - w, s.size))};
}

struct Strides {
  int64_t roi, channel, row, column;
};

// out [K, 5] of type G.
template <class T, class G>
__global__ void __launch_bounds__(kThreads, 3)
    precise_kernel(const __grid_constant__ Levels levels, const RoiList rois, const Sampling s, const T* grad,
                   const Strides strides, G* out) {
  using A = Acc<T>;
  __shared__ double partial[4][kThreads];
  __shared__ Weights<A> wy[kCells], wx[kCells];
  const int64_t k = blockIdx.x;
  const int thread = threadIdx.x;
  double total[4] = {0, 0, 0, 0};
  int which, image;
  if (locate(rois, k, levels, &which, &image)) {
    const Level& level = levels.at[which];
    const double scale = levels.scale[which];
    const Axis<G> ay = axis_of<G>(rois, k, true, scale, s), ax = axis_of<G>(rois, k, false, scale, s);
    const T* src = static_cast<const T*>(level.data) + image * level.image;
    for (int p = 0; p < s.bins_y; ++p) {
      const Span<G> y = span_of(ay, p, s.bins_y, scale, level.height);
      for (int q = 0; q < s.bins_x; ++q) {
        const Span<G> x = span_of(ax, q, s.bins_x, scale, level.width);
        const T* g = grad + k * strides.roi + p * strides.row + q * strides.column;
        double y_low = 0, y_high = 0, x_low = 0, x_high = 0;
        for (int i0 = y.first; i0 < y.last; i0 += kCells) {
          const int rows = at_most(y.last - i0, kCells);
          for (int j0 = x.first; j0 < x.last; j0 += kCells) {
            const int columns = at_most(x.last - j0, kCells);
            __syncthreads();
            if (thread < rows) wy[thread] = weigh<G, A>(y, i0 + thread);
            if (thread >= kCells && thread - kCells < columns) {
              wx[thread - kCells] = weigh<G, A>(x, j0 + thread - kCells);
            }
            __syncthreads();
            for (int i = 0; i < rows; ++i) {
              const Weights<A> a = wy[i];
              for (int j = 0; j < columns; ++j) {
                const Weights<A> b = wx[j];
                const T* cell = src + (i0 + i) * level.row + (j0 + j) * level.pixel;
                A dot = 0;
                for (int64_t c = thread; c < levels.channels; c += kThreads) {
                  dot = fused(A(widen(g[c * strides.channel])), A(widen(cell[c * level.channel])), dot);
                }
                y_low += static_cast<double>(dot) * a.by_low * b.value;
                y_high += static_cast<double>(dot) * a.by_high * b.value;
                x_low += static_cast<double>(dot) * a.value * b.by_low;
                x_high += static_cast<double>(dot) * a.value * b.by_high;
              }
            }
          }
        }
        total[0] += x_low * x.low_low + x_high * x.high_low;
        total[1] += y_low * y.low_low + y_high * y.high_low;
        total[2] += x_low * x.low_high + x_high * x.high_high;
        total[3] += y_low * y.low_high + y_high * y.high_high;
      }
    }
  }
  for (int i = 0; i < 4; ++i) partial[i][thread] = total[i];
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) {
      for (int i = 0; i < 4; ++i) partial[i][thread] += partial[i][thread + half];
    }
  }
  __syncthreads();
  if (thread < 5) out[5 * k + thread] = thread == 0 ? G(0) : static_cast<G>(partial[thread - 1][0]);
}

Tensor roi_precise_rois_backward(Tensor grad, std::vector<Tensor> features, Tensor rois, std::optional<Tensor> levels,
                                 std::vector<double> scales) {
  const char* name = "roi_precise_rois_backward";
  const Levels maps = read_features(name, features, scales);
  Tensor keep;
  const RoiList r = read_rois(name, rois, levels, maps, features[0], &keep);
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == r.count && grad.size(1) == maps.channels &&
                      grad.scalar_type() == features[0].scalar_type() && grad.device() == features[0].device(),
                  name, ": the gradient must be [K, C, P, Q] of the features' type and device.");
  check_bins(name, grad.size(2), grad.size(3));
  const Sampling s = make_sampling(name, maps, grad.size(2), grad.size(3), kPrecise, 0);
  const DeviceGuard guard(grad.get_device_index());
  const Tensor out = make(rois, {r.count, 5}, rois.scalar_type(), false);
  if (r.count == 0) return out;
  const cudaStream_t stream = current_stream(out);
  const Strides strides{grad.stride(0), grad.stride(1), grad.stride(2), grad.stride(3)};
  const dim3 grid(static_cast<unsigned>(r.count)), block(kThreads);
  MR_DISPATCH(features[0].scalar_type(), name, {
    const T* gradient = static_cast<const T*>(grad.const_data_ptr());
    if (r.wide) {
      MR_LAUNCH((precise_kernel<T, double>), grid, block, 0, stream, maps, r, s, gradient, strides,
                static_cast<double*>(out.mutable_data_ptr()));
    } else {
      MR_LAUNCH((precise_kernel<T, float>), grid, block, 0, stream, maps, r, s, gradient, strides,
                static_cast<float*>(out.mutable_data_ptr()));
    }
  });
  return out;
}

}  // namespace
}  // namespace mrcnn

MR_REGISTER { m.impl("roi_precise_rois_backward", TORCH_BOX(&mrcnn::roi_precise_rois_backward)); }
