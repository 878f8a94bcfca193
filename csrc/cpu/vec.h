// Small vectors of accumulators, and loads and stores that convert from and to the storage types.
//
// GCC's vector extension at a width that is a template parameter: the same source serves AVX-512, AVX2 and
// the baseline, each chosen at run time (see kernels.cpp).  float16 and bfloat16 are widened to float32 on
// load and rounded to nearest even on store with integer arithmetic alone, so no instruction set is assumed.
#pragma once
#include <cstdint>
#include <limits>
#include <type_traits>

#define MR_INLINE inline __attribute__((always_inline))

namespace mrcnn {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class T>
struct AccOf {
  using type = T;
};
template <>
struct AccOf<Half> {
  using type = float;
};
template <>
struct AccOf<BFloat16> {
  using type = float;
};
template <class T>
using Acc = typename AccOf<T>::type;

template <class E, int Bytes>
struct VecOf {
  typedef E type __attribute__((vector_size(Bytes)));
};
template <class E, int Bytes>
using Vec = typename VecOf<E, Bytes>::type;

// The integer that is as wide as an accumulator.
template <class A>
using Index = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;

// Lanes of type float (or double) and the integers beside them.
template <class A, int Bytes>
struct Lanes {
  static constexpr int count = Bytes / sizeof(A);
  using Real = Vec<A, Bytes>;
  using Int = Vec<Index<A>, Bytes>;
  using Unsigned = Vec<uint32_t, count * 4>;
  using Short = Vec<uint16_t, count * 2>;
  using Int32 = Vec<int32_t, count * 4>;
};

template <class V, class P>
static MR_INLINE V load_bits(const P* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}

template <class V, class P>
static MR_INLINE void store_bits(P* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}

template <class A, int B>
static MR_INLINE Vec<A, B> load(const A* p) {
  return load_bits<Vec<A, B>>(p);
}

template <class A, int B>
static MR_INLINE Vec<A, B> load(const BFloat16* p) {
  using L = Lanes<float, B>;
  const auto wide = __builtin_convertvector(load_bits<typename L::Short>(p), typename L::Unsigned) << 16;
  return (typename L::Real)wide;
}

template <class A, int B>
static MR_INLINE Vec<A, B> load(const Half* p) {
  using L = Lanes<float, B>;
  using U = typename L::Unsigned;
  const U h = __builtin_convertvector(load_bits<typename L::Short>(p), U);
  const U magnitude = (h & 0x7FFF) << 13;
  // Multiplying by 2^112 moves the exponent and makes subnormals normal.
  U bits = (U)((typename L::Real)magnitude * 5192296858534827628530496329220096.0f);
  bits |= (U)(magnitude >= (0x7C00u << 13)) & 0x7F800000u;  // infinity and NaN
  return (typename L::Real)(bits | ((h & 0x8000) << 16));
}

template <class A, int B>
static MR_INLINE void store(A* p, Vec<A, B> v) {
  store_bits(p, v);
}

template <class A, int B>
static MR_INLINE void store(BFloat16* p, Vec<float, B> v) {
  using L = Lanes<float, B>;
  using U = typename L::Unsigned;
  const U u = (U)v;
  const U nan = (U)((u & 0x7FFFFFFFu) > 0x7F800000u);
  U r = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;
  r = (r & ~nan) | (nan & 0x7FC0u);
  store_bits(p, __builtin_convertvector(r, typename L::Short));
}

template <class A, int B>
static MR_INLINE void store(Half* p, Vec<float, B> v) {
  using L = Lanes<float, B>;
  using U = typename L::Unsigned;
  using F = typename L::Real;
  const U u = (U)v;
  const U a = u & 0x7FFFFFFFu;
  const U normal = (a + 0xC8000FFFu + ((a >> 13) & 1u)) >> 13;  // exponent - 112, round to even
  const U tiny = (U)((F)a + 0.5f) - 0x3F000000u;                // adding 1/2 rounds at 2^-24
  const U huge = 0x7C00u | ((U)(a > 0x7F800000u) & 0x0200u);
  const U is_tiny = (U)(a < 0x38800000u), is_huge = (U)(a >= 0x47800000u);
  U r = (normal & ~is_tiny) | (tiny & is_tiny);
  r = (r & ~is_huge) | (huge & is_huge);
  store_bits(p, __builtin_convertvector(r | ((u >> 16) & 0x8000u), typename L::Short));
}

// The most negative finite value of a storage type, as an accumulator.
template <class T>
static MR_INLINE Acc<T> lowest() {
  return std::numeric_limits<T>::lowest();
}
template <>
MR_INLINE float lowest<Half>() {
  return -65504.0f;
}
template <>
MR_INLINE float lowest<BFloat16>() {
  return -3.3895313892515355e38f;
}

}  // namespace mrcnn
