// The bodies of the inner loops, templates over storage type T and vector width B (bytes).
//
// Accumulators stay in registers: a block of NV vectors of channels runs through all taps of a bin before it
// is stored once.  `spread` is a gather too: each touched cell sums over the bins that see it and is read and
// written once, instead of once a tap.  Channel counts that no vector divides end in narrower vectors and
// single lanes, through the same code.  Everything is always_inline: it takes the instruction set of the
// function it lands in.
#pragma once
#include "kernels.h"

namespace mrcnn {

// Runs body.template block<B, NV>(c) over all channels, the widest blocks first.
template <class A, int B, class Body>
static MR_INLINE void over_channels(int64_t channels, const Body& body) {
  constexpr int N = B / sizeof(A);
  int64_t c = 0;
  for (; c + 8 * N <= channels; c += 8 * N) body.template block<B, 8>(c);
  if (c + 4 * N <= channels) {
    body.template block<B, 4>(c);
    c += 4 * N;
  }
  for (; c + N <= channels; c += N) body.template block<B, 1>(c);
  if constexpr (B > 16) {
    for (; c + 16 / int(sizeof(A)) <= channels; c += 16 / sizeof(A)) body.template block<16, 1>(c);
  }
  for (; c < channels; ++c) body.template block<sizeof(A), 1>(c);
}

template <class T>
struct AverageBody {
  using A = Acc<T>;
  const T* src;
  int64_t row, pixel;
  TapList<A> y, x;
  int64_t bins_y, bins_x;
  T* dst;
  int64_t bin_stride;

  template <int B, int NV>
  MR_INLINE void block(int64_t c) const {
    constexpr int N = B / sizeof(A);
    using V = Vec<A, B>;
    T* out = dst + c;
    for (int64_t p = 0; p < bins_y; ++p) {
      for (int64_t q = 0; q < bins_x; ++q, out += bin_stride) {
        V acc[NV];
        for (int k = 0; k < NV; ++k) acc[k] = V{};
        for (int32_t i = y.begin[p]; i < y.begin[p + 1]; ++i) {
          const T* line = src + y.index[i] * row + c;
          const A wy = y.weight[i];
          for (int32_t j = x.begin[q]; j < x.begin[q + 1]; ++j) {
            const T* cell = line + x.index[j] * pixel;
            const A w = wy * x.weight[j];
            for (int k = 0; k < NV; ++k) acc[k] += w * load<A, B>(cell + k * N);
          }
        }
        for (int k = 0; k < NV; ++k) store<A, B>(out + k * N, acc[k]);
      }
    }
  }
};

template <class A>
struct SpreadBody {
  const A* grad;
  int64_t bin_stride, bins_x;
  TapList<A> rows;
  int64_t row_count;
  TapList<A> columns;
  int64_t column_count;
  A* dst;
  int64_t row, pixel;

  template <int B, int NV>
  MR_INLINE void block(int64_t c) const {
    constexpr int N = B / sizeof(A);
    using V = Vec<A, B>;
    for (int64_t i = 0; i < row_count; ++i) {
      const int32_t p0 = rows.begin[i], p1 = rows.begin[i + 1];
      if (p0 == p1) continue;
      A* cell = dst + i * row + c;
      for (int64_t j = 0; j < column_count; ++j, cell += pixel) {
        const int32_t q0 = columns.begin[j], q1 = columns.begin[j + 1];
        if (q0 == q1) continue;
        V acc[NV];
        for (int k = 0; k < NV; ++k) acc[k] = load<A, B>(cell + k * N);
        for (int32_t p = p0; p < p1; ++p) {
          const A* line = grad + rows.index[p] * bins_x * bin_stride + c;
          const A wy = rows.weight[p];
          for (int32_t q = q0; q < q1; ++q) {
            const A* g = line + columns.index[q] * bin_stride;
            const A w = wy * columns.weight[q];
            for (int k = 0; k < NV; ++k) acc[k] += w * load<A, B>(g + k * N);
          }
        }
        for (int k = 0; k < NV; ++k) store<A, B>(cell + k * N, acc[k]);
      }
    }
  }
};

template <class T>
struct SampleBody {
  using A = Acc<T>;
  const T* src;
  const Sample<A>* samples;
  int64_t count;
  A factor;
  bool maximum, outside;
  T* dst;
  int32_t* arg;

