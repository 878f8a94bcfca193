// RoIPool: the maximum over whole-cell bins, with the index of the cell that attained it for the backward.
#include "forward.cuh"
#include "roi_pool.h"
#include "scatter.cuh"

namespace mrcnn {
namespace {

struct PoolShape {
  int bins_y, bins_x, rounding, kind;
};

template <class G>
MR_DEVICE void range_as(const RoiList& rois, int64_t k, bool vertical, double scale, const PoolShape& s, int first,
                        int last, int64_t length, int64_t* low, int64_t* high) {
  const G* row = static_cast<const G*>(rois.rows) + 5 * k;
  const PoolSide side =
      pool_side<G>(row[vertical ? 2 : 1], row[vertical ? 4 : 3], static_cast<G>(scale), s.rounding, s.kind);
  const int count = vertical ? s.bins_y : s.bins_x;
  int64_t skipped;
  pool_edges<G>(side, first, count, length, s.kind, low, &skipped);
  pool_edges<G>(side, last, count, length, s.kind, &skipped, high);
}

// Cells [*low, *high) of the bins first .. last of one axis.
MR_DEVICE void pool_range(const RoiList& rois, int64_t k, bool vertical, double scale, const PoolShape& s, int first,
                          int last, int length, int* low, int* high) {
  int64_t a, b;
  if (rois.wide) {
    range_as<double>(rois, k, vertical, scale, s, first, last, length, &a, &b);
  } else {
    range_as<float>(rois, k, vertical, scale, s, first, last, length, &a, &b);
  }
  *low = static_cast<int>(a);
  *high = static_cast<int>(b);
}

template <class T, int V, bool kPixels>
__global__ void __launch_bounds__(256, 3) pool_kernel(const __grid_constant__ Levels levels, const RoiList rois,
                                                      const PoolShape s, const Output out, int2* workspace) {
  using A = Acc<T>;
  MR_DYNAMIC_SHARED(shared);
  const int64_t k = blockIdx.x;
  int which, image;
  if (!locate(rois, k, levels, &which, &image)) {
    zero_roi<T, V, kPixels>(out, k);
    return;
  }
  const Level& level = levels.at[which];
  const int bins = s.bins_y + s.bins_x;
  // The cell ranges of all bins of both axes, once a block.
  int2* edges = workspace ? workspace + (k * gridDim.y + blockIdx.y) * bins : reinterpret_cast<int2*>(shared);
  for (int b = threadIdx.y * blockDim.x + threadIdx.x; b < bins; b += blockDim.x * blockDim.y) {
    const bool vertical = b < s.bins_y;
    const int p = vertical ? b : b - s.bins_y;
    int2 edge;
    pool_range(rois, k, vertical, levels.scale[which], s, p, p, vertical ? level.height : level.width, &edge.x,
               &edge.y);
    edges[b] = edge;
  }
  __syncthreads();
  const T* src = static_cast<const T*>(level.data) + image * level.image;
  const int64_t pixel = level.pixel;
  share_out<V, kPixels>(out, [&](int bin, int64_t c) {
    const int p = bin / s.bins_x, q = bin - p * s.bins_x;
    const int2 rows = edges[p], columns = edges[s.bins_y + q];
    const bool empty = rows.y <= rows.x || columns.y <= columns.x;
    A best[V];
    int index[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      best[v] = empty ? A(0) : lowest<T>();
      index[v] = -1;
    }
    for (int y = rows.x; y < rows.y; ++y) {
      const T* line = src + c * level.channel + y * level.row;
#pragma unroll 4
      for (int x = columns.x; x < columns.y; ++x) {
        A value[V];
        load<T, V>(line + x * pixel, value);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          if (value[v] > best[v]) {
            best[v] = value[v];
            index[v] = y * level.width + x;
          }
        }
      }
    }
    const int64_t at = k * out.roi + bin * out.bin_stride + c * out.channel_stride;
    store<T, V>(static_cast<T*>(out.data) + at, best);
    store_index<V>(out.arg + at, index);
  });
}

struct PoolScatter {
  static constexpr int kBlocks = 5;
  PoolShape s;

  __device__ __forceinline__ void bin_reach(const RoiList& rois, int64_t k, bool vertical, double scale, int p,
                                            int length, int* low, int* high) const {
    pool_range(rois, k, vertical, scale, s, p, p, length, low, high);
  }

  __device__ __forceinline__ int begin(const RoiList&, int64_t, double) const { return 0; }

