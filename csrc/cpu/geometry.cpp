// Taps, samples and ranges of whole RoIs.  Compiled without floating-point contraction (see ../exact.h).
#include "geometry.h"

#include <algorithm>

#include "roi_align.h"
#include "roi_pool.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=off")
#endif

namespace mrcnn {
namespace {

template <class A>
class TapWriter {
 public:
  explicit TapWriter(AxisTaps<A>* taps) : t_(taps) {
    t_->begin.assign(1, 0);
    t_->index.clear();
    t_->weight.clear();
    t_->low = INT32_MAX;
    t_->high = 0;
  }
  // Samples of a bin come in order, so a repeated cell is one of the last two taps.
  void tap(int64_t cell, A weight) {
    if (weight == A(0)) return;
    const int32_t c = static_cast<int32_t>(cell);
    const int32_t n = static_cast<int32_t>(t_->index.size());
    for (int32_t i = n - 1; i >= t_->begin.back() && i >= n - 2; --i) {
      if (t_->index[i] == c) {
        t_->weight[i] += weight;
        return;
      }
    }
    t_->index.push_back(c);
    t_->weight.push_back(weight);
    t_->low = std::min(t_->low, c);
    t_->high = std::max(t_->high, c + 1);
  }
  void end_bin() { t_->begin.push_back(static_cast<int32_t>(t_->index.size())); }
  void finish() {
    if (t_->high == 0) t_->low = 0;
  }

 private:
  AxisTaps<A>* t_;
};

template <class G>
Axis<G> axis_of(const Rois& rois, int64_t k, bool vertical, double scale, int64_t bins, int64_t geometry,
                int64_t ratio) {
  const G* roi = rois.row<G>(k);
  return make_axis<G>(roi[vertical ? 2 : 1], roi[vertical ? 4 : 3], static_cast<G>(scale), bins, geometry, ratio);
}

template <class G, class A>
void average_taps_as(AxisTaps<A>* taps, const Axis<G>& axis, int64_t bins, int64_t geometry, int64_t length) {
  TapWriter<A> out(taps);
  for (int64_t p = 0; p < bins; ++p) {
    Taps<G> t;
    if (geometry == kLegacy) {
      if (legacy_axis(axis, p, length, &t)) {
        out.tap(t.low, static_cast<A>(G(1) - t.fraction));
        out.tap(t.high, static_cast<A>(t.fraction));
      }
    } else if (geometry == kPrecise) {
      if (axis.bin > G(0)) {
        G a, b;
        int64_t first, last;
        precise_edges(axis, p, &a, &b);
        precise_range(a, b, length, &first, &last);
        for (int64_t i = first; i < last; ++i) out.tap(i, static_cast<A>(precise_weight(a, b, i) / axis.bin));
      }
    } else {
      int64_t first, last;
      sample_range(axis, p, length, &first, &last);
      const G share = axis.grid > 0 ? G(1) / static_cast<G>(axis.grid) : G(0);
      for (int64_t i = first; i < last; ++i) {
        if (!sample_axis(grid_position(axis, p, i), length, &t)) continue;
        out.tap(t.low, static_cast<A>((G(1) - t.fraction) * share));
        out.tap(t.high, static_cast<A>(t.fraction * share));
      }
    }
    out.end_bin();
  }
  out.finish();
}

// One bilinear sample from its two axes.
template <class G, class A>
Sample<A> outer(const Taps<G>& y, const Taps<G>& x) {
  const G fy = y.fraction, fx = x.fraction;
  Sample<A> s;
  s.offset[0] = (y.low << 32) | x.low;
  s.offset[1] = (y.low << 32) | x.high;
  s.offset[2] = (y.high << 32) | x.low;
  s.offset[3] = (y.high << 32) | x.high;
  s.weight[0] = static_cast<A>((G(1) - fy) * (G(1) - fx));
  s.weight[1] = static_cast<A>((G(1) - fy) * fx);
  s.weight[2] = static_cast<A>(fy * (G(1) - fx));
  s.weight[3] = static_cast<A>(fy * fx);
  return s;
}

// The valid samples of each bin of one axis of a regular grid; `complete` where none was left out.
template <class G>
struct GridAxis {
  std::vector<std::vector<Taps<G>>> bins;
  std::vector<uint8_t> complete;

