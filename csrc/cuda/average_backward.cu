// Gradient of the operators whose bins are weighted sums of cells, for the features.
//
// See tiles.cuh for who writes what.  A thread owns V channels of TW neighbouring cells of one row of its tile, in
// registers.  For a batch of RoIs at a time the block first works out, in shared memory, how much each bin weighs
// each row and each column of the tile (wy, wx: geometry once a RoI and tile) and which bins weigh a row at all
// (bit masks).  Then, for each bin column q of a RoI,
//   t = sum_p wy[p] grad[p, q],   acc[j] += wx[q, j] t,
// so a bin is read once for TW cells.  Bins are taken 32 a side at a time.
//
// V x TW: 16 bytes of channels where the gradient is in pixel layout; for planar maps 2 channels of 16 cells,
// which are turned around in shared memory so that whole sectors are written.
#include "boxes.cuh"

namespace mrcnn {
namespace {

constexpr int kRows = 8;    // of a tile
constexpr int kBatch = 16;  // RoIs whose weights are in shared memory at once, at most

struct SpreadShape {
  Sampling s;
  int chunk_y, chunk_x, batch;  // bins a side and RoIs at a time
};

// weights[0 .. cells) of the cells from `low` on in bin p of one axis.
template <class A>
MR_DEVICE void weigh_bin(A* weights, int cells, int low, const RoiList& rois, int64_t k, bool vertical, int p,
                         double scale, const Sampling& s, int length) {
  for (int i = 0; i < cells; ++i) weights[i] = A(0);
  const auto tap = [&](int64_t cell, auto weight) {
    const int64_t i = cell - low;
    if (i >= 0 && i < cells) weights[i] += static_cast<A>(weight);
  };
  if (rois.wide) {
    bin_taps(axis_of<double>(rois, k, vertical, scale, s), p, s.geometry, length, low, low + cells, tap);
  } else {
    bin_taps(axis_of<float>(rois, k, vertical, scale, s), p, s.geometry, length, low, low + cells, tap);
  }
}

template <class T, int V, int TW>
__global__ void __launch_bounds__(256, 2)
    spread_kernel(const __grid_constant__ Tiles tiles, const __grid_constant__ Levels maps, const RoiList rois,
                  const RoiBoxes boxes, const T* grad, const SpreadShape shape) {
  using A = Acc<T>;
  __shared__ TileList list;
  __shared__ unsigned row_bins[kBatch][kRows], column_bins[kBatch];
  MR_DYNAMIC_SHARED(shared);
  const int lane = threadIdx.x, row = threadIdx.y, lanes = blockDim.x;
  const int thread = row * lanes + lane, threads = lanes * kRows;
  const Sampling& s = shape.s;
  A* wy = reinterpret_cast<A*>(shared);                                    // [batch][chunk_y][kRows]
  A* wx = wy + static_cast<int64_t>(shape.batch) * shape.chunk_y * kRows;  // [batch][chunk_x][TW]

  const Tile tile = find_tile(tiles, maps.images, kRows, TW, blockIdx.x);
  const Level& level = maps.at[tile.level];
  const double scale = maps.scale[tile.level];
  const int64_t channels = maps.channels, bins = static_cast<int64_t>(s.bins_y) * s.bins_x;
  const int64_t first_channel = static_cast<int64_t>(blockIdx.y) * lanes * V;
  const int64_t c = first_channel + lane * V;
  const bool active = c < channels;
  A acc[TW][V] = {};

  const Span span = boxes.of(tile.map);
  for (int64_t next = span.first; next < span.end;) {
    const int found = collect(boxes, span.end, tile, kRows, TW, &list, &next);
    for (int at = 0; at < found; at += shape.batch) {
      const int n = at_most(found - at, shape.batch);
      for (int p0 = 0; p0 < s.bins_y; p0 += shape.chunk_y) {
        for (int q0 = 0; q0 < s.bins_x; q0 += shape.chunk_x) {
          const int cy = at_most(s.bins_y - p0, shape.chunk_y), cx = at_most(s.bins_x - q0, shape.chunk_x);
          __syncthreads();  // the weights of the last round have been used
          for (int i = thread; i < n * (kRows + 1); i += threads) {
            const int r = i / (kRows + 1), j = i - r * (kRows + 1);
            *(j < kRows ? &row_bins[r][j] : &column_bins[r]) = 0;
          }
          __syncthreads();
          for (int i = thread; i < n * (cy + cx); i += threads) {
            const int r = i / (cy + cx), b = i - r * (cy + cx);
            const bool vertical = b < cy;
            const int bin = vertical ? b : b - cy;
            A* weights = vertical ? wy + (r * shape.chunk_y + bin) * kRows : wx + (r * shape.chunk_x + bin) * TW;
            const int cells = vertical ? kRows : TW;
            weigh_bin(weights, cells, vertical ? tile.y0 : tile.x0, rois, list.roi[at + r], vertical,
                      vertical ? p0 + bin : q0 + bin, scale, s, vertical ? level.height : level.width);
            for (int j = 0; j < cells; ++j) {
              if (weights[j] != A(0)) atomicOr(vertical ? &row_bins[r][j] : &column_bins[r], 1u << bin);
            }
          }
          __syncthreads();
          if (!active) continue;
          for (int r = 0; r < n; ++r) {
            const unsigned mine = row_bins[r][row];
            unsigned columns = column_bins[r];
            if (mine == 0 || columns == 0) continue;
            const int low = __ffs(mine) - 1, high = 32 - __clz(mine);
            const T* g = grad + (list.roi[at + r] * bins + int64_t(p0) * s.bins_x + q0) * channels + c;
            const A* rows = wy + r * shape.chunk_y * kRows + row;
            for (; columns; columns &= columns - 1) {
              const int q = __ffs(columns) - 1;
              A sum[V] = {};
#pragma unroll 2
              for (int p = low; p < high; ++p) {
                A value[V];
                load<T, V>(g + (static_cast<int64_t>(p) * s.bins_x + q) * channels, value);
                const A weight = rows[p * kRows];
#pragma unroll
                for (int v = 0; v < V; ++v) sum[v] = fused(weight, value[v], sum[v]);
              }
              const A* weights = wx + (r * shape.chunk_x + q) * TW;
#pragma unroll
              for (int j = 0; j < TW; ++j) {
                const A weight = weights[j];
#pragma unroll
                for (int v = 0; v < V; ++v) acc[j][v] = fused(weight, sum[v], acc[j][v]);
              }
            }
          }
        }
      }
    }
  }

  T* out = static_cast<T*>(const_cast<void*>(level.data)) + tile.image * level.image;
  if (level.channel == 1) {
    const int y = tile.y0 + row;
#pragma unroll
    for (int j = 0; j < TW; ++j) {
      const int x = tile.x0 + j;
      if (active && y < level.height && x < level.width) store<T, V>(out + y * level.row + x * level.pixel + c, acc[j]);
    }
    return;
  }
  constexpr int kCells = kRows * TW;
  A* turned = reinterpret_cast<A*>(shared);  // [lanes][kCells + 1]
#pragma unroll
  for (int v = 0; v < V; ++v) {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < TW; ++j) turned[lane * (kCells + 1) + row * TW + j] = acc[j][v];
    __syncthreads();
    for (int i = thread; i < lanes * kCells; i += threads) {
      const int l = i / kCells, cell = i - l * kCells;
      const int64_t channel = first_channel + l * V + v;
      const int y = tile.y0 + cell / TW, x = tile.x0 + cell % TW;
      if (channel < channels && y < level.height && x < level.width) {
        out[channel * level.channel + y * level.row + x * level.pixel] = narrow<T>(turned[l * (kCells + 1) + cell]);
      }
    }
  }
}

template <class T, int V, int TW>
void launch_spread(const Backward& b, SpreadShape shape, bool pixels) {
  using A = Acc<T>;
  const Tiles tiles = make_tiles(b.levels, pixels, kRows, TW);
  if (tiles.count == 0) return;
  unsigned lanes = 1;
  while (lanes < 32 && lanes * V < b.levels.channels) lanes *= 2;
  // As many RoIs as give each thread a bin to weigh, within a share of the shared memory.
  const int64_t each = (int64_t(shape.chunk_y) * kRows + int64_t(shape.chunk_x) * TW) * sizeof(A);
  const int64_t busy = lanes * kRows / (shape.chunk_y + shape.chunk_x);
  shape.batch = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({busy, kBatch, (16 << 10) / each})));
  int64_t bytes = each * shape.batch;
  if (!pixels) bytes = std::max<int64_t>(bytes, sizeof(A) * lanes * (kRows * TW + 1));
  MR_LAUNCH((spread_kernel<T, V, TW>),
            dim3(static_cast<unsigned>(tiles.first[tiles.count]), blocks(b.levels.channels, lanes * V)),
            dim3(lanes, kRows), bytes, b.stream, tiles, b.levels, b.rois, b.roi_boxes(),
            static_cast<const T*>(b.grad.const_data_ptr()), shape);
}

