// The backward pass of every operator: who owns which part of the gradient, and how it reaches its layout.
//
// A unit owns a block of channels of one image of one level and adds all RoIs to it in a fixed order, so there
// are no races and no atomics, and the result is the same to the bit for any number of threads.
//
// RoIs come sorted by their first row, which lets a window slide down the map: rows are zeroed just before
// they are first needed and, where the gradient is gathered in scratch memory (planar layout, or a storage type
// narrower than its accumulator), written out just after they were last needed, while they are in the cache.
//
// Op provides, for one storage type T:
//   struct Prepared { Box box; ... };
//   void prepare(Prepared*, int64_t k, const Level&) const;
//   void spread(const Prepared&, const Acc<T>* grad, int64_t bin_stride, const int32_t* arg, int64_t channels,
//               Acc<T>* map, int64_t row, int64_t pixel) const;       // map at cell (0, 0)
#pragma once
#include "forward.h"

namespace mrcnn {

template <class T, class Op>
class Backward {
  using A = Acc<T>;
  using Prepared = typename Op::Prepared;

 public:
  // `gradients`: uninitialised maps; `grad` (and `arg`, which may be null) [K, C, P, Q] in either layout.
  Backward(const Op& op, const Features& gradients, const Rois& rois, int64_t bins, const T* grad, bool grad_pixels,
           const int32_t* arg, bool arg_pixels)
      : op_(op),
        maps_(gradients),
        rois_(rois),
        bins_(bins),
        channels_(gradients.channels),
        grad_(grad),
        grad_pixels_(grad_pixels),
        arg_(arg),
        arg_pixels_(arg_pixels) {}

  void run() {
    if (channels_ == 0 || maps_.images == 0) return;
    for (size_t l = 0; l < maps_.levels.size(); ++l) {
      advise_huge(const_cast<void*>(maps_.levels[l].data),
                  sizeof(T) * maps_.images * channels_ * maps_.levels[l].height * maps_.levels[l].width);
    }
    group_rois();
    std::vector<Unit> units;
    for (const Group& g : groups_) {
      const Level& level = maps_.levels[g.level];
      const int64_t block = direct(level) ? channel_block(channels_, maps_.images, 1, channels_)
                                          : channel_block(channels_, maps_.images, 2, 128);
      for (int64_t c = 0; c < channels_; c += block) {
        const int64_t n = std::min(block, channels_ - c);
        const double cost =
            static_cast<double>(n * (level.height * level.width + bins_ * 8 * int64_t(g.members.size())));
        units.push_back({&g, c, n, c / block, (channels_ + block - 1) / block, cost});
      }
    }
    std::sort(units.begin(), units.end(), [](const Unit& a, const Unit& b) { return a.cost > b.cost; });
    // Taken here and not by the threads: what a thread allocates its arena gives back when it is freed, and
    // faulting it in again at every call took more time than all the arithmetic.
    int64_t map_size = 0, most = 0;
    for (const Unit& u : units) {
      const Level& level = maps_.levels[u.group->level];
      if (!direct(level) && !u.group->members.empty())
        map_size = std::max(map_size, level.height * level.width * u.count);
      most = std::max(most, u.count);
    }
    std::vector<Local> locals(std::max<int64_t>(torch::stable::get_num_threads(), 1));
    for (Local& local : locals) {
      local.map.get(map_size);
      local.tile.get(bins_ * most);
    }
    for_each_unit(static_cast<int64_t>(units.size()),
                  [&](int64_t thread, int64_t u) { run_unit(units[u], locals[thread]); });
  }

 private:
  struct Member {
    int64_t k;
    Prepared prepared;
  };
  struct Group {
    std::vector<Member> members;
    int64_t level, image;
    std::vector<int32_t> first, last;  // columns [first, last) of each row are under some RoI
  };
  struct Unit {
    const Group* group;
    int64_t channel, count;
    int64_t part, parts;  // which of the map's units this is
    double cost;
  };
  struct Local {
    Scratch<A> map;
    Scratch<A> tile;
    Scratch<int32_t> arg;
  };

  // Whether gradients can be summed where they belong.
  static bool direct(const Level& level) { return level.pixels && std::is_same_v<T, A>; }

  void group_rois() {
    groups_.resize(maps_.levels.size() * maps_.images);
    for (size_t g = 0; g < groups_.size(); ++g) {
      groups_[g].level = static_cast<int64_t>(g) / maps_.images;
      groups_[g].image = static_cast<int64_t>(g) % maps_.images;
    }
    for (int64_t k = 0; k < rois_.count; ++k) {
      groups_[rois_.level[k] * maps_.images + rois_.image[k]].members.push_back({k, {}});
    }
    std::vector<Member*> all;
    for (Group& g : groups_) {
      for (Member& m : g.members) all.push_back(&m);
    }
    constexpr int64_t kRun = 16;
    const int64_t total = static_cast<int64_t>(all.size());
    for_each_unit((total + kRun - 1) / kRun, [&](int64_t, int64_t unit) {
      for (int64_t i = unit * kRun; i < std::min(total, (unit + 1) * kRun); ++i) {
        op_.prepare(&all[i]->prepared, all[i]->k, maps_.levels[rois_.level[all[i]->k]]);
      }
    });
    for (Group& g : groups_) {
      auto& m = g.members;
      m.erase(std::remove_if(m.begin(), m.end(), [](const Member& x) { return x.prepared.box.empty(); }), m.end());
      std::stable_sort(m.begin(), m.end(),
                       [](const Member& a, const Member& b) { return a.prepared.box.y0 < b.prepared.box.y0; });
      const Level& level = maps_.levels[g.level];
      if (direct(level)) continue;
      const int32_t width = static_cast<int32_t>(level.width);
      g.first.assign(level.height, width);
      g.last.assign(level.height, 0);
      for (const Member& member : m) {
        const Box& box = member.prepared.box;
        for (int64_t y = box.y0; y < box.y1; ++y) {  // planes are written a row at a time
          g.first[y] = level.pixels ? std::min(g.first[y], static_cast<int32_t>(box.x0)) : 0;
          g.last[y] = level.pixels ? std::max(g.last[y], static_cast<int32_t>(box.x1)) : width;
        }
      }
    }
  }

