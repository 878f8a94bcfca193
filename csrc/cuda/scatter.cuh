// The backward pass of the operators that choose for every channel which cell gets the gradient (maxima), or
// whose samples lie anywhere in a bin.
//
// See tiles.cuh for who writes what.  Here the sums of a tile of 8 x 8 cells lie in shared memory, one column a
// thread, and thread = channel: it alone adds to its column, RoI by RoI, bin by bin, sample by sample, so the
// order is fixed without any synchronisation.  Reads of gradient and argmax are coalesced over channels.  Bins
// that cannot touch the tile are skipped through bit masks made by the whole block for a batch of RoIs.
//
// Op provides
//   kBlocks: blocks a multiprocessor that registers must allow
//   void bin_reach(const RoiList&, int64_t k, bool vertical, double scale, int p, int length, int* low, int* high)
//     cells that bin p can touch along an axis;
//   State begin(const RoiList&, int64_t k, double scale)
//     what add() needs to know of a RoI
//   void add(const Cells<T>&, const State&, int64_t k, int p, int q, const T* grad, const int32_t* arg)
//     adds one bin of one channel to the tile
#pragma once
#include "tiles.cuh"

namespace mrcnn {

constexpr int kSide = 8;          // of a tile
constexpr int kScatterBatch = 8;  // RoIs whose masks are in shared memory at once

// A thread's column of the tile.
template <class T>
struct Cells {
  Acc<T>* sums;  // cell i at sums[i * stride]
  int stride, y0, x0, height, width;

  __device__ __forceinline__ void add(int64_t y, int64_t x, Acc<T> value) const {
    const unsigned i = static_cast<unsigned>(y - y0), j = static_cast<unsigned>(x - x0);
    if (i < kSide && j < kSide) sums[(i * kSide + j) * stride] += value;
  }
};

template <class T, class Op>
__global__ void __launch_bounds__(128, Op::kBlocks)
    scatter_kernel(const __grid_constant__ Tiles tiles, const __grid_constant__ Levels maps, const RoiList rois,
                   const RoiBoxes boxes, const T* grad, const int32_t* arg, const Op op, int bins_y, int bins_x) {
  using A = Acc<T>;
  __shared__ TileList list;
  __shared__ unsigned row_bins[kScatterBatch], column_bins[kScatterBatch];
  MR_DYNAMIC_SHARED(shared);
  A* sums = reinterpret_cast<A*>(shared);  // [kSide * kSide][threads + 1]
  const int thread = threadIdx.x, threads = blockDim.x, stride = threads + 1;
  const Tile tile = find_tile(tiles, maps.images, kSide, kSide, blockIdx.x);
  const Level& level = maps.at[tile.level];
  const double scale = maps.scale[tile.level];
  const int64_t channels = maps.channels, bins = static_cast<int64_t>(bins_y) * bins_x;
  const int64_t first_channel = static_cast<int64_t>(blockIdx.y) * threads, c = first_channel + thread;
  const Cells<T> cells{sums + thread, stride, tile.y0, tile.x0, level.height, level.width};
  for (int i = 0; i < kSide * kSide; ++i) cells.sums[i * stride] = A(0);

  const Span span = boxes.of(tile.map);
  for (int64_t next = span.first; next < span.end;) {
    const int found = collect(boxes, span.end, tile, kSide, kSide, &list, &next);
    for (int at = 0; at < found; at += kScatterBatch) {
      const int n = at_most(found - at, kScatterBatch);
      for (int p0 = 0; p0 < bins_y; p0 += 32) {
        for (int q0 = 0; q0 < bins_x; q0 += 32) {
          const int cy = at_most(bins_y - p0, 32), cx = at_most(bins_x - q0, 32);
          __syncthreads();
          for (int i = thread; i < kScatterBatch; i += threads) row_bins[i] = column_bins[i] = 0;
          __syncthreads();
          for (int i = thread; i < n * (cy + cx); i += threads) {
            const int r = i / (cy + cx), b = i - r * (cy + cx);
            const bool vertical = b < cy;
            const int bin = vertical ? b : b - cy, edge = vertical ? tile.y0 : tile.x0;
            int low, high;
            op.bin_reach(rois, list.roi[at + r], vertical, scale, vertical ? p0 + bin : q0 + bin,
                         vertical ? level.height : level.width, &low, &high);
            if (low < edge + kSide && high > edge) atomicOr(vertical ? &row_bins[r] : &column_bins[r], 1u << bin);
          }
          __syncthreads();
          if (c >= channels) continue;
          for (int r = 0; r < n; ++r) {
            const int64_t k = list.roi[at + r];
            const auto state = op.begin(rois, k, scale);
            for (unsigned rows = row_bins[r]; rows; rows &= rows - 1) {
              const int p = p0 + __ffs(rows) - 1;
              for (unsigned columns = column_bins[r]; columns; columns &= columns - 1) {
                const int q = q0 + __ffs(columns) - 1;
                const int64_t from = (k * bins + static_cast<int64_t>(p) * bins_x + q) * channels + c;
                op.add(cells, state, k, p, q, grad + from, arg + from);
              }
            }
          }
        }
      }
    }
  }

  T* out = static_cast<T*>(const_cast<void*>(level.data)) + tile.image * level.image;
  __syncthreads();
  const int64_t left = channels - first_channel;
  const int wide = static_cast<int>(at_most<int64_t>(threads, left));
  for (int i = thread; i < wide * kSide * kSide; i += threads) {
    // Neighbouring threads take what lies side by side in the map.
    const bool pixels = level.channel == 1;
    const int cell = pixels ? i / wide : i % (kSide * kSide), l = pixels ? i % wide : i / (kSide * kSide);
    const int y = tile.y0 + cell / kSide, x = tile.x0 + cell % kSide;
    if (y < level.height && x < level.width) {
      out[(first_channel + l) * level.channel + y * level.row + x * level.pixel] = narrow<T>(sums[cell * stride + l]);
    }
  }
}

template <class T, class Op>
void launch_scatter(const Backward& b, const Op& op, int bins_y, int bins_x) {
  constexpr int64_t kMost = std::is_same_v<T, double> ? 64 : 128;  // 33 KB of sums
  const unsigned threads = static_cast<unsigned>(std::min<int64_t>(kMost, (b.levels.channels + 31) / 32 * 32));
  for (const bool pixels : {true, false}) {
    const Tiles tiles = make_tiles(b.levels, pixels, kSide, kSide);
    if (tiles.count == 0) continue;
    MR_LAUNCH((scatter_kernel<T, Op>),
              dim3(static_cast<unsigned>(tiles.first[tiles.count]), blocks(b.levels.channels, threads)), dim3(threads),
              sizeof(Acc<T>) * kSide * kSide * (threads + 1), b.stream, tiles, b.levels, b.rois, b.roi_boxes(),
              static_cast<const T*>(b.grad.const_data_ptr()), static_cast<const int32_t*>(b.arg.const_data_ptr()), op,
              bins_y, bins_x);
  }
}

}  // namespace mrcnn
