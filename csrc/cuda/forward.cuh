// The forward pass of every operator: one block a RoI (several where RoIs are few), its threads share out the
// RoI's (bin, channel) pairs.
//
// channels_last in and out: neighbouring threads take neighbouring channels, 16 bytes each where the channel
// count and the alignment allow it, so every access of a warp is one coalesced run.  Any other layout:
// neighbouring threads take neighbouring bins of one channel; reads of a planar map then fall on a few rows of
// neighbouring cells, writes are coalesced.  Neither layout is converted.
#pragma once
#include "common.cuh"

namespace mrcnn {

// Where results go: element (bin, channel) of RoI k at k * roi + bin * bin_stride + channel * channel_stride.
struct Output {
  void* data;
  int32_t* arg;  // may be null
  int64_t roi, bin_stride, channel_stride;
  int64_t bins, channels;
};

template <int V>
MR_DEVICE void store_index(int32_t* p, const int* index) {
  constexpr int kEach = V < 4 ? V : 4;  // 16 bytes at a time
#pragma unroll
  for (int v = 0; v < V; v += kEach) {
    Pack<int32_t, kEach> pack;
#pragma unroll
    for (int i = 0; i < kEach; ++i) pack.lane[i] = index[v + i];
    *reinterpret_cast<Pack<int32_t, kEach>*>(p + v) = pack;
  }
}

template <int V, bool kPixels, class Body>
MR_DEVICE void share_out(const Output& out, const Body& body) {
  if constexpr (kPixels) {
    for (int64_t bin = blockIdx.y * blockDim.y + threadIdx.y; bin < out.bins; bin += gridDim.y * blockDim.y) {
      for (int64_t c = threadIdx.x * V; c < out.channels; c += blockDim.x * V) body(static_cast<int>(bin), c);
    }
  } else {
    const int64_t total = out.bins * out.channels, step = static_cast<int64_t>(gridDim.y) * blockDim.x;
    for (int64_t e = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x; e < total; e += step) {
      const int64_t c = e / out.bins;
      body(static_cast<int>(e - c * out.bins), c);
    }
  }
}

// A RoI that cannot be used gives 0.
template <class T, int V, bool kPixels>
MR_DEVICE void zero_roi(const Output& out, int64_t k) {
  share_out<V, kPixels>(out, [&](int bin, int64_t c) {
    const int64_t at = k * out.roi + bin * out.bin_stride + c * out.channel_stride;
    const Acc<T> zero[V] = {};
    store<T, V>(static_cast<T*>(out.data) + at, zero);
    if (out.arg) {
      for (int v = 0; v < V; ++v) out.arg[at + v] = -1;
    }
  });
}

struct ForwardPlan {
  dim3 grid, block;
  bool pixels, wide;  // wide: 16 bytes a thread
};

inline Output make_output(const Tensor& out, int32_t* arg, bool channels_last) {
  Output o{};
  o.data = out.mutable_data_ptr();
  o.arg = arg;
  o.channels = out.size(1);
  o.bins = out.size(2) * out.size(3);
  o.roi = o.channels * o.bins;
  o.bin_stride = channels_last ? o.channels : 1;
  o.channel_stride = channels_last ? 1 : o.bins;
  return o;
}

inline ForwardPlan plan_forward(const Levels& levels, const Output& out, int64_t rois, int64_t size) {
  const int64_t wide = 16 / size;
  ForwardPlan p{};
  p.pixels = out.channel_stride == 1;
  p.wide = reinterpret_cast<uintptr_t>(out.data) % 16 == 0 && reinterpret_cast<uintptr_t>(out.arg) % 16 == 0 &&
           out.channels % wide == 0;
  for (int i = 0; i < levels.count; ++i) {
    const Level& l = levels.at[i];
    p.pixels = p.pixels && (l.channel == 1 || levels.channels == 1);
    p.wide = p.wide && reinterpret_cast<uintptr_t>(l.data) % 16 == 0 && l.image % wide == 0 && l.row % wide == 0 &&
             l.pixel % wide == 0;
  }
  p.wide = p.wide && p.pixels;
  // Enough blocks for a large GPU (132 multiprocessors, 8 blocks each), and no more than there is work for.
  const int64_t wanted = std::max<int64_t>(1, (2 * 132 * 8) / std::max<int64_t>(rois, 1));
  int64_t most;
  if (p.pixels) {
    const int64_t vectors = p.wide ? out.channels / wide : out.channels;
    unsigned lanes = 1;
    while (lanes < vectors && lanes < 128) lanes *= 2;
    p.block = dim3(lanes, 256 / lanes);
    most = (out.bins + p.block.y - 1) / p.block.y;
  } else {
    p.block = dim3(256);
    most = (out.bins * out.channels + 255) / 256;
  }
  p.grid = dim3(static_cast<unsigned>(rois), static_cast<unsigned>(std::min<int64_t>({wanted, most, 65535})));
  return p;
}

// Runs the statement with constants V (elements a thread takes) and kPixels that fit the plan.
#define MR_FORWARD(PLAN, ...)                           \
  if ((PLAN).wide) {                                    \
    constexpr int V = 16 / static_cast<int>(sizeof(T)); \
    constexpr bool kPixels = true;                      \
    __VA_ARGS__;                                        \
  } else if ((PLAN).pixels) {                           \
    constexpr int V = 1;                                \
    constexpr bool kPixels = true;                      \
    __VA_ARGS__;                                        \
  } else {                                              \
    constexpr int V = 1;                                \
    constexpr bool kPixels = false;                     \
    __VA_ARGS__;                                        \
  }

}  // namespace mrcnn