  void run_unit(const Unit& unit, Local& local) const {
    const Group& g = *unit.group;
    const Level& level = maps_.levels[g.level];
    const int64_t n = unit.count, width = level.width;
    const bool in_place = direct(level);
    T* out = static_cast<T*>(const_cast<void*>(level.data)) + g.image * channels_ * level.height * width +
             unit.channel * (level.pixels ? 1 : level.height * width);
    A* map = in_place ? reinterpret_cast<A*>(out) : local.map.get(level.height * width * n);
    const int64_t pixel = in_place ? channels_ : n, row = width * pixel;
    int64_t done = 0;   // rows below it are in `out`
    int64_t ready = 0;  // rows from `done` to it are being summed in `map`
    for (const Member& m : g.members) {
      const Box& box = m.prepared.box;
      if (!in_place) finish(map, out, level, unit, &done, ready, box.y0);
      if (ready < box.y1) {
        if (in_place) {
          zero(map, pixel, n, ready * width, box.y1 * width);
        } else {
          for (int64_t y = std::max(ready, box.y0); y < box.y1; ++y) {
            zero(map, pixel, n, y * width + g.first[y], y * width + g.last[y]);
          }
        }
        ready = box.y1;
      }
      add(m, unit, local, map, row, pixel);
    }
    if (in_place) {
      zero(map, pixel, n, ready * width, level.height * width);
    } else {
      finish(map, out, level, unit, &done, ready, level.height);
    }
  }

  static void zero(A* map, int64_t pixel, int64_t n, int64_t first, int64_t last) {
    if (first >= last) return;
    if (pixel == n) {
      std::memset(map + first * pixel, 0, sizeof(A) * (last - first) * n);
      return;
    }
    for (int64_t p = first; p < last; ++p) std::memset(map + p * pixel, 0, sizeof(A) * n);
  }

  // Writes rows [*done, until) out: what is under a RoI from the scratch map, the rest as 0.
  void finish(const A* map, T* out, const Level& level, const Unit& unit, int64_t* done, int64_t ready,
              int64_t until) const {
    const auto& kernel = kernels<T>();
    const Group& g = *unit.group;
    const int64_t n = unit.count, width = level.width, cells = level.height * width;
    if (until <= *done) return;
    if (level.pixels) {
      for (int64_t y = *done; y < until; ++y) {
        const int64_t row = y * width, first = row + std::min(g.first[y], g.last[y]), last = row + g.last[y];
        if (y % unit.parts == unit.part) {  // whole pixels: the units of a map agree on what is under no RoI
          T* whole = out - unit.channel;
          std::memset(whole + row * channels_, 0, sizeof(T) * (first - row) * channels_);
          std::memset(whole + last * channels_, 0, sizeof(T) * (row + width - last) * channels_);
        }
        if (first < last) {
          kernel.copy_round(map + first * n, n, last - first, n, out + first * channels_, channels_);
        }
      }
    } else {
      const int64_t first = *done * width, last = until * width, summed = std::min(ready, until) * width;
      if (summed > first) kernel.transpose_round(map + first * n, n, summed - first, n, out + first, cells);
      const int64_t rest = std::max(first, summed);
      if (last > rest) {
        for (int64_t c = 0; c < n; ++c) std::memset(out + c * cells + rest, 0, sizeof(T) * (last - rest));
      }
    }
    *done = until;
  }

  void add(const Member& m, const Unit& unit, Local& local, A* map, int64_t row, int64_t pixel) const {
    const auto& kernel = kernels<T>();
    const int64_t n = unit.count, base = m.k * bins_ * channels_;
    const A* grad;
    int64_t stride = n;
    if (grad_pixels_ && std::is_same_v<T, A>) {
      grad = reinterpret_cast<const A*>(grad_) + base + unit.channel;
      stride = channels_;
    } else {  // widened once, not once a tap
      A* tile = local.tile.get(bins_ * n);
      if (grad_pixels_) {
        kernel.copy_widen(grad_ + base + unit.channel, channels_, bins_, n, tile, n);
      } else {
        kernel.transpose_widen(grad_ + base + unit.channel * bins_, bins_, n, bins_, tile, n);
      }
      grad = tile;
    }
    const int32_t* arg = nullptr;
    if (arg_) {  // in the gradient's layout and stride
      int32_t* tile = local.arg.get(bins_ * stride);
      if (arg_pixels_) {
        for (int64_t b = 0; b < bins_; ++b) {
          std::memcpy(tile + b * stride, arg_ + base + b * channels_ + unit.channel, sizeof(int32_t) * n);
        }
      } else {
        transpose_int(arg_ + base + unit.channel * bins_, bins_, n, bins_, tile, stride);
      }
      arg = tile;
    }
    op_.spread(m.prepared, grad, stride, arg, n, map, row, pixel);
  }

  const Op& op_;
  const Features& maps_;
  const Rois& rois_;
  int64_t bins_, channels_;
  const T* grad_;
  bool grad_pixels_;
  const int32_t* arg_;
  bool arg_pixels_;
  std::vector<Group> groups_;
};

}  // namespace mrcnn
