// Matching: the ground truth that each box overlaps most, and the boxes that each ground truth does.
//
// A unit is a stretch of boxes of one image, held in tiles (see box_kernels.h) while all ground truths pass.  The
// largest IoU of every unit and ground truth is kept, so that the second pass looks only where a ground truth
// meets the box that it claims.
#include <algorithm>

#include "box_checks.h"
#include "box_kernels.h"
#include "parallel.h"
#include "tensors.h"

namespace mrcnn {
namespace {

constexpr int64_t kTilesAtOnce = 8;  // of a unit

struct Limits {
  double low, high, floor;
};

template <class T>
class Matcher {
 public:
  Matcher(const Tensor& truth, const Tensor& real, const Tensor& boxes, int64_t* index, int8_t* labels)
      : truth_(static_cast<const T*>(truth.const_data_ptr())),
        real_(static_cast<const bool*>(real.const_data_ptr())),
        boxes_(static_cast<const T*>(boxes.const_data_ptr())),
        images_(truth.size(0)),
        truths_(truth.size(1)),
        count_(boxes.size(boxes.dim() - 2)),
        image_stride_(boxes.dim() == 3 ? 4 * count_ : 0),
        units_((tiles_of(count_) + kTilesAtOnce - 1) / kTilesAtOnce),
        index_(index),
        labels_(labels) {}

  void run(const Limits& limits, bool low_quality) {
    std::vector<T> most(low_quality ? images_ * units_ * truths_ : 0);
    for_each_unit(images_ * units_, [&](int64_t, int64_t unit) {
      first(unit / units_, unit % units_, limits, low_quality ? &most[unit * truths_] : nullptr);
    });
    if (!low_quality) return;
    std::vector<T> best(images_ * truths_, T(0));
    for (int64_t unit = 0; unit < images_ * units_; ++unit) {
      for (int64_t g = 0; g < truths_; ++g) {
        T& value = best[unit / units_ * truths_ + g];
        value = std::max(value, most[unit * truths_ + g]);
      }
    }
    for_each_unit(images_ * units_, [&](int64_t, int64_t unit) {
      const int64_t n = unit / units_;
      second(n, unit % units_, &most[unit * truths_], &best[n * truths_]);
    });
  }

 private:
  struct Unit {
    alignas(64) T tiles[kTilesAtOnce * 5 * kTile];
    int64_t begin, boxes, tile_count;
  };

  void load(int64_t n, int64_t unit, Unit* out) const {
    out->begin = unit * kTilesAtOnce * kTile;
    out->boxes = std::min(count_ - out->begin, kTilesAtOnce * kTile);
    out->tile_count = tiles_of(out->boxes);
    const T* from = boxes_ + n * image_stride_ + 4 * out->begin;
    for (int64_t i = 0; i < out->boxes; ++i, from += 4) {
      const Corners<T> box{from[0], from[1], from[2], from[3]};
      put(out->tiles, i, box, box_area(box));
    }
    const T nan = std::numeric_limits<T>::quiet_NaN();
    for (int64_t i = out->boxes; i < out->tile_count * kTile; ++i) put(out->tiles, i, Corners<T>{}, nan);
  }

  Corners<T> truth(int64_t n, int64_t g) const {
    const T* at = truth_ + 4 * (n * truths_ + g);
    return {at[0], at[1], at[2], at[3]};
  }

  // The best ground truth of every box, and the labels that follow from its IoU.
  void first(int64_t n, int64_t unit, const Limits& limits, T* most) const {
    Unit u;
    load(n, unit, &u);
    const bool* real = real_ + n * truths_;
    const int64_t start = std::find(real, real + truths_, true) - real;
    alignas(64) T value[kTilesAtOnce * kTile];
    alignas(64) Index<T> index[kTilesAtOnce * kTile];
    const bool none = start == truths_;
    std::fill(value, value + kTilesAtOnce * kTile, none ? T(-1) : T(0));
    std::fill(index, index + kTilesAtOnce * kTile, none ? Index<T>(0) : static_cast<Index<T>>(start));
    for (int64_t g = start; g < truths_; ++g) {
      if (!real[g]) continue;
      const Corners<T> box = truth(n, g);
      const T top =
          box_kernels<T>().best(u.tiles, u.tile_count, box, box_area(box), static_cast<Index<T>>(g), value, index);
      if (most) most[g] = top;
    }
    const T low = static_cast<T>(limits.low), high = static_cast<T>(limits.high), floor = static_cast<T>(limits.floor);
    int64_t* index_out = index_ + n * count_ + u.begin;
    int8_t* labels_out = labels_ + n * count_ + u.begin;
    for (int64_t i = 0; i < u.boxes; ++i) {
      index_out[i] = index[i];
      const bool ignored = limits.floor > 0 && value[i] < floor;
      labels_out[i] = static_cast<int8_t>(ignored ? -1 : 2 * (value[i] >= high) - (value[i] >= low));
    }
  }

  // The boxes that a ground truth overlaps most are its own.
  void second(int64_t n, int64_t unit, const T* most, const T* best) const {
    Unit u;
    bool loaded = false;
    int8_t claimed[kTilesAtOnce * kTile] = {};
    for (int64_t g = 0; g < truths_; ++g) {
      if (!(best[g] > T(0)) || most[g] != best[g]) continue;
      if (!loaded) load(n, unit, &u);
      loaded = true;
      const Corners<T> box = truth(n, g);
      box_kernels<T>().claim(u.tiles, u.tile_count, box, box_area(box), best[g], claimed);
    }
    if (!loaded) return;
    int8_t* labels = labels_ + n * count_ + u.begin;
    for (int64_t i = 0; i < u.boxes; ++i) labels[i] = claimed[i] ? 1 : labels[i];
  }

  const T* truth_;
  const bool* real_;
  const T* boxes_;
  int64_t images_, truths_, count_, image_stride_, units_;
  int64_t* index_;
  int8_t* labels_;
};

std::tuple<Tensor, Tensor> match(Tensor truth, Tensor truth_real, Tensor boxes, double low, double high,
                                 bool low_quality, double floor) {
  const char* name = "match";
  check_match(name, truth, truth_real, boxes);
  STD_TORCH_CHECK(truth.is_cpu(), name, ": CPU tensors are needed.");
  const int64_t images = truth.size(0), count = boxes.size(boxes.dim() - 2);
  const Tensor t = torch::stable::contiguous(truth), r = torch::stable::contiguous(truth_real);
  const Tensor b = torch::stable::contiguous(boxes);
  Tensor index = make(truth, {images, count}, ScalarType::Long, false);
  Tensor labels = make(truth, {images, count}, ScalarType::Char, false);
  MR_DISPATCH_BOXES(truth.scalar_type(), name, {
    Matcher<T>(t, r, b, static_cast<int64_t*>(index.mutable_data_ptr()),
               static_cast<int8_t*>(labels.mutable_data_ptr()))
        .run({low, high, floor}, low_quality);
  });
  return {index, labels};
}

}  // namespace
}  // namespace mrcnn

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) { m.impl("match", TORCH_BOX(&mrcnn::match)); }
