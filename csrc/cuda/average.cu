// Forward of the operators whose bins are weighted sums of cells: RoIAlign, RoIWarp (averaging a grid of
// samples), the legacy RoIAlign and PrRoI pooling.  They differ in the taps of an axis alone.
//
// A block first makes its RoI's taps: for each bin of each axis the list of (cell, weight), samples that share a
// cell merged.  A bin is then sum_ij wy[i] wx[j] f[i, j]: the geometry is computed once a RoI, not once a
// channel, and a 2 x 2 grid of samples costs about 9 reads instead of 16.  Taps lie in shared memory, or, for maps
// of thousands of cells a side, in a workspace in global memory that each block fills for itself.
#include "forward.cuh"
#include "geometry.cuh"

namespace mrcnn {
namespace {

template <class A>
struct Tap {
  int cell;
  A weight;
};

// How a table of taps is laid out: begin[bins], end[bins], then the taps of y and those of x.
struct TableShape {
  int slot_y, slot_x;          // taps a bin at most, each bin in its slot; 0: packed by a count and a scan
  int capacity_y, capacity_x;  // taps an axis at most
  int64_t head, bytes;
};

// Merges repeated cells: samples come in order, so a repeated cell is one of the last two.
template <class A>
struct TapWriter {
  Tap<A>* out;  // null: only count
  int capacity, n = 0, last = -1, before = -1;

  __device__ __forceinline__ void tap(int cell, A weight) {
    if (weight == A(0)) return;
    if (cell == last) {
      if (out) out[n - 1].weight += weight;
    } else if (cell == before) {
      if (out) out[n - 2].weight += weight;
    } else if (n < capacity) {
      if (out) out[n] = {cell, weight};
      ++n;
      before = last;
      last = cell;
    }
  }
};

template <class A>
MR_DEVICE int fill_bin(Tap<A>* out, int capacity, const RoiList& rois, int64_t k, bool vertical, int p, double scale,
                       const Sampling& s, int length) {
  TapWriter<A> writer{out, capacity};
  const auto tap = [&](int64_t cell, auto weight) { writer.tap(static_cast<int>(cell), static_cast<A>(weight)); };
  if (rois.wide) {
    bin_taps(axis_of<double>(rois, k, vertical, scale, s), p, s.geometry, length, 0, length, tap);
  } else {
    bin_taps(axis_of<float>(rois, k, vertical, scale, s), p, s.geometry, length, 0, length, tap);
  }
  return writer.n;
}

// Makes the table of RoI k with all threads of the block.
template <class A>
MR_DEVICE void fill_table(unsigned char* table, const TableShape& shape, const RoiList& rois, int64_t k, double scale,
                          const Sampling& s, int height, int width) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  const int bins = s.bins_y + s.bins_x;
  int* begin = reinterpret_cast<int*>(table);
  int* end = begin + bins;
  Tap<A>* taps = reinterpret_cast<Tap<A>*>(table + shape.head);
  const bool packed = shape.slot_y == 0;
  if (packed) {
    for (int b = thread; b < bins; b += threads) {
      const bool vertical = b < s.bins_y;
      end[b] = fill_bin<A>(nullptr, vertical ? height : width, rois, k, vertical, vertical ? b : b - s.bins_y, scale, s,
                           vertical ? height : width);
    }
    __syncthreads();
    if (thread < 2) {
      int at = thread == 0 ? 0 : shape.capacity_y;
      for (int b = thread == 0 ? 0 : s.bins_y; b < (thread == 0 ? s.bins_y : bins); ++b) {
        begin[b] = at;
        at += end[b];
      }
    }
    __syncthreads();
  }
  for (int b = thread; b < bins; b += threads) {
    const bool vertical = b < s.bins_y;
    const int p = vertical ? b : b - s.bins_y;
    const int limit = vertical ? shape.capacity_y : shape.capacity_y + shape.capacity_x;
    const int first = packed ? begin[b] : vertical ? p * shape.slot_y : shape.capacity_y + p * shape.slot_x;
    const int n = fill_bin<A>(taps + first, at_least(limit - first, 0), rois, k, vertical, p, scale, s,
                              vertical ? height : width);
    begin[b] = first;
    end[b] = first + n;
  }
  __syncthreads();
}

template <class T, int V, bool kPixels>
__global__ void __launch_bounds__(256, 4)
    average_kernel(const __grid_constant__ Levels levels, const RoiList rois, const Sampling s, const TableShape shape,
                   const Output out, unsigned char* workspace) {
  using A = Acc<T>;
  MR_DYNAMIC_SHARED(shared);
  const int64_t k = blockIdx.x;
  int which, image;
  if (!locate(rois, k, levels, &which, &image)) {
    zero_roi<T, V, kPixels>(out, k);
    return;
  }
  const Level& level = levels.at[which];
  unsigned char* table = workspace ? workspace + (k * gridDim.y + blockIdx.y) * shape.bytes : shared;
  fill_table<A>(table, shape, rois, k, levels.scale[which], s, level.height, level.width);
  const int* begin = reinterpret_cast<const int*>(table);
  const int* end = begin + s.bins_y + s.bins_x;
  const Tap<A>* taps = reinterpret_cast<const Tap<A>*>(table + shape.head);
  const T* src = static_cast<const T*>(level.data) + image * level.image;
  const int64_t row = level.row, pixel = level.pixel;
  share_out<V, kPixels>(out, [&](int bin, int64_t c) {
    const int p = bin / s.bins_x, q = s.bins_y + bin - p * s.bins_x;
    const int j0 = begin[q], j1 = end[q], i1 = end[p];
    const T* plane = src + c * level.channel;
    A sum[V] = {};
    for (int i = begin[p]; i < i1; ++i) {
      const Tap<A> y = taps[i];
      const T* line = plane + y.cell * row;
#pragma unroll 4
      for (int j = j0; j < j1; ++j) {
        const Tap<A> x = taps[j];
        const A weight = y.weight * x.weight;
        A value[V];
        load<T, V>(line + x.cell * pixel, value);
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] = fused(weight, value[v], sum[v]);
      }
    }
    store<T, V>(static_cast<T*>(out.data) + k * out.roi + bin * out.bin_stride + c * out.channel_stride, sum);
  });
}

