// See box_kernels.h.  Compiled without floating-point contraction (see ../box_iou.h).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=off")
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#include "box_kernels.h"

#include "kernels.h"

namespace mrcnn {
namespace {

template <class A, int B>
MR_INLINE Vec<A, B> splat(A v) {
  return Vec<A, B>{} + v;
}

template <class A, int B>
MR_INLINE Corners<Vec<A, B>> splat(const Corners<A>& box) {
  return {splat<A, B>(box.x1), splat<A, B>(box.y1), splat<A, B>(box.x2), splat<A, B>(box.y2)};
}

template <class A, int B>
MR_INLINE Corners<Vec<A, B>> corners(const A* lane) {
  return {load<A, B>(lane), load<A, B>(lane + kTile), load<A, B>(lane + 2 * kTile), load<A, B>(lane + 3 * kTile)};
}

template <class M>
MR_INLINE bool any(M mask) {
  constexpr int kWords = sizeof(M) / 8;
  int64_t word[kWords], all = 0;
  __builtin_memcpy(word, &mask, sizeof(M));
  for (int i = 0; i < kWords; ++i) all |= word[i];
  return all != 0;
}

template <class A, int B>
MR_INLINE bool overlaps_body(const A* tiles, int64_t count, const Corners<A>& box, A area, A limit) {
  using L = Lanes<A, B>;
  const auto one = splat<A, B>(box);
  const auto one_area = splat<A, B>(area), most = splat<A, B>(limit);
  for (const A* tile = tiles; tile != tiles + 5 * kTile * count; tile += 5 * kTile) {
    // A quotient above `limit` means a product below the intersection, or equal to it by rounding.
    typename L::Int maybe{};
    for (int i = 0; i < kTile; i += L::count) {
      const auto inter = intersection(corners<A, B>(tile + i), one);
      const auto covered = load<A, B>(tile + 4 * kTile + i) + one_area - inter;
      maybe |= inter >= covered * most;
    }
    if (!any(maybe)) continue;
    typename L::Int sure{};
    for (int i = 0; i < kTile; i += L::count) {
      const auto inter = intersection(corners<A, B>(tile + i), one);
      sure |= inter / (load<A, B>(tile + 4 * kTile + i) + one_area - inter) > most;
    }
    if (any(sure)) return true;
  }
  return false;
}

template <class A, int B>
MR_INLINE A best_body(const A* tiles, int64_t count, const Corners<A>& truth, A area, Index<A> name, A* value,
                      Index<A>* index) {
  using L = Lanes<A, B>;
  const auto one = splat<A, B>(truth);
  const auto one_area = splat<A, B>(area);
  const typename L::Int own = typename L::Int{} + name;
  typename L::Real most{};
  for (int64_t t = 0; t < count; ++t) {
    const A* tile = tiles + 5 * kTile * t;
    for (int i = 0; i < kTile; i += L::count) {
      const auto inter = intersection(one, corners<A, B>(tile + i));
      if (!any(inter > typename L::Real{})) continue;  // an IoU of 0 is above no value
      const auto iou = iou_of(inter, one_area, load<A, B>(tile + 4 * kTile + i));
      A* at = value + t * kTile + i;
      Index<A>* of = index + t * kTile + i;
      const auto before = load<A, B>(at);
      const typename L::Int better = iou > before;
      store<A, B>(at, better ? iou : before);
      store_bits(of, better ? own : load_bits<typename L::Int>(of));
      most = iou > most ? iou : most;
    }
  }
  A result = 0;
  for (int i = 0; i < L::count; ++i) result = most[i] > result ? most[i] : result;
  return result;
}

template <class A, int B>
MR_INLINE void claim_body(const A* tiles, int64_t count, const Corners<A>& truth, A area, A wanted, int8_t* label) {
  using L = Lanes<A, B>;
  const auto one = splat<A, B>(truth);
  const auto one_area = splat<A, B>(area), value = splat<A, B>(wanted);
  for (int64_t t = 0; t < count; ++t) {
    const A* tile = tiles + 5 * kTile * t;
    for (int i = 0; i < kTile; i += L::count) {
      const auto inter = intersection(one, corners<A, B>(tile + i));
      const typename L::Int equal = iou_of(inter, one_area, load<A, B>(tile + 4 * kTile + i)) == value;
      if (!any(equal)) continue;
      for (int j = 0; j < L::count; ++j) {
        if (equal[j]) label[t * kTile + i + j] = 1;
      }
    }
  }
}

#define MR_BOX_TABLE(NAME, BYTES, ATTRIBUTE)                                                                         \
  template <class A>                                                                                                 \
  struct NAME {                                                                                                      \
    ATTRIBUTE static bool overlaps(const A* tiles, int64_t count, const Corners<A>& box, A area, A limit) {          \
      return overlaps_body<A, BYTES>(tiles, count, box, area, limit);                                                \
    }                                                                                                                \
    ATTRIBUTE static A best(const A* tiles, int64_t count, const Corners<A>& truth, A area, Index<A> name, A* value, \
                            Index<A>* index) {                                                                       \
      return best_body<A, BYTES>(tiles, count, truth, area, name, value, index);                                     \
    }                                                                                                                \
    ATTRIBUTE static void claim(const A* tiles, int64_t count, const Corners<A>& truth, A area, A wanted,            \
                                int8_t* label) {                                                                     \
      claim_body<A, BYTES>(tiles, count, truth, area, wanted, label);                                                \
    }                                                                                                                \
    static BoxKernels<A> table() { return {overlaps, best, claim}; }                                                 \
  };

MR_BOX_TABLE(Baseline, 16, )
#if defined(__x86_64__)
MR_BOX_TABLE(Avx2, 32, __attribute__((target("avx2,fma"))))
MR_BOX_TABLE(Avx512, 64, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))))
#endif

}  // namespace

template <class A>
const BoxKernels<A>& box_kernels() {
#if defined(__x86_64__)
  static const BoxKernels<A> table = isa() == Isa::kAvx512 ? Avx512<A>::table()
                                     : isa() == Isa::kAvx2 ? Avx2<A>::table()
                                                           : Baseline<A>::table();
#else
  static const BoxKernels<A> table = Baseline<A>::table();
#endif
  return table;
}

template const BoxKernels<float>& box_kernels<float>();
template const BoxKernels<double>& box_kernels<double>();

}  // namespace mrcnn
