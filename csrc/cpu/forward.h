// The forward pass of every operator, whatever the memory layouts: who does which RoI and channels, and where
// pixel memory comes from.
//
// channels_last maps are read in place, threads take runs of RoIs sorted by position so that neighbours find
// each other's cells in the cache.  Planar (NCHW) maps are read through a scratch copy in pixel layout, one
// (level, image, channel block) at a time: small enough for the cache, and each map is read once.  With many
// RoIs whole rows are transposed as the sorted RoIs reach them; with few, each RoI's box alone.
//
// Op provides, for one storage type T:
//   struct Prepared { Box box; ... };
//   void prepare(Prepared*, int64_t k, const Level&) const;           // geometry in map cells
//   void pool(const Prepared&, int64_t y0, int64_t x0, const T* src, int64_t row, int64_t pixel, int64_t channels,
//             T* dst, int64_t bin_stride, int32_t* arg) const;        // src at cell (y0, x0)
#pragma once
#include "geometry.h"
#include "parallel.h"

namespace mrcnn {

// Where results go: [K, C, P, Q] planar or with the channels of a bin side by side.
template <class T>
struct Output {
  T* data;
  int32_t* arg;  // may be null
  bool pixels;
};

// Channels a unit takes: a multiple of 16 (a cache line), at most `most`, so that there are `share` units a thread
// on the largest level.
inline int64_t channel_block(int64_t channels, int64_t images, int64_t share, int64_t most) {
  const int64_t threads = std::max<int64_t>(torch::stable::get_num_threads(), 1);
  const int64_t wanted = std::max<int64_t>(1, (share * threads + images - 1) / std::max<int64_t>(images, 1));
  return std::max<int64_t>(std::min(std::max<int64_t>(channels / wanted / 16 * 16, 16), most), 1);
}

template <class T, class Op>
class Forward {
 public:
  Forward(const Op& op, const Features& features, const Rois& rois, const std::vector<double>& scales, int64_t bins,
          Output<T> out)
      : op_(op), features_(features), rois_(rois), bins_(bins), out_(out), channels_(features.channels) {
    std::vector<double> key(rois.count);
    for (int64_t k = 0; k < rois.count; ++k) {
      key[k] = (rois.wide ? rois.row<double>(k)[2] : rois.row<float>(k)[2]) * scales[rois.level[k]];
    }
    for (int64_t k = 0; k < rois.count; ++k) order_.push_back(k);
    std::sort(order_.begin(), order_.end(), [&](int64_t a, int64_t b) {
      const int64_t ga = group(a), gb = group(b);
      if (ga != gb) return ga < gb;
      return key[a] != key[b] ? key[a] < key[b] : a < b;
    });
  }

  void run() {
    if (rois_.count == 0 || channels_ == 0) return;
    advise_huge(out_.data, sizeof(T) * rois_.count * channels_ * bins_);
    if (out_.arg) advise_huge(out_.arg, sizeof(int32_t) * rois_.count * channels_ * bins_);
    std::vector<int64_t> in_place, planar;
    for (const int64_t k : order_) (features_.levels[rois_.level[k]].pixels ? in_place : planar).push_back(k);
    if (!in_place.empty()) run_in_place(in_place);
    if (!planar.empty()) run_planar(planar);
  }

 private:
  using Prepared = typename Op::Prepared;

  int64_t group(int64_t k) const { return rois_.level[k] * features_.images + rois_.image[k]; }

  // Pools one RoI over channels [c, c + n) into the output, through a tile if the output is planar.
  void emit(const Prepared& prepared, int64_t y0, int64_t x0, const T* src, int64_t row, int64_t pixel, int64_t k,
            int64_t c, int64_t n, Scratch<T>& tile, Scratch<int32_t>& arg_tile) const {
    const auto& kernel = kernels<T>();
    if (out_.pixels) {
      const int64_t at = k * bins_ * channels_ + c;
      op_.pool(prepared, y0, x0, src, row, pixel, n, out_.data + at, channels_, out_.arg ? out_.arg + at : nullptr);
      return;
    }
    T* t = tile.get(bins_ * n);
    int32_t* a = out_.arg ? arg_tile.get(bins_ * n) : nullptr;
    op_.pool(prepared, y0, x0, src, row, pixel, n, t, n, a);
    const int64_t at = (k * channels_ + c) * bins_;
    kernel.transpose(t, n, bins_, n, out_.data + at, bins_);
    if (a) transpose_int(a, n, bins_, n, out_.arg + at, bins_);
  }

  void run_in_place(const std::vector<int64_t>& rois) const {
    constexpr int64_t kRun = 8;
    const int64_t count = static_cast<int64_t>(rois.size());
    struct Local {
      Prepared prepared;
      Scratch<T> tile;
      Scratch<int32_t> arg;
    };
    std::vector<Local> locals(std::max<int64_t>(torch::stable::get_num_threads(), 1));
    for_each_unit((count + kRun - 1) / kRun, [&](int64_t thread, int64_t unit) {
      Local& local = locals[thread];
      for (int64_t i = unit * kRun; i < std::min(count, (unit + 1) * kRun); ++i) {
        const int64_t k = rois[i];
        const Level& level = features_.levels[rois_.level[k]];
        op_.prepare(&local.prepared, k, level);
        const T* src = static_cast<const T*>(level.data) + rois_.image[k] * level.image;
        emit(local.prepared, 0, 0, src, level.row, level.pixel, k, 0, channels_, local.tile, local.arg);
      }
    });
  }