  template <class T>
  __device__ __forceinline__ void add(const Cells<T>& cells, int, int64_t, int, int, const T* grad,
                                      const int32_t* arg) const {
    const int index = *arg;
    const Acc<T> value = widen(*grad);
    if (index < 0) return;
    const int y = index / cells.width;
    cells.add(y, index - y * cells.width, value);
  }
};

__global__ void __launch_bounds__(256) pool_boxes_kernel(const __grid_constant__ Levels maps, const RoiList rois,
                                                         const PoolShape s, const RoiBoxes boxes) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= rois.count) return;
  RoiBox box{-1, 0, 0, 0, 0};
  int level, image;
  if (locate(rois, k, maps, &level, &image)) {
    box.map = static_cast<int>(level * maps.images + image);
    pool_range(rois, k, true, maps.scale[level], s, 0, s.bins_y - 1, maps.at[level].height, &box.y0, &box.y1);
    pool_range(rois, k, false, maps.scale[level], s, 0, s.bins_x - 1, maps.at[level].width, &box.x0, &box.x1);
  }
  boxes.put(k, box);
}

PoolShape make_shape(const char* name, int64_t height, int64_t width, int64_t rounding, int64_t bins) {
  check_bins(name, height, width);
  STD_TORCH_CHECK(rounding >= kRound && rounding <= kSppnet && bins >= kOverlap && bins <= kTruncate, name,
                  ": unknown rounding or bins.");
  return {static_cast<int>(height), static_cast<int>(width), static_cast<int>(rounding), static_cast<int>(bins)};
}

std::tuple<Tensor, Tensor> roi_pool(std::vector<Tensor> features, Tensor rois, std::optional<Tensor> levels,
                                    std::vector<double> scales, int64_t height, int64_t width, int64_t rounding,
                                    int64_t bins, bool channels_last) {
  const char* name = "roi_pool";
  const Levels maps = read_features(name, features, scales);
  Tensor keep;
  const RoiList r = read_rois(name, rois, levels, maps, features[0], &keep);
  const PoolShape s = make_shape(name, height, width, rounding, bins);
  const DeviceGuard guard(features[0].get_device_index());
  const std::vector<int64_t> size{r.count, maps.channels, height, width};
  const Tensor out = make(features[0], size, features[0].scalar_type(), channels_last);
  const Tensor arg = make(features[0], size, ScalarType::Int, channels_last);
  if (r.count == 0 || maps.channels == 0) return {out, arg};
  const cudaStream_t stream = current_stream(out);
  MR_DISPATCH(features[0].scalar_type(), name, {
    const Output o = make_output(out, static_cast<int32_t*>(arg.mutable_data_ptr()), channels_last);
    const ForwardPlan plan = plan_forward(maps, o, r.count, sizeof(T));
    const int64_t bytes = (height + width) * sizeof(int2);
    const bool spill = bytes > kSharedBytes;
    Tensor memory;
    if (spill) memory = make(out, {r.count * plan.grid.y * bytes}, ScalarType::Byte, false);
    int2* workspace = spill ? static_cast<int2*>(memory.mutable_data_ptr()) : nullptr;
    MR_FORWARD(plan, MR_LAUNCH((pool_kernel<T, V, kPixels>), plan.grid, plan.block, spill ? 0 : bytes, stream, maps, r,
                               s, o, workspace));
  });
  return {out, arg};
}

std::vector<Tensor> roi_pool_backward(Tensor grad, Tensor argmax, Tensor rois, std::optional<Tensor> levels,
                                      std::vector<double> scales, std::vector<int64_t> sizes,
                                      std::vector<int64_t> channels_last, int64_t rounding, int64_t bins,
                                      bool /*deterministic*/) {
  const char* name = "roi_pool_backward";
  const DeviceGuard guard(grad.get_device_index());
  const Backward b = begin_backward(name, grad, argmax, rois, levels, scales, sizes, channels_last);
  const PoolShape s = make_shape(name, grad.size(2), grad.size(3), rounding, bins);
  if (b.empty) return b.maps;
  MR_LAUNCH(pool_boxes_kernel, dim3(blocks(b.rois.count, 256)), dim3(256), 0, b.stream, b.levels, b.rois, s,
            b.roi_boxes());
  MR_DISPATCH(grad.scalar_type(), name, { launch_scatter<T>(b, PoolScatter{s}, s.bins_y, s.bins_x); });
  return b.maps;
}

}  // namespace
}  // namespace mrcnn

MR_REGISTER {
  m.impl("roi_pool", TORCH_BOX(&mrcnn::roi_pool));
  m.impl("roi_pool_backward", TORCH_BOX(&mrcnn::roi_pool_backward));
}