  template <int B, int NV>
  MR_INLINE void block(int64_t c) const {
    constexpr int N = B / sizeof(A);
    using V = Vec<A, B>;
    using I = typename Lanes<A, B>::Int;
    V best[NV];
    I index[NV];
    for (int k = 0; k < NV; ++k) {
      best[k] = V{};
      index[k] = I{} - 1;
    }
    for (int64_t s = 0; s < count; ++s) {
      const Sample<A>& at = samples[s];
      const T *a = src + at.offset[0] + c, *b = src + at.offset[1] + c;
      const T *d = src + at.offset[2] + c, *e = src + at.offset[3] + c;
      for (int k = 0; k < NV; ++k) {
        V v = at.weight[0] * load<A, B>(a + k * N);
        v += at.weight[1] * load<A, B>(b + k * N);
        v += at.weight[2] * load<A, B>(d + k * N);
        v += at.weight[3] * load<A, B>(e + k * N);
        if (!maximum) {
          best[k] += v;
        } else if (s == 0) {
          best[k] = v;
          index[k] = I{};
        } else {
          const I more = (I)(v > best[k]);
          best[k] = (V)(((I)v & more) | ((I)best[k] & ~more));
          index[k] = ((I{} + static_cast<Index<A>>(s)) & more) | (index[k] & ~more);
        }
      }
    }
    for (int k = 0; k < NV; ++k) {
      if (!maximum) {
        best[k] *= factor;
      } else {
        if (outside && count > 0) {
          const I negative = (I)(best[k] < V{});
          best[k] = (V)((I)best[k] & ~negative);
          index[k] |= negative;
        }
      }
      store<A, B>(dst + c + k * N, best[k]);
      store_bits(arg + c + k * N, __builtin_convertvector(index[k], Vec<int32_t, N * 4>));
    }
  }
};

template <class A>
struct UnsampleBody {
  const A* grad;
  const Sample<A>* samples;
  int64_t count;
  A factor;
  A* dst;

  template <int B, int NV>
  MR_INLINE void block(int64_t c) const {
    constexpr int N = B / sizeof(A);
    Vec<A, B> g[NV];
    for (int k = 0; k < NV; ++k) g[k] = load<A, B>(grad + c + k * N) * factor;
    for (int64_t s = 0; s < count; ++s) {
      for (int t = 0; t < 4; ++t) {
        A* cell = dst + samples[s].offset[t] + c;
        const A w = samples[s].weight[t];
        for (int k = 0; k < NV; ++k) store<A, B>(cell + k * N, load<A, B>(cell + k * N) + w * g[k]);
      }
    }
  }
};

template <class T>
struct PoolBody {
  using A = Acc<T>;
  const T* src;
  int64_t row, pixel, y0, y1, x0, x1, width;
  T* dst;
  int32_t* arg;

  template <int B, int NV>
  MR_INLINE void block(int64_t c) const {
    constexpr int N = B / sizeof(A);
    using V = Vec<A, B>;
    using I = typename Lanes<A, B>::Int;
    const bool empty = y1 <= y0 || x1 <= x0;
    V best[NV];
    I index[NV];
    for (int k = 0; k < NV; ++k) {
      best[k] = V{} + (empty ? A(0) : lowest<T>());
      index[k] = I{} - 1;
    }
    for (int64_t y = y0; y < y1; ++y) {
      for (int64_t x = x0; x < x1; ++x) {
        const T* cell = src + y * row + x * pixel + c;
        const I here = I{} + static_cast<Index<A>>(y * width + x);
        for (int k = 0; k < NV; ++k) {
          const V v = load<A, B>(cell + k * N);
          const I more = (I)(v > best[k]);
          best[k] = (V)(((I)v & more) | ((I)best[k] & ~more));
          index[k] = (here & more) | (index[k] & ~more);
        }
      }
    }
    for (int k = 0; k < NV; ++k) {
      store<A, B>(dst + c + k * N, best[k]);
      store_bits(arg + c + k * N, __builtin_convertvector(index[k], Vec<int32_t, N * 4>));
    }
  }
};

template <class T>
struct DotBody {
  using A = Acc<T>;
  const T *a, *b;
  A* total;