  struct Member {
    int64_t k;
    Prepared prepared;
  };

  // The RoIs of one map, by their first row.
  struct Group {
    std::vector<Member> members;
    int64_t level, image;
  };

  struct Unit {
    const Group* group;
    int64_t channel, count;
    bool tiles;
    double cost;
  };

  void run_planar(const std::vector<int64_t>& rois) const {
    std::vector<Group> groups;
    for (const int64_t k : rois) {
      if (groups.empty() || group(groups.back().members[0].k) != group(k)) {
        groups.push_back({{}, rois_.level[k], rois_.image[k]});
      }
      groups.back().members.push_back({k, {}});
    }
    std::vector<Member*> all;
    for (Group& g : groups) {
      for (Member& m : g.members) all.push_back(&m);
    }
    constexpr int64_t kRun = 16;
    const int64_t total = static_cast<int64_t>(all.size());
    for_each_unit((total + kRun - 1) / kRun, [&](int64_t, int64_t unit) {
      for (int64_t i = unit * kRun; i < std::min(total, (unit + 1) * kRun); ++i) {
        op_.prepare(&all[i]->prepared, all[i]->k, features_.levels[rois_.level[all[i]->k]]);
      }
    });
    for (Group& g : groups) {
      std::stable_sort(g.members.begin(), g.members.end(),
                       [](const Member& a, const Member& b) { return a.prepared.box.y0 < b.prepared.box.y0; });
    }

    const int64_t threads = std::max<int64_t>(torch::stable::get_num_threads(), 1);
    const int64_t block = channel_block(channels_, features_.images, 2, 64);  // its scratch map fits the cache
    int64_t map_size = 0;
    std::vector<Unit> units;
    for (const Group& g : groups) {
      const Level& level = features_.levels[g.level];
      double tiles = 0;
      int64_t largest = 0;
      for (const Member& m : g.members) {
        const Box& box = m.prepared.box;
        if (box.empty()) continue;
        const int64_t cells = (box.y1 - box.y0) * tile_width(box, level.width);
        tiles += static_cast<double>(cells);
        largest = std::max(largest, cells);
      }
      const double whole = static_cast<double>(level.height * level.width);
      map_size = std::max(map_size, block * (tiles < whole ? largest : level.height * level.width));
      for (int64_t c = 0; c < channels_; c += block) {
        const int64_t n = std::min(block, channels_ - c);
        const double cost = (std::min(tiles, whole) + static_cast<double>(g.members.size() * bins_ * 4)) * n;
        units.push_back({&g, c, n, tiles < whole, cost});
      }
    }
    std::sort(units.begin(), units.end(), [](const Unit& a, const Unit& b) { return a.cost > b.cost; });
    struct Local {
      Scratch<T> map, tile;
      Scratch<int32_t> arg;
    };
    std::vector<Local> locals(threads);
    for (Local& local : locals) {  // taken here and not by the threads, see backward.h
      local.map.get(map_size);
      local.tile.get(bins_ * block);
    }
    for_each_unit(static_cast<int64_t>(units.size()), [&](int64_t thread, int64_t u) {
      Local& local = locals[thread];
      run_unit(units[u], local.map, local.tile, local.arg);
    });
  }

  // Columns that a RoI's tile takes: at least one vector wide, so that its transposition is.
  static int64_t tile_width(const Box& box, int64_t width) {
    return std::min(std::max<int64_t>(box.x1 - box.x0, 16), width);
  }

  void run_unit(const Unit& unit, Scratch<T>& map, Scratch<T>& tile, Scratch<int32_t>& arg) const {
    const Group& g = *unit.group;
    const Level& level = features_.levels[g.level];
    const int64_t n = unit.count, width = level.width;
    const T* planes = static_cast<const T*>(level.data) + g.image * level.image + unit.channel * level.channel;
    const auto& kernel = kernels<T>();
    int64_t ready = 0;  // rows below it have been transposed or will not be needed
    for (const Member& m : g.members) {
      const Prepared& prepared = m.prepared;
      const Box& box = prepared.box;
      const int64_t k = m.k;
      if (box.empty()) {
        emit(prepared, 0, 0, planes, 0, 0, k, unit.channel, n, tile, arg);
      } else if (unit.tiles) {
        const int64_t w = tile_width(box, width), x0 = std::min(box.x0, width - w);
        T* pixels = map.get((box.y1 - box.y0) * w * n);
        for (int64_t y = box.y0; y < box.y1; ++y) {
          // planes: rows are channels, columns are positions
          kernel.transpose(planes + y * width + x0, level.channel, n, w, pixels + (y - box.y0) * w * n, n);
        }
        emit(prepared, box.y0, x0, pixels, w * n, n, k, unit.channel, n, tile, arg);
      } else {
        T* pixels = map.get(level.height * width * n);
        if (ready < box.y1) {
          const int64_t from = std::max(ready, box.y0);
          if (from < box.y1) {
            kernel.transpose(planes + from * width, level.channel, n, (box.y1 - from) * width,
                             pixels + from * width * n, n);
          }
          ready = box.y1;
        }
        emit(prepared, 0, 0, pixels, width * n, n, k, unit.channel, n, tile, arg);
      }
    }
  }

  const Op& op_;
  const Features& features_;
  const Rois& rois_;
  int64_t bins_;
  Output<T> out_;
  int64_t channels_;
  std::vector<int64_t> order_;
};

}  // namespace mrcnn
