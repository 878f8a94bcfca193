// The tables of inner loops: each body compiled for AVX-512, AVX2 and the baseline, chosen once at run time.
//
// Written out with target attributes rather than target_clones, which templates do not take; so one binary
// runs everywhere and is as fast as a build with -march=native.  Elsewhere than on x86 there is one version.
// The build turns contraction off for the geometry; here a fused multiply-add is welcome.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast")
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#include "kernels_body.h"

namespace mrcnn {

#define MR_TABLE(NAME, BYTES, ATTRIBUTE)                                                                               \
  template <class T>                                                                                                   \
  struct NAME {                                                                                                        \
    using A = Acc<T>;                                                                                                  \
    ATTRIBUTE static void average(const T* src, int64_t row, int64_t pixel, TapList<A> y, TapList<A> x,                \
                                  int64_t bins_y, int64_t bins_x, int64_t channels, T* dst, int64_t bin_stride) {      \
      over_channels<A, BYTES>(channels, AverageBody<T>{src, row, pixel, y, x, bins_y, bins_x, dst, bin_stride});       \
    }                                                                                                                  \
    ATTRIBUTE static void spread(const T* grad, int64_t bin_stride, int64_t bins_x, TapList<A> rows,                   \
                                 int64_t row_count, TapList<A> columns, int64_t column_count, int64_t channels,        \
                                 A* dst, int64_t row, int64_t pixel) {                                                 \
      over_channels<A, BYTES>(channels, SpreadBody<T>{grad, bin_stride, bins_x, rows, row_count, columns,              \
                                                      column_count, dst, row, pixel});                                 \
    }                                                                                                                  \
    ATTRIBUTE static void sample(const T* src, const Sample<A>* samples, int64_t count, A factor, bool maximum,        \
                                 bool outside, int64_t channels, T* dst, int32_t* arg) {                               \
      over_channels<A, BYTES>(channels, SampleBody<T>{src, samples, count, factor, maximum, outside, dst, arg});       \
    }                                                                                                                  \
    ATTRIBUTE static void unsample(const T* grad, const int32_t* arg, const Sample<A>* samples, int64_t count,         \
                                   A factor, bool maximum, int64_t channels, A* dst) {                                 \
      if (!maximum) {                                                                                                  \
        over_channels<A, BYTES>(channels, UnsampleBody<T>{grad, samples, count, factor, dst});                         \
        return;                                                                                                        \
      }                                                                                                                \
      for (int64_t c = 0; c < channels; ++c) {                                                                         \
        if (arg[c] < 0 || arg[c] >= count) continue;                                                                   \
        const Sample<A>& at = samples[arg[c]];                                                                         \
        const A g = load<A, sizeof(A)>(grad + c)[0];                                                                   \
        for (int t = 0; t < 4; ++t) dst[at.offset[t] + c] += at.weight[t] * g;                                         \
      }                                                                                                                \
    }                                                                                                                  \
    ATTRIBUTE static void pool(const T* src, int64_t row, int64_t pixel, int64_t y0, int64_t y1, int64_t x0,           \
                               int64_t x1, int64_t width, int64_t channels, T* dst, int32_t* arg) {                    \
      over_channels<A, BYTES>(channels, PoolBody<T>{src, row, pixel, y0, y1, x0, x1, width, dst, arg});                \
    }                                                                                                                  \
    ATTRIBUTE static void unpool(const T* grad, const int32_t* arg, int64_t first, int64_t last, int64_t pixel,        \
                                 int64_t channels, A* dst) {                                                           \
      for (int64_t c = 0; c < channels; ++c) {                                                                         \
        if (arg[c] < first || arg[c] >= last) continue;                                                                \
        dst[arg[c] * pixel + c] += load<A, sizeof(A)>(grad + c)[0];                                                    \
      }                                                                                                                \
    }                                                                                                                  \
    ATTRIBUTE static A dot(const T* a, const T* b, int64_t channels) {                                                 \
      A total = 0;                                                                                                     \
      over_channels<A, BYTES>(channels, DotBody<T>{a, b, &total});                                                     \
      return total;                                                                                                    \
    }                                                                                                                  \
    ATTRIBUTE static void transpose(const T* src, int64_t ss, int64_t rows, int64_t columns, T* dst, int64_t ds) {     \
      transpose_body<A, BYTES>(src, ss, rows, columns, dst, ds);                                                       \
    }                                                                                                                  \
    ATTRIBUTE static void transpose_int(const int32_t* src, int64_t ss, int64_t rows, int64_t columns, int32_t* dst,   \
                                        int64_t ds) {                                                                  \
      transpose_body<int32_t, BYTES>(src, ss, rows, columns, dst, ds);                                                 \
    }                                                                                                                  \
    ATTRIBUTE static void transpose_round(const A* src, int64_t ss, int64_t rows, int64_t columns, T* dst,             \
                                          int64_t ds) {                                                                \
      transpose_body<A, BYTES>(src, ss, rows, columns, dst, ds);                                                       \
    }                                                                                                                  \
    ATTRIBUTE static void copy_round(const A* src, int64_t ss, int64_t rows, int64_t columns, T* dst, int64_t ds) {    \
      for (int64_t r = 0; r < rows; ++r) over_channels<A, BYTES>(columns, CopyBody<A, T>{src + r * ss, dst + r * ds}); \
    }                                                                                                                  \
    static const Kernels<T>& table() {                                                                                 \
      static const Kernels<T> t{average, spread,    sample,        unsample,        pool,      unpool,                 \
                                dot,     transpose, transpose_int, transpose_round, copy_round};                       \
      return t;                                                                                                        \
    }                                                                                                                  \
  };

MR_TABLE(Baseline, 16, )

#if defined(__x86_64__)
MR_TABLE(Avx2, 32, __attribute__((target("avx2,fma"))))
MR_TABLE(Avx512, 64, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))))

template <class T>
const Kernels<T>& kernels() {
  static const Kernels<T>& chosen = []() -> const Kernels<T>& {
    __builtin_cpu_init();
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (wide) return Avx512<T>::table();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Avx2<T>::table();
    return Baseline<T>::table();
  }();
  return chosen;
}
#else
template <class T>
const Kernels<T>& kernels() {
  return Baseline<T>::table();
}
#endif

template const Kernels<float>& kernels<float>();
template const Kernels<double>& kernels<double>();
template const Kernels<Half>& kernels<Half>();
template const Kernels<BFloat16>& kernels<BFloat16>();

}  // namespace mrcnn
