// The backward pass of every operator: gradients are gathered, so no atomics, no races, and the same bits every
// run.
//
// A block owns a tile of cells of one map (a level of an image) and a block of channels, and nobody else writes
// there.  It goes through the RoIs in their order, adds those that touch the tile in registers or shared memory,
// and writes each cell once, zeros included: the gradient needs no clearing beforehand and is rounded to its
// storage type once.
//
// Which RoIs touch a tile: a first kernel writes the cells that each RoI can reach (RoiBox), and of each map the
// numbers of its first and last RoI; a block then tests all RoIs between these, one a thread, and compacts the hits
// in order by bit masks in shared memory.  Testing costs 20 bytes of cached reads a RoI and tile: for the 500 RoIs
// of an image two rounds of a block, less than building and reading back a list.  RoIs mostly come image by image.
//
// Gradients come in pixel layout (channels of a bin side by side); planar ones are transposed first, which is
// small work beside the maps.
#pragma once
#include "common.cuh"

namespace mrcnn {

// The cells of map (level * images + image) that a RoI can reach, half open; map -1: a RoI that cannot be used.
struct RoiBox {
  int map, y0, y1, x0, x1;
};

// The RoIs of a map: those from number `first` on, before number `end`; others may be among them.
struct Span {
  int64_t first, end;
};

// What a first kernel finds of all RoIs.
struct RoiBoxes {
  RoiBox* box;  // of each RoI
  // Of each map RoIs - (its first RoI), and its last RoI + 1: maxima, both 0 where it has none, as they begin.
  int* spans;
  int64_t count;

  __device__ __forceinline__ void put(int64_t k, const RoiBox& of_roi) const {
    box[k] = of_roi;
    if (of_roi.map < 0) return;
    atomicMax(&spans[2 * of_roi.map], static_cast<int>(count - k));
    atomicMax(&spans[2 * of_roi.map + 1], static_cast<int>(k + 1));
  }
  __device__ __forceinline__ Span of(int map) const { return {count - spans[2 * map], spans[2 * map + 1]}; }
};

// All tiles of the maps that a launch writes, numbered level by level, image by image, row by row.
struct Tiles {
  int count;  // levels
  int level[kMaxLevels];
  int across[kMaxLevels], down[kMaxLevels];
  int64_t first[kMaxLevels + 1];
};

// Cells [y0, y0 + rows) x [x0, x0 + columns) of a map; may reach beyond the map's last row and column.
struct Tile {
  int level, map, y0, x0;
  int64_t image;
};

MR_DEVICE Tile find_tile(const Tiles& tiles, int64_t images, int rows, int columns, int64_t index) {
  int l = 0;
  while (index >= tiles.first[l + 1]) ++l;
  index -= tiles.first[l];
  const int64_t each = static_cast<int64_t>(tiles.across[l]) * tiles.down[l];
  Tile t{};
  t.level = tiles.level[l];
  t.image = index / each;
  t.map = static_cast<int>(t.level * images + t.image);
  const int place = static_cast<int>(index - t.image * each);
  const int y = place / tiles.across[l];
  t.y0 = y * rows;
  t.x0 = (place - y * tiles.across[l]) * columns;
  return t;
}

constexpr int kListed = 512;

// RoIs found for a tile, and the masks for finding more; in shared memory.
struct TileList {
  int roi[kListed];
  unsigned mask[32];
};

// Lists the next RoIs that touch the tile, in order, starting with number *next; returns how many.  Called by
// all threads of the block (at most 256) until *next reaches `end`.
MR_DEVICE int collect(const RoiBoxes& boxes, int64_t end, const Tile& tile, int rows, int columns, TileList* list,
                      int64_t* next) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  const int word = thread >> 5;
  const unsigned bit = 1u << (thread & 31);
  int found = 0;
  __syncthreads();  // nobody reads the old list any more
  while (*next < end && found + threads <= kListed) {
    const int64_t k = *next + thread;
    if (thread < 32) list->mask[thread] = 0;
    bool hit = false;
    if (k < end) {
      const RoiBox box = boxes.box[k];
      hit = box.map == tile.map && box.y0 < tile.y0 + rows && box.y1 > tile.y0 && box.x0 < tile.x0 + columns &&
            box.x1 > tile.x0;
    }
    __syncthreads();
    if (hit) atomicOr(&list->mask[word], bit);
    __syncthreads();
    int before = __popc(list->mask[word] & (bit - 1)), total = 0;
    for (int w = 0; w * 32 < threads; ++w) {
      const int hits = __popc(list->mask[w]);
      total += hits;
      if (w < word) before += hits;
    }
    if (hit) list->roi[found + before] = static_cast<int>(k);
    found += total;
    *next += threads;
    __syncthreads();
  }
  return found;
}

// [K, C, B] -> [K, B, C], `kChannels` channels and at most kBins bins at a time.
template <class T, int kChannels, int kBins>
__global__ void __launch_bounds__(256) transpose_kernel(const T* from, T* to, int64_t channels, int64_t bins) {
  __shared__ T tile[kChannels][kBins + 1];
  const int64_t base = blockIdx.x * channels * bins, c0 = static_cast<int64_t>(blockIdx.y) * kChannels;
  const int n = static_cast<int>(at_most<int64_t>(kChannels, channels - c0));
  for (int64_t b0 = 0; b0 < bins; b0 += kBins) {
    const int m = static_cast<int>(at_most<int64_t>(kBins, bins - b0));
    for (int i = threadIdx.x; i < n * m; i += blockDim.x) {
      const int c = i / m, b = i - c * m;
      tile[c][b] = from[base + (c0 + c) * bins + b0 + b];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n * m; i += blockDim.x) {
      const int b = i / n, c = i - b * n;
      to[base + (b0 + b) * channels + c0 + c] = tile[c][b];
    }
    __syncthreads();
  }
}

