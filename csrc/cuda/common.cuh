// What every CUDA operator shares: tensors taken apart, checks, types, and launches on the current stream.
//
// Nothing here waits for the GPU.  Shapes are known on the host; values (a batch index, a NaN) are not looked at
// until a kernel does, where a bad RoI gives 0 and no gradient.
//
// Memory layouts: "pixels" means that the channels of a cell (or of a bin) lie side by side (channels_last),
// "planar" that each channel is a plane.  Maps are read and written in either through their strides.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "exact.h"

#define MR_DEVICE static __device__ __forceinline__

// Launches and everything else that a stand-in for the CUDA runtime (tests/layers/emulation) has to replace.
#ifndef MR_LAUNCH
#define MR_LAUNCH(KERNEL, GRID, BLOCK, SHARED, STREAM, ...) \
  do {                                                      \
    (KERNEL)<<<GRID, BLOCK, SHARED, STREAM>>>(__VA_ARGS__); \
    STD_CUDA_KERNEL_LAUNCH_CHECK();                         \
  } while (0)
#define MR_DYNAMIC_SHARED(NAME) extern __shared__ __align__(16) unsigned char NAME[]
#define MR_REGISTER STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CUDA, m)
#define MR_DEVICE_TYPE torch::headeronly::DeviceType::CUDA

namespace mrcnn {
using torch::stable::accelerator::DeviceGuard;

inline cudaStream_t stream_of(int32_t device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}
}  // namespace mrcnn
#endif

namespace mrcnn {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
using Acc = std::conditional_t<std::is_same_v<T, double>, double, float>;

MR_DEVICE float widen(float v) { return v; }
MR_DEVICE double widen(double v) { return v; }
MR_DEVICE float widen(__half v) { return __half2float(v); }
MR_DEVICE float widen(__nv_bfloat16 v) { return __bfloat162float(v); }

template <class T>
MR_DEVICE T narrow(Acc<T> v) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(v);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(v);
  } else {
    return v;
  }
}

// The most negative finite value of a storage type.
template <class T>
MR_DEVICE Acc<T> lowest() {
  if constexpr (std::is_same_v<T, double>) return -1.7976931348623157e308;
  if constexpr (std::is_same_v<T, float>) return -3.4028234663852886e38f;
  if constexpr (std::is_same_v<T, __half>) return -65504.0f;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return -3.3895313892515355e38f;
}

// Fused multiply-add, asked for by name (the build turns contraction off for the geometry).
MR_DEVICE float fused(float a, float b, float c) { return fmaf(a, b, c); }
MR_DEVICE double fused(double a, double b, double c) { return fma(a, b, c); }

// V neighbours in one access of sizeof(T) * V bytes.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T lane[V];
};

template <class T, int V>
MR_DEVICE void load(const T* p, Acc<T>* out) {
  const Pack<T, V> pack = *reinterpret_cast<const Pack<T, V>*>(p);
#pragma unroll
  for (int v = 0; v < V; ++v) out[v] = widen(pack.lane[v]);
}

template <class T, int V>
MR_DEVICE void store(T* p, const Acc<T>* values) {
  Pack<T, V> pack;
#pragma unroll
  for (int v = 0; v < V; ++v) pack.lane[v] = narrow<T>(values[v]);
  *reinterpret_cast<Pack<T, V>*>(p) = pack;
}

constexpr int kMaxLevels = 16;

// Shared memory a block may ask for without further ado.
constexpr int64_t kSharedBytes = 48 << 10;

// One feature level; strides in elements.
struct Level {
  const void* data;
  int64_t image, channel, row, pixel;
  int height, width;
};

// All levels, small enough to be a kernel's argument.
struct Levels {
  Level at[kMaxLevels];
  double scale[kMaxLevels];
  int count;
  int64_t images, channels;
};

struct RoiList {
  const void* rows;       // [count, 5]
  const int64_t* levels;  // may be null: level 0
  int64_t level_stride, count;
  bool wide;  // float64 coordinates
};

// Which map a RoI reads; false if its row holds anything that cannot be used.
template <class G>
MR_DEVICE bool locate_as(const G* row, int64_t images, int* image) {
  if (!roi_is_finite(row) || !batch_index_is_good(row[0], images)) return false;
  *image = static_cast<int>(row[0]);
  return true;
}

MR_DEVICE bool locate(const RoiList& rois, int64_t k, const Levels& levels, int* level, int* image) {
  const int64_t l = rois.levels ? rois.levels[k * rois.level_stride] : 0;
  *level = static_cast<int>(l);
  if (l < 0 || l >= levels.count) return false;
  return rois.wide ? locate_as(static_cast<const double*>(rois.rows) + 5 * k, levels.images, image)
                   : locate_as(static_cast<const float*>(rois.rows) + 5 * k, levels.images, image);
}

// ---- host ----

inline bool on_device(const Tensor& t) { return t.device().type() == MR_DEVICE_TYPE; }

inline cudaStream_t current_stream(const Tensor& t) { return stream_of(t.get_device_index()); }

