// Non-maximum suppression of many rows, each with as many boxes and as few kept as asked for.
//
// Boxes come in the order of their scores; each is compared with those that its group has kept so far, and the
// row ends when enough are kept.  These are the pairs that the usual order (each kept box against all after it)
// compares too, less those that are never needed.
#include <algorithm>
#include <unordered_map>

#include "box_checks.h"
#include "box_kernels.h"
#include "parallel.h"
#include "tensors.h"

namespace mrcnn {
namespace {

// A place in a row, before those of lower scores and, at one score, before those behind it.
template <class T>
struct Ranked {
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  Bits rank;
  int32_t place;

  Ranked(T score, int64_t at) : place(static_cast<int32_t>(at)) {
    constexpr Bits kSign = Bits(1) << (8 * sizeof(T) - 1);
    const T plain = score + T(0);  // -0 is 0
    Bits bits;
    __builtin_memcpy(&bits, &plain, sizeof(T));
    bits = bits & kSign ? bits : Bits(~bits & ~kSign);
    rank = score != score ? 0 : bits;  // a NaN is first
  }
  bool operator<(const Ranked& other) const { return rank != other.rank ? rank < other.rank : place < other.place; }
};

template <class T>
struct Row {
  const T* boxes;
  const T* scores;
  const bool* real;
  const int64_t* groups;  // may be null: one group
  int64_t places;
};

// The boxes that a group has kept, in tiles (see box_kernels.h).
template <class T>
struct Kept {
  T* tiles = nullptr;
  int64_t count = 0;
};

// Writes the places kept, best first, and returns how many; `memory` is scratch.
template <class T>
int64_t suppress(const Row<T>& row, T limit, int64_t count, int64_t* index, Scratch<T>* memory) {
  std::vector<Ranked<T>> order;
  for (int64_t i = 0; i < row.places; ++i) {
    if (row.real[i]) order.emplace_back(row.scores[i], i);
  }
  std::sort(order.begin(), order.end());
  const int64_t candidates = static_cast<int64_t>(order.size());
  std::vector<int32_t> group_of(candidates, 0);
  std::vector<int64_t> members{candidates};
  if (row.groups) {
    members.clear();
    std::unordered_map<int64_t, int32_t> known;
    for (int64_t i = 0; i < candidates; ++i) {
      const int32_t next = static_cast<int32_t>(members.size());
      group_of[i] = known.try_emplace(row.groups[order[i].place], next).first->second;
      if (group_of[i] == next) members.push_back(0);
      ++members[group_of[i]];
    }
  }
  int64_t total = 0;
  for (const int64_t size : members) total += tiles_of(std::min(size, count));
  T* tiles = memory->get(total * 5 * kTile);
  std::vector<Kept<T>> groups(members.size());
  for (size_t g = 0; g < members.size(); ++g) {
    groups[g].tiles = tiles;
    tiles += tiles_of(std::min(members[g], count)) * 5 * kTile;
  }
  const BoxKernels<T>& kernels = box_kernels<T>();
  int64_t found = 0;
  for (int64_t i = 0; i < candidates && found < count; ++i) {
    const T* at = row.boxes + 4 * order[i].place;
    const Corners<T> box{at[0], at[1], at[2], at[3]};
    const T area = signed_area(box);
    Kept<T>& kept = groups[group_of[i]];
    if (kernels.overlaps(kept.tiles, tiles_of(kept.count), box, area, limit)) continue;
    if (kept.count % kTile == 0) {
      T* fresh = kept.tiles + kept.count / kTile * (5 * kTile);
      std::fill(fresh, fresh + 5 * kTile, std::numeric_limits<T>::quiet_NaN());
    }
    put(kept.tiles, kept.count++, box, area);
    index[found++] = order[i].place;
  }
  return found;
}

std::tuple<Tensor, Tensor> nms(Tensor boxes, Tensor scores, Tensor real, std::optional<Tensor> groups,
                               double iou_threshold, int64_t count) {
  const char* name = "nms";
  check_nms(name, boxes, scores, real, groups, iou_threshold, count);
  STD_TORCH_CHECK(boxes.is_cpu(), name, ": CPU tensors are needed.");
  const int64_t rows = boxes.size(0), places = boxes.size(1);
  const Tensor b = torch::stable::contiguous(boxes), s = torch::stable::contiguous(scores);
  const Tensor r = torch::stable::contiguous(real), g = groups ? torch::stable::contiguous(*groups) : real;
  Tensor index = make(boxes, {rows, count}, ScalarType::Long, false);
  Tensor number = make(boxes, {rows}, ScalarType::Long, false);
  auto* found = static_cast<int64_t*>(index.mutable_data_ptr());
  auto* many = static_cast<int64_t*>(number.mutable_data_ptr());
  MR_DISPATCH_BOXES(boxes.scalar_type(), name, {
    std::vector<Scratch<T>> memory(torch::stable::get_num_threads());
    for_each_unit(rows, [&](int64_t thread, int64_t i) {
      const Row<T> row{static_cast<const T*>(b.const_data_ptr()) + 4 * i * places,
                       static_cast<const T*>(s.const_data_ptr()) + i * places,
                       static_cast<const bool*>(r.const_data_ptr()) + i * places,
                       groups ? static_cast<const int64_t*>(g.const_data_ptr()) + i * places : nullptr, places};
      many[i] = suppress<T>(row, not_above<T>(iou_threshold), count, found + i * count, &memory[thread]);
      std::fill(found + i * count + many[i], found + (i + 1) * count, 0);
    });
  });
  return {index, number};
}

}  // namespace
}  // namespace mrcnn

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) { m.impl("nms", TORCH_BOX(&mrcnn::nms)); }
