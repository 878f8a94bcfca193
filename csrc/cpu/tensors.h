// What the operators are given, taken apart: levels, RoIs, and the values that are checked before any work.
//
// Shapes, types and devices have been checked in Python (maskrcnn/layers/arguments.py); the checks here keep
// a direct call of torch.ops.maskrcnn.* from reading outside memory.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <vector>

#include "exact.h"
#include "vec.h"

namespace mrcnn {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// One feature level in either layout; strides in elements.
struct Level {
  int64_t height, width;
  bool pixels;  // the channels of a cell lie side by side; otherwise each channel's map is one contiguous plane
  int64_t image, channel, row, pixel;
  const void* data;
};

// The RoIs with what each belongs to; made once a call.
struct Rois {
  Tensor tensor;
  bool wide;  // float64 coordinates
  int64_t count;
  std::vector<int32_t> level, image;

  template <class T>
  const T* row(int64_t k) const {
    return static_cast<const T*>(tensor.const_data_ptr()) + 5 * k;
  }
};

struct Features {
  std::vector<Level> levels;
  std::vector<Tensor> keep;
  int64_t images = 0, channels = 0;
  ScalarType type = ScalarType::Float;
};

inline Level view_level(const Tensor& t) {
  Level l{};
  l.height = t.size(2);
  l.width = t.size(3);
  l.image = t.stride(0);
  l.channel = t.stride(1);
  l.row = t.stride(2);
  l.pixel = t.stride(3);
  l.pixels = t.size(1) > 1 && l.channel == 1;
  l.data = t.const_data_ptr();
  return l;
}

inline Features read_features(const char* name, const std::vector<Tensor>& levels) {
  STD_TORCH_CHECK(!levels.empty(), name, ": the list of feature levels is empty.");
  Features f;
  f.type = levels[0].scalar_type();
  f.images = levels[0].size(0);
  f.channels = levels[0].size(1);
  for (const Tensor& given : levels) {
    STD_TORCH_CHECK(given.dim() == 4 && given.size(0) == f.images && given.size(1) == f.channels &&
                        given.scalar_type() == f.type && given.is_cpu() && given.size(2) > 0 && given.size(3) > 0 &&
                        given.size(2) * given.size(3) < (int64_t(1) << 31),
                    name,
                    ": feature levels must be CPU tensors [N, C, H, W] of one batch size, channel count and type.");
    Level l = view_level(given);
    const bool planes = l.pixel == 1 && l.row == l.width;
    if (l.pixels || planes || f.images * f.channels == 0) {
      f.keep.push_back(given);
    } else {
      f.keep.push_back(torch::stable::contiguous(given));
      l = view_level(f.keep.back());
    }
    f.levels.push_back(l);
  }
  return f;
}

template <class T>
inline void check_values(const char* name, const Rois& r, int64_t images) {
  for (int64_t k = 0; k < r.count; ++k) {
    const T* roi = r.row<T>(k);
    STD_TORCH_CHECK(roi_is_finite(roi), name, ": RoI ", k, " holds a NaN or an infinite number.");
    STD_TORCH_CHECK(batch_index_is_good(roi[0], images), name, ": RoI ", k, " has batch index ",
                    static_cast<double>(roi[0]), ", but the input holds ", images, " image(s).");
  }
}

inline Rois read_rois(const char* name, const Tensor& rois, const std::optional<Tensor>& levels, int64_t level_count,
                      size_t scale_count, int64_t images) {
  const ScalarType type = rois.scalar_type();
  STD_TORCH_CHECK(rois.dim() == 2 && rois.size(1) == 5 && rois.is_cpu() &&
                      (type == ScalarType::Float || type == ScalarType::Double),
                  name, ": rois must be a float32 or float64 CPU tensor [K, 5].");
  STD_TORCH_CHECK(scale_count == static_cast<size_t>(level_count), name, ": one spatial scale a level is needed.");
  STD_TORCH_CHECK(levels.has_value() || level_count == 1, name, ": several feature levels need `levels`.");
  Rois r{
      rois.is_contiguous() ? rois : torch::stable::contiguous(rois), type == ScalarType::Double, rois.size(0), {}, {}};
  r.wide ? check_values<double>(name, r, images) : check_values<float>(name, r, images);
  r.level.assign(r.count, 0);
  r.image.resize(r.count);
  for (int64_t k = 0; k < r.count; ++k) {
    r.image[k] = static_cast<int32_t>(r.wide ? r.row<double>(k)[0] : r.row<float>(k)[0]);
  }
  if (levels.has_value()) {
    STD_TORCH_CHECK(levels->dim() == 1 && levels->size(0) == r.count && levels->is_cpu() &&
                        levels->scalar_type() == ScalarType::Long,
                    name, ": levels must be an int64 CPU tensor [K].");
    const int64_t* values = static_cast<const int64_t*>(levels->const_data_ptr());
    const int64_t stride = r.count ? levels->stride(0) : 1;
    for (int64_t k = 0; k < r.count; ++k) {
      const int64_t level = values[k * stride];
      STD_TORCH_CHECK(level >= 0 && level < level_count, name, ": RoI ", k, " asks for level ", level,
                      ", but there are ", level_count, " level(s).");
      r.level[k] = static_cast<int32_t>(level);
    }
  }
  return r;
}

inline void check_bins(const char* name, int64_t height, int64_t width) {
  STD_TORCH_CHECK(height > 0 && width > 0 && height < (1 << 15) && width < (1 << 15), name,
                  ": the output size must be positive and below 32768 a side.");
}

inline Tensor make(const Tensor& like, const std::vector<int64_t>& size, ScalarType type, bool channels_last) {
  return torch::stable::empty(size, type, std::nullopt, torch::stable::Device(torch::headeronly::DeviceType::CPU),
                              std::nullopt, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

// A gradient or argmax [K, C, P, Q] in either layout.
struct Pooled {
  Tensor keep;
  bool pixels;
};

inline Pooled read_pooled(const char* name, const Tensor& t, int64_t count, int64_t channels) {
  STD_TORCH_CHECK(t.dim() == 4 && t.size(0) == count && t.size(1) == channels && t.is_cpu(), name,
                  ": the gradient must be a CPU tensor [K, C, P, Q].");
  if (t.is_contiguous() || t.numel() == 0) return {t, false};
  const int64_t c = t.size(1), q = t.size(3), p = t.size(2);
  const bool pixels = t.stride(1) == 1 && t.stride(3) == c && t.stride(2) == c * q && t.stride(0) == c * q * p;
  return {pixels ? t : torch::stable::contiguous(t), pixels};
}

// Gradients [N, C, Hl, Wl] of the levels, uninitialised; sizes = N, C, H0, W0, H1, W1, ...
inline Features make_gradients(const char* name, const Tensor& grad, const std::vector<int64_t>& sizes,
                               const std::vector<int64_t>& channels_last) {
  STD_TORCH_CHECK(sizes.size() == 2 + 2 * channels_last.size() && !channels_last.empty(), name,
                  ": sizes must be N, C and two numbers a level.");
  Features f;
  f.type = grad.scalar_type();
  f.images = sizes[0];
  f.channels = sizes[1];
  for (size_t l = 0; l < channels_last.size(); ++l) {
    const int64_t h = sizes[2 + 2 * l], w = sizes[3 + 2 * l];
    STD_TORCH_CHECK(f.images >= 0 && f.channels >= 0 && h > 0 && w > 0, name, ": sizes must be positive.");
    f.keep.push_back(make(grad, {f.images, f.channels, h, w}, f.type, channels_last[l] != 0));
    f.levels.push_back(view_level(f.keep.back()));
  }
  return f;
}

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
      using T = ::mrcnn::Half;                                                                   \
      __VA_ARGS__;                                                                               \
      break;                                                                                     \
    }                                                                                            \
    case ScalarType::BFloat16: {                                                                 \
      using T = ::mrcnn::BFloat16;                                                               \
      __VA_ARGS__;                                                                               \
      break;                                                                                     \
    }                                                                                            \
    default:                                                                                     \
      STD_TORCH_CHECK(false, NAME, ": features must be float16, bfloat16, float32 or float64."); \
  }

}  // namespace mrcnn