// Upper bounds of the taps: a fixed ratio has 2 a sample; an adaptive grid and the integral touch each cell of
// the map in few bins, since bins do not overlap by more than their rims.
TableShape table_shape(const Levels& levels, const Sampling& s, int64_t size) {
  int64_t height = 0, width = 0;
  for (int i = 0; i < levels.count; ++i) {
    height = std::max<int64_t>(height, levels.at[i].height);
    width = std::max<int64_t>(width, levels.at[i].width);
  }
  TableShape t{};
  if (s.geometry == kLegacy) {
    t.slot_y = t.slot_x = 2;
  } else if (s.geometry != kPrecise && s.ratio > 0) {
    t.slot_y = static_cast<int>(2 * std::min<int64_t>(s.ratio, height));
    t.slot_x = static_cast<int>(2 * std::min<int64_t>(s.ratio, width));
  }
  t.capacity_y = static_cast<int>(t.slot_y ? int64_t(t.slot_y) * s.bins_y : height + 4 * s.bins_y + 32);
  t.capacity_x = static_cast<int>(t.slot_x ? int64_t(t.slot_x) * s.bins_x : width + 4 * s.bins_x + 32);
  t.head = (8 * (s.bins_y + s.bins_x) + 15) / 16 * 16;
  t.bytes = (t.head + size * (int64_t(t.capacity_y) + t.capacity_x) + 15) / 16 * 16;
  return t;
}

Tensor roi_average(std::vector<Tensor> features, Tensor rois, std::optional<Tensor> levels, std::vector<double> scales,
                   int64_t height, int64_t width, int64_t geometry, int64_t ratio, bool channels_last) {
  const char* name = "roi_average";
  const Levels maps = read_features(name, features, scales);
  Tensor keep;
  const RoiList r = read_rois(name, rois, levels, maps, features[0], &keep);
  check_bins(name, height, width);
  const Sampling s = make_sampling(name, maps, height, width, geometry, ratio);
  const DeviceGuard guard(features[0].get_device_index());
  const Tensor out =
      make(features[0], {r.count, maps.channels, height, width}, features[0].scalar_type(), channels_last);
  if (r.count == 0 || maps.channels == 0) return out;
  const cudaStream_t stream = current_stream(out);
  MR_DISPATCH(features[0].scalar_type(), name, {
    const Output o = make_output(out, nullptr, channels_last);
    const ForwardPlan plan = plan_forward(maps, o, r.count, sizeof(T));
    const TableShape shape = table_shape(maps, s, sizeof(Tap<Acc<T>>));
    const bool spill = shape.bytes > kSharedBytes;
    Tensor memory;
    if (spill) memory = make(out, {r.count * plan.grid.y * shape.bytes}, ScalarType::Byte, false);
    unsigned char* workspace = spill ? static_cast<unsigned char*>(memory.mutable_data_ptr()) : nullptr;
    MR_FORWARD(plan, MR_LAUNCH((average_kernel<T, V, kPixels>), plan.grid, plan.block, spill ? 0 : shape.bytes, stream,
                               maps, r, s, shape, o, workspace));
  });
  return out;
}

}  // namespace
}  // namespace mrcnn

MR_REGISTER { m.impl("roi_average", TORCH_BOX(&mrcnn::roi_average)); }
