// What NMS and matching are given, checked on the host for every device.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>

namespace mrcnn {

inline bool shaped(const torch::stable::Tensor& t, std::initializer_list<int64_t> shape) {
  if (t.dim() != static_cast<int64_t>(shape.size())) return false;
  int64_t dim = 0;
  for (const int64_t size : shape) {
    if (t.size(dim++) != size) return false;
  }
  return true;
}

inline void check_nms(const char* name, const torch::stable::Tensor& boxes, const torch::stable::Tensor& scores,
                      const torch::stable::Tensor& real, const std::optional<torch::stable::Tensor>& groups,
                      double iou_threshold, int64_t count) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(boxes.dim() == 3 && boxes.size(2) == 4 && boxes.size(1) < (int64_t(1) << 31), name,
                  ": boxes must be [B, M, 4].");
  const int64_t rows = boxes.size(0), places = boxes.size(1);
  STD_TORCH_CHECK(shaped(scores, {rows, places}) && scores.scalar_type() == boxes.scalar_type() &&
                      scores.device() == boxes.device(),
                  name, ": scores must be [B, M] of the boxes' type and device.");
  STD_TORCH_CHECK(
      shaped(real, {rows, places}) && real.scalar_type() == ScalarType::Bool && real.device() == boxes.device(), name,
      ": real must be bool [B, M] on the boxes' device.");
  STD_TORCH_CHECK(
      !groups.has_value() || (shaped(*groups, {rows, places}) && groups->scalar_type() == ScalarType::Long &&
                              groups->device() == boxes.device()),
      name, ": groups must be int64 [B, M] on the boxes' device.");
  STD_TORCH_CHECK(iou_threshold >= 0 && count >= 0, name, ": iou_threshold and count must not be negative.");
}

inline void check_match(const char* name, const torch::stable::Tensor& truth, const torch::stable::Tensor& truth_real,
                        const torch::stable::Tensor& boxes) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(truth.dim() == 3 && truth.size(2) == 4 && truth.size(1) < (int64_t(1) << 31), name,
                  ": truth must be [N, G, 4].");
  const int64_t images = truth.size(0);
  STD_TORCH_CHECK(shaped(truth_real, {images, truth.size(1)}) && truth_real.scalar_type() == ScalarType::Bool &&
                      truth_real.device() == truth.device(),
                  name, ": truth_real must be bool [N, G] on the device of truth.");
  const int64_t dim = boxes.dim();
  STD_TORCH_CHECK((dim == 2 || (dim == 3 && boxes.size(0) == images)) && boxes.size(dim - 1) == 4 &&
                      boxes.scalar_type() == truth.scalar_type() && boxes.device() == truth.device(),
                  name, ": boxes must be [M, 4] or [N, M, 4], of the type and device of truth.");
}

#define MR_DISPATCH_BOXES(TYPE, NAME, ...)                                                                          \
  if ((TYPE) == ::torch::headeronly::ScalarType::Double) {                                                          \
    using T = double;                                                                                               \
    __VA_ARGS__;                                                                                                    \
  } else {                                                                                                          \
    STD_TORCH_CHECK((TYPE) == ::torch::headeronly::ScalarType::Float, NAME, ": boxes must be float32 or float64."); \
    using T = float;                                                                                                \
    __VA_ARGS__;                                                                                                    \
  }

}  // namespace mrcnn