template <class T>
bool aligned(const Backward& b, int64_t lanes) {
  bool good =
      b.levels.channels % lanes == 0 && reinterpret_cast<uintptr_t>(b.grad.const_data_ptr()) % (lanes * sizeof(T)) == 0;
  for (int i = 0; i < b.levels.count; ++i) {
    good = good && reinterpret_cast<uintptr_t>(b.levels.at[i].data) % (lanes * sizeof(T)) == 0;
  }
  return good;
}

std::vector<Tensor> roi_average_backward(Tensor grad, Tensor rois, std::optional<Tensor> levels,
                                         std::vector<double> scales, std::vector<int64_t> sizes,
                                         std::vector<int64_t> channels_last, int64_t geometry, int64_t ratio,
                                         bool /*deterministic*/) {
  const char* name = "roi_average_backward";
  const DeviceGuard guard(grad.get_device_index());
  const Backward b = begin_backward(name, grad, std::nullopt, rois, levels, scales, sizes, channels_last);
  const Sampling s = make_sampling(name, b.levels, grad.size(2), grad.size(3), geometry, ratio);
  if (b.empty) return b.maps;
  write_boxes(b, s);
  const SpreadShape shape{s, std::min(s.bins_y, 32), std::min(s.bins_x, 32), 1};
  MR_DISPATCH(grad.scalar_type(), name, {
    constexpr int kWide = 16 / static_cast<int>(sizeof(T));
    if (aligned<T>(b, kWide)) {
      launch_spread<T, kWide, (sizeof(T) == 2 ? 4 : 8)>(b, shape, true);
    } else {
      launch_spread<T, 1, 16>(b, shape, true);
    }
    if (aligned<T>(b, 2)) {
      launch_spread<T, 2, (sizeof(T) == 8 ? 8 : 16)>(b, shape, false);
    } else {
      launch_spread<T, 1, 16>(b, shape, false);
    }
  });
  return b.maps;
}

}  // namespace
}  // namespace mrcnn

MR_REGISTER { m.impl("roi_average_backward", TORCH_BOX(&mrcnn::roi_average_backward)); }