  GridAxis(const Axis<G>& axis, int64_t count, int64_t length) : bins(count), complete(count) {
    for (int64_t p = 0; p < count; ++p) {
      int64_t first, last;
      sample_range(axis, p, length, &first, &last);
      for (int64_t i = first; i < last; ++i) {
        Taps<G> t;
        if (sample_axis(grid_position(axis, p, i), length, &t)) bins[p].push_back(t);
      }
      complete[p] = static_cast<int64_t>(bins[p].size()) == axis.grid;
    }
  }
};

template <class G, class A>
void bin_samples_as(BinSamples<A>* out, Axis<G> ay, Axis<G> ax, int64_t k, int64_t bins_y, int64_t bins_x, bool random,
                    bool adaptive, int64_t seed, int64_t height, int64_t width) {
  out->begin.assign(1, 0);
  out->samples.clear();
  out->outside.clear();
  if (random && adaptive) {
    ay.grid = std::min(ay.grid, kMaxRandomSide);
    ax.grid = std::min(ax.grid, kMaxRandomSide);
  }
  const int64_t count = ay.grid * ax.grid;
  out->factor = static_cast<A>(G(1) / static_cast<G>(std::max<int64_t>(count, 1)));
  const GridAxis<G> gy(ay, random ? 0 : bins_y, height), gx(ax, random ? 0 : bins_x, width);
  for (int64_t p = 0; p < bins_y; ++p) {
    for (int64_t q = 0; q < bins_x; ++q) {
      bool outside = false;
      if (random) {
        const uint32_t base = random_bin(static_cast<uint32_t>(seed), k, p * bins_x + q);
        for (int64_t i = 0; i < count; ++i) {
          Taps<G> y, x;
          const bool inside = sample_axis(random_position(ay, p, random_fraction<G>(base, i, 0)), height, &y) &&
                              sample_axis(random_position(ax, q, random_fraction<G>(base, i, 1)), width, &x);
          if (inside) out->samples.push_back(outer<G, A>(y, x));
          outside |= !inside;
        }
      } else {
        for (const Taps<G>& y : gy.bins[p])
          for (const Taps<G>& x : gx.bins[q]) out->samples.push_back(outer<G, A>(y, x));
        outside = !gy.complete[p] || !gx.complete[q];
      }
      out->begin.push_back(static_cast<int64_t>(out->samples.size()));
      out->outside.push_back(outside);
    }
  }
  Box box{INT64_MAX, 0, INT64_MAX, 0};
  for (const Sample<A>& s : out->samples) {
    box.y0 = std::min(box.y0, s.offset[0] >> 32);
    box.x0 = std::min(box.x0, s.offset[0] & 0xFFFFFFFF);
    box.y1 = std::max(box.y1, (s.offset[3] >> 32) + 1);
    box.x1 = std::max(box.x1, (s.offset[3] & 0xFFFFFFFF) + 1);
  }
  out->box = out->samples.empty() ? Box{} : box;
}

template <class G, class A>
void precise_taps_as(PreciseTaps<A>* out, const Axis<G>& axis, double scale, int64_t bins, int64_t length) {
  average_taps_as<G, A>(&out->taps, axis, bins, kPrecise, length);
  out->by_low.assign(out->taps.index.size(), A(0));
  out->by_high.assign(out->taps.index.size(), A(0));
  for (auto* v : {&out->low_low, &out->low_high, &out->high_low, &out->high_high}) v->assign(bins, 0.0);
  if (!(axis.bin > G(0))) return;
  for (int64_t p = 0; p < bins; ++p) {
    G a, b;
    precise_edges(axis, p, &a, &b);
    for (int32_t i = out->taps.begin[p]; i < out->taps.begin[p + 1]; ++i) {
      // w = W / (b - a), W the integral of the hat: dw/da = (w - hat(a)) / (b - a), dw/db = (hat(b) - w) / (b - a)
      const int64_t cell = out->taps.index[i];
      const G w = precise_weight(a, b, cell) / axis.bin;
      out->by_low[i] = static_cast<A>((w - hat(a, cell)) / axis.bin);
      out->by_high[i] = static_cast<A>((hat(b, cell) - w) / axis.bin);
    }
    // edge e lies at scale (low (1 - e / bins) + high e / bins)
    const double at = static_cast<double>(p) / bins, next = static_cast<double>(p + 1) / bins;
    out->low_low[p] = scale * (1 - at);
    out->low_high[p] = scale * at;
    out->high_low[p] = scale * (1 - next);
    out->high_high[p] = scale * next;
  }
}

}  // namespace

template <class A>
void average_taps(AxisTaps<A>* taps, const Rois& rois, int64_t k, bool vertical, double scale, int64_t bins,
                  int64_t geometry, int64_t ratio, int64_t length) {
  if (rois.wide) {
    const auto axis = axis_of<double>(rois, k, vertical, scale, bins, geometry, ratio);
    average_taps_as<double, A>(taps, axis, bins, geometry, length);
  } else {
    const auto axis = axis_of<float>(rois, k, vertical, scale, bins, geometry, ratio);
    average_taps_as<float, A>(taps, axis, bins, geometry, length);
  }
}

template <class A>
void transpose_taps(const AxisTaps<A>& taps, AxisTaps<A>* out) {
  const int32_t cells = taps.high - taps.low;
  const int32_t bins = static_cast<int32_t>(taps.begin.size()) - 1;
  out->low = taps.low;
  out->high = taps.high;
  out->begin.assign(cells + 1, 0);
  out->index.resize(taps.index.size());
  out->weight.resize(taps.index.size());
  for (const int32_t cell : taps.index) ++out->begin[cell - taps.low + 1];
  for (int32_t i = 0; i < cells; ++i) out->begin[i + 1] += out->begin[i];
  std::vector<int32_t> next(out->begin.begin(), out->begin.end() - 1);
  for (int32_t p = 0; p < bins; ++p) {
    for (int32_t t = taps.begin[p]; t < taps.begin[p + 1]; ++t) {
      const int32_t at = next[taps.index[t] - taps.low]++;
      out->index[at] = p;
      out->weight[at] = taps.weight[t];
    }
  }
}

template <class A>
void bin_samples(BinSamples<A>* out, const Rois& rois, int64_t k, double scale, int64_t bins_y, int64_t bins_x,
                 int64_t geometry, int64_t ratio, bool random, int64_t seed, int64_t height, int64_t width) {
  if (rois.wide) {
    bin_samples_as<double, A>(out, axis_of<double>(rois, k, true, scale, bins_y, geometry, ratio),
                              axis_of<double>(rois, k, false, scale, bins_x, geometry, ratio), k, bins_y, bins_x,
                              random, ratio <= 0, seed, height, width);
  } else {
    bin_samples_as<float, A>(out, axis_of<float>(rois, k, true, scale, bins_y, geometry, ratio),
                             axis_of<float>(rois, k, false, scale, bins_x, geometry, ratio), k, bins_y, bins_x, random,
                             ratio <= 0, seed, height, width);
  }
}

template <class G>
static void pool_ranges_as(std::vector<int64_t>* edges, const G* roi, bool vertical, double scale, int64_t bins,
                           int64_t rounding, int64_t kind, int64_t length) {
  const PoolSide side =
      pool_side<G>(roi[vertical ? 2 : 1], roi[vertical ? 4 : 3], static_cast<G>(scale), rounding, kind);
  edges->resize(2 * bins);
  for (int64_t p = 0; p < bins; ++p) {
    pool_edges<G>(side, p, bins, length, kind, &(*edges)[2 * p], &(*edges)[2 * p + 1]);
  }
}

void pool_ranges(std::vector<int64_t>* edges, const Rois& rois, int64_t k, bool vertical, double scale, int64_t bins,
                 int64_t rounding, int64_t kind, int64_t length) {
  if (rois.wide) {
    pool_ranges_as(edges, rois.row<double>(k), vertical, scale, bins, rounding, kind, length);
  } else {
    pool_ranges_as(edges, rois.row<float>(k), vertical, scale, bins, rounding, kind, length);
  }
}

template <class A>
void precise_taps(PreciseTaps<A>* out, const Rois& rois, int64_t k, bool vertical, double scale, int64_t bins,
                  int64_t length) {
  if (rois.wide) {
    precise_taps_as<double, A>(out, axis_of<double>(rois, k, vertical, scale, bins, kPrecise, 0), scale, bins, length);
  } else {
    precise_taps_as<float, A>(out, axis_of<float>(rois, k, vertical, scale, bins, kPrecise, 0), scale, bins, length);
  }
}

#define MR_INSTANTIATE(A)                                                                                              \
  template void average_taps<A>(AxisTaps<A>*, const Rois&, int64_t, bool, double, int64_t, int64_t, int64_t, int64_t); \
  template void transpose_taps<A>(const AxisTaps<A>&, AxisTaps<A>*);                                                   \
  template void bin_samples<A>(BinSamples<A>*, const Rois&, int64_t, double, int64_t, int64_t, int64_t, int64_t, bool, \
                               int64_t, int64_t, int64_t);                                                             \
  template void precise_taps<A>(PreciseTaps<A>*, const Rois&, int64_t, bool, double, int64_t, int64_t);
MR_INSTANTIATE(float)
MR_INSTANTIATE(double)

}  // namespace mrcnn