  template <int B, int NV>
  MR_INLINE void block(int64_t c) const {
    constexpr int N = B / sizeof(A);
    Vec<A, B> sum = load<A, B>(a + c) * load<A, B>(b + c);
    for (int k = 1; k < NV; ++k) sum += load<A, B>(a + c + k * N) * load<A, B>(b + c + k * N);
    for (int n = 0; n < N; ++n) *total += sum[n];
  }
};

// Exchanges the S-wide sub-blocks of N vectors (Eklundh); S = N/2, N/4, ..., 1 transposes an N x N block.
template <class V, class I, int N, int S>
static MR_INLINE void exchange(V* r) {
  I first, second;
  for (int j = 0; j < N; ++j) {
    first[j] = (j & S) ? N + j - S : j;
    second[j] = (j & S) ? N + j : j + S;
  }
  for (int i = 0; i < N; ++i) {
    if (i & S) continue;
    const V a = r[i], b = r[i + S];
#if defined(__clang__)
    for (int j = 0; j < N; ++j) {
      r[i][j] = (j & S) ? b[j - S] : a[j];
      r[i + S][j] = (j & S) ? b[j] : a[j + S];
    }
#else
    r[i] = __builtin_shuffle(a, b, first);
    r[i + S] = __builtin_shuffle(a, b, second);
#endif
  }
  if constexpr (S > 1) exchange<V, I, N, S / 2>(r);
}

template <class A, int B, class S, class D>
static MR_INLINE void transpose_block(const S* src, int64_t src_stride, D* dst, int64_t dst_stride) {
  constexpr int N = B / sizeof(A);
  Vec<A, B> r[N];
  for (int i = 0; i < N; ++i) r[i] = load<A, B>(src + i * src_stride);
  exchange<Vec<A, B>, typename Lanes<A, B>::Int, N, N / 2>(r);
  for (int i = 0; i < N; ++i) store<A, B>(dst + i * dst_stride, r[i]);
}

// Strips of 256 columns: within one, N source rows at a time are read as streams that the prefetcher follows, and
// the strip of the destination stays in the cache.  A last partial block overlaps its neighbour: what it writes
// twice is the same.
template <class A, int B, class S, class D>
static MR_INLINE void transpose_body(const S* src, int64_t ss, int64_t rows, int64_t columns, D* dst, int64_t ds) {
  constexpr int N = B / sizeof(A);
  if (rows < N || columns < N) {
    for (int64_t c = 0; c < columns; ++c)
      for (int64_t r = 0; r < rows; ++r) store<A, sizeof(A)>(dst + c * ds + r, load<A, sizeof(A)>(src + r * ss + c));
    return;
  }
  constexpr int64_t kStrip = 256;
  for (int64_t c0 = 0; c0 < columns; c0 += kStrip) {
    const int64_t c1 = c0 + kStrip < columns ? c0 + kStrip : columns;
    for (int64_t r = 0; r < rows; r += N) {
      if (r + N > rows) r = rows - N;
      for (int64_t c = c0; c < c1; c += N) {
        if (c + N > columns) c = columns - N;
        transpose_block<A, B>(src + r * ss + c, ss, dst + c * ds + r, ds);
      }
    }
  }
}

template <class A, class S, class D>
struct CopyBody {
  const S* src;
  D* dst;

  template <int B, int NV>
  MR_INLINE void block(int64_t c) const {
    constexpr int N = B / sizeof(A);
    for (int k = 0; k < NV; ++k) store<A, B>(dst + c + k * N, load<A, B>(src + c + k * N));
  }
};

}  // namespace mrcnn