inline Tensor make(const Tensor& like, const std::vector<int64_t>& size, ScalarType type, bool channels_last) {
  return torch::stable::empty(size, type, std::nullopt, like.device(), std::nullopt,
                              channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

inline Level view_level(const Tensor& t) {
  return {t.const_data_ptr(),         t.stride(0), t.stride(1), t.stride(2), t.stride(3), static_cast<int>(t.size(2)),
          static_cast<int>(t.size(3))};
}

inline Levels read_features(const char* name, const std::vector<Tensor>& features, const std::vector<double>& scales) {
  STD_TORCH_CHECK(!features.empty() && features.size() <= kMaxLevels, name, ": between 1 and ", kMaxLevels,
                  " feature levels are needed.");
  STD_TORCH_CHECK(features.size() == scales.size(), name, ": one spatial scale a level is needed.");
  Levels l{};
  l.count = static_cast<int>(features.size());
  l.images = features[0].size(0);
  l.channels = features[0].size(1);
  for (int i = 0; i < l.count; ++i) {
    const Tensor& t = features[i];
    STD_TORCH_CHECK(t.dim() == 4 && t.size(0) == l.images && t.size(1) == l.channels && on_device(t) &&
                        t.scalar_type() == features[0].scalar_type() && t.device() == features[0].device() &&
                        t.size(2) > 0 && t.size(3) > 0 && t.size(2) * t.size(3) < (int64_t(1) << 31),
                    name,
                    ": feature levels must be CUDA tensors [N, C, H, W] of one device, batch size, channel count "
                    "and type.");
    l.at[i] = view_level(t);
    l.scale[i] = scales[i];
  }
  return l;
}

// Uninitialised gradients of the levels; sizes = N, C, H0, W0, H1, W1, ...
inline Levels make_gradients(const char* name, const Tensor& grad, const std::vector<int64_t>& sizes,
                             const std::vector<int64_t>& channels_last, const std::vector<double>& scales,
                             std::vector<Tensor>* maps) {
  STD_TORCH_CHECK(sizes.size() == 2 + 2 * channels_last.size(), name, ": sizes must be N, C and two numbers a level.");
  for (size_t i = 0; i < channels_last.size(); ++i) {
    const std::vector<int64_t> size{sizes[0], sizes[1], sizes[2 + 2 * i], sizes[3 + 2 * i]};
    STD_TORCH_CHECK(size[0] >= 0 && size[1] >= 0 && size[2] > 0 && size[3] > 0, name, ": sizes must be positive.");
    maps->push_back(make(grad, size, grad.scalar_type(), channels_last[i] != 0));
  }
  return read_features(name, *maps, scales);
}

inline RoiList read_rois(const char* name, const Tensor& rois, const std::optional<Tensor>& levels, const Levels& maps,
                         const Tensor& like, Tensor* keep) {
  const ScalarType type = rois.scalar_type();
  STD_TORCH_CHECK(rois.dim() == 2 && rois.size(1) == 5 && rois.device() == like.device() &&
                      (type == ScalarType::Float || type == ScalarType::Double) && rois.size(0) < (int64_t(1) << 31),
                  name, ": rois must be a float32 or float64 tensor [K, 5] on the features' device.");
  STD_TORCH_CHECK(levels.has_value() || maps.count == 1, name, ": several feature levels need `levels`.");
  *keep = rois.is_contiguous() ? rois : torch::stable::contiguous(rois);
  RoiList r{keep->const_data_ptr(), nullptr, 1, rois.size(0), type == ScalarType::Double};
  if (levels.has_value()) {
    STD_TORCH_CHECK(levels->dim() == 1 && levels->size(0) == r.count && levels->device() == like.device() &&
                        levels->scalar_type() == ScalarType::Long,
                    name, ": levels must be an int64 tensor [K] on the features' device.");
    r.levels = static_cast<const int64_t*>(levels->const_data_ptr());
    r.level_stride = levels->stride(0);
  }
  return r;
}

inline void check_bins(const char* name, int64_t height, int64_t width) {
  STD_TORCH_CHECK(height > 0 && width > 0 && height < (1 << 15) && width < (1 << 15), name,
                  ": the output size must be positive and below 32768 a side.");
}

inline unsigned blocks(int64_t work, int64_t block) { return static_cast<unsigned>((work + block - 1) / block); }

#define MR_DISPATCH(TYPE, NAME, ...)                                                             \
  switch (TYPE) {                                                                                \
    case ScalarType::Float: {                                                                    \
      using T = float;                                                                           \
      __VA_ARGS__;                                                                               \
      break;                                                                                     \
    }                                                                                            \
    case ScalarType::Double: {                                                                   \
      using T = double;                                                                          \
      __VA_ARGS__;                                                                               \
      break;                                                                                     \
    }                                                                                            \
    case ScalarType::Half: {                                                                     \
      using T = __half;                                                                          \
      __VA_ARGS__;                                                                               \
      break;                                                                                     \
    }                                                                                            \
    case ScalarType::BFloat16: {                                                                 \
      using T = __nv_bfloat16;                                                                   \
      __VA_ARGS__;                                                                               \
      break;                                                                                     \
    }                                                                                            \
    default:                                                                                     \
      STD_TORCH_CHECK(false, NAME, ": features must be float16, bfloat16, float32 or float64."); \
  }

}  // namespace mrcnn