// ---- host ----

// Of the maps those in pixel layout, or those that are not.
inline Tiles make_tiles(const Levels& maps, bool pixels, int rows, int columns) {
  Tiles t{};
  for (int i = maps.count - 1; i >= 0; --i) {  // coarse levels, where RoIs crowd, start first
    const Level& l = maps.at[i];
    if ((l.channel == 1) != pixels) continue;
    t.level[t.count] = i;
    t.across[t.count] = (l.width + columns - 1) / columns;
    t.down[t.count] = (l.height + rows - 1) / rows;
    t.first[t.count + 1] = t.first[t.count] + maps.images * t.across[t.count] * t.down[t.count];
    ++t.count;
  }
  return t;
}

// [K, C, P, Q] in any layout -> pixel layout, by one transposition if it has another.
inline Tensor as_pixels(const Tensor& t, cudaStream_t stream) {
  const int64_t k = t.size(0), c = t.size(1), p = t.size(2), q = t.size(3);
  const auto strided = [&](int dim, int64_t stride) { return t.size(dim) == 1 || t.stride(dim) == stride; };
  if (t.numel() == 0 || (strided(1, 1) && strided(3, c) && strided(2, c * q) && strided(0, c * q * p))) return t;
  const Tensor planar = t.is_contiguous() ? t : torch::stable::contiguous(t);
  const Tensor out = make(t, {k, p * q, c}, t.scalar_type(), false);
  const void* from = planar.const_data_ptr();
  void* to = out.mutable_data_ptr();
  const int64_t bins = p * q;
  if (t.element_size() == 8) {
    MR_LAUNCH((transpose_kernel<uint64_t, 32, 100>), dim3(k, blocks(c, 32)), dim3(256), 0, stream,
              static_cast<const uint64_t*>(from), static_cast<uint64_t*>(to), c, bins);
  } else if (t.element_size() == 4) {
    MR_LAUNCH((transpose_kernel<uint32_t, 64, 100>), dim3(k, blocks(c, 64)), dim3(256), 0, stream,
              static_cast<const uint32_t*>(from), static_cast<uint32_t*>(to), c, bins);
  } else {
    MR_LAUNCH((transpose_kernel<uint16_t, 64, 200>), dim3(k, blocks(c, 64)), dim3(256), 0, stream,
              static_cast<const uint16_t*>(from), static_cast<uint16_t*>(to), c, bins);
  }
  return out;
}

// What a backward operator was given, ready for the kernels; `empty` if nothing but zeros is to be written.
struct Backward {
  std::vector<Tensor> maps;
  Levels levels;
  RoiList rois;
  Tensor keep, grad, arg, boxes, spans;
  cudaStream_t stream;
  bool empty;

  RoiBoxes roi_boxes() const {
    return {static_cast<RoiBox*>(boxes.mutable_data_ptr()), static_cast<int*>(spans.mutable_data_ptr()), rois.count};
  }
};

inline void check_pooled(const char* name, const Tensor& t, int64_t count, const Levels& maps, const Tensor& like) {
  STD_TORCH_CHECK(t.dim() == 4 && t.size(0) == count && t.size(1) == maps.channels && t.device() == like.device() &&
                      t.size(2) == like.size(2) && t.size(3) == like.size(3),
                  name, ": the gradient must be a CUDA tensor [K, C, P, Q].");
}

inline Backward begin_backward(const char* name, const Tensor& grad, const std::optional<Tensor>& arg,
                               const Tensor& rois, const std::optional<Tensor>& levels,
                               const std::vector<double>& scales, const std::vector<int64_t>& sizes,
                               const std::vector<int64_t>& channels_last) {
  Backward b{};
  b.levels = make_gradients(name, grad, sizes, channels_last, scales, &b.maps);
  b.rois = read_rois(name, rois, levels, b.levels, grad, &b.keep);
  check_pooled(name, grad, b.rois.count, b.levels, grad);
  check_bins(name, grad.size(2), grad.size(3));
  b.stream = current_stream(grad);
  b.empty = b.rois.count == 0 || b.levels.channels == 0 || b.levels.images == 0;
  if (b.empty) {
    for (Tensor& map : b.maps) torch::stable::zero_(map);
    return b;
  }
  b.grad = as_pixels(grad, b.stream);
  if (arg.has_value()) {
    STD_TORCH_CHECK(arg->scalar_type() == ScalarType::Int, name, ": argmax must be int32.");
    check_pooled(name, *arg, b.rois.count, b.levels, grad);
    b.arg = as_pixels(*arg, b.stream);
  }
  b.boxes = make(grad, {b.rois.count, 5}, ScalarType::Int, false);
  b.spans = make(grad, {b.levels.count * b.levels.images, 2}, ScalarType::Int, false);
  torch::stable::zero_(b.spans);
  return b;
}

}  // namespace mrcnn
