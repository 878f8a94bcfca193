// The tables of inner loops: each body compiled for AVX-512, AVX2 and the baseline, chosen once at run time.
//
// Written out with target attributes rather than target_clones, which templates do not take; so one binary
// runs everywhere and is as fast as a build with -march=native.  Elsewhere than on x86 there is one version.
#include <cstdlib>
#include <cstring>

// The build turns contraction off for the geometry; here a fused multiply-add is welcome.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast")
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#include "kernels_body.h"

namespace mrcnn {

#define MR_TABLES(NAME, BYTES, ATTRIBUTE)                                                                              \
  template <class T>                                                                                                   \
  struct NAME {                                                                                                        \
    using A = Acc<T>;                                                                                                  \
    ATTRIBUTE static void average(const T* src, int64_t row, int64_t pixel, TapList<A> y, TapList<A> x,                \
                                  int64_t bins_y, int64_t bins_x, int64_t channels, T* dst, int64_t bin_stride) {      \
      over_channels<A, BYTES>(channels, AverageBody<T>{src, row, pixel, y, x, bins_y, bins_x, dst, bin_stride});       \
    }                                                                                                                  \
    ATTRIBUTE static void sample(const T* src, const Sample<A>* samples, int64_t count, A factor, bool maximum,        \
                                 bool outside, int64_t channels, T* dst, int32_t* arg) {                               \
      over_channels<A, BYTES>(channels, SampleBody<T>{src, samples, count, factor, maximum, outside, dst, arg});       \
    }                                                                                                                  \
    ATTRIBUTE static void pool(const T* src, int64_t row, int64_t pixel, int64_t y0, int64_t y1, int64_t x0,           \
                               int64_t x1, int64_t width, int64_t channels, T* dst, int32_t* arg) {                    \
      over_channels<A, BYTES>(channels, PoolBody<T>{src, row, pixel, y0, y1, x0, x1, width, dst, arg});                \
    }                                                                                                                  \
    ATTRIBUTE static A dot(const T* a, const T* b, int64_t channels) {                                                 \
      A total = 0;                                                                                                     \
      over_channels<A, BYTES>(channels, DotBody<T>{a, b, &total});                                                     \
      return total;                                                                                                    \
    }                                                                                                                  \
    template <class S, class D>                                                                                        \
    ATTRIBUTE static void transpose(const S* src, int64_t ss, int64_t rows, int64_t columns, D* dst, int64_t ds) {     \
      transpose_body<A, BYTES>(src, ss, rows, columns, dst, ds);                                                       \
    }                                                                                                                  \
    template <class S, class D>                                                                                        \
    ATTRIBUTE static void copy(const S* src, int64_t ss, int64_t rows, int64_t columns, D* dst, int64_t ds) {          \
      for (int64_t r = 0; r < rows; ++r) {                                                                             \
        over_channels<A, BYTES>(columns, CopyBody<A, S, D>{src + r * ss, dst + r * ds});                               \
      }                                                                                                                \
    }                                                                                                                  \
    static Kernels<T> table() {                                                                                        \
      return {average, sample, pool, dot, transpose<T, T>, transpose<T, A>, transpose<A, T>, copy<T, A>, copy<A, T>};  \
    }                                                                                                                  \
                                                                                                                       \
    ATTRIBUTE static void spread(const A* grad, int64_t bin_stride, int64_t bins_x, TapList<A> rows,                   \
                                 int64_t row_count, TapList<A> columns, int64_t column_count, int64_t channels,        \
                                 A* dst, int64_t row, int64_t pixel) {                                                 \
      over_channels<A, BYTES>(                                                                                         \
          channels, SpreadBody<A>{grad, bin_stride, bins_x, rows, row_count, columns, column_count, dst, row, pixel}); \
    }                                                                                                                  \
    ATTRIBUTE static void unsample(const A* grad, const int32_t* arg, const Sample<A>* samples, int64_t count,         \
                                   A factor, bool maximum, int64_t channels, A* dst) {                                 \
      if (!maximum) {                                                                                                  \
        over_channels<A, BYTES>(channels, UnsampleBody<A>{grad, samples, count, factor, dst});                         \
        return;                                                                                                        \
      }                                                                                                                \
      for (int64_t c = 0; c < channels; ++c) {                                                                         \
        if (arg[c] < 0 || arg[c] >= count) continue;                                                                   \
        const Sample<A>& at = samples[arg[c]];                                                                         \
        for (int t = 0; t < 4; ++t) dst[at.offset[t] + c] += at.weight[t] * grad[c];                                   \
      }                                                                                                                \
    }                                                                                                                  \
    ATTRIBUTE static void unpool(const A* grad, const int32_t* arg, int64_t first, int64_t last, int64_t pixel,        \
                                 int64_t channels, A* dst) {                                                           \
      for (int64_t c = 0; c < channels; ++c) {                                                                         \
        if (arg[c] < first || arg[c] >= last) continue;                                                                \
        dst[arg[c] * pixel + c] += grad[c];                                                                            \
      }                                                                                                                \
    }                                                                                                                  \
    static Gradients<A> gradient_table() { return {spread, unsample, unpool}; }                                        \
  };

MR_TABLES(Baseline, 16, )

#if defined(__x86_64__)
MR_TABLES(Avx2, 32, __attribute__((target("avx2,fma"))))
MR_TABLES(Avx512, 64, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))))
#endif

static Isa detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;
#endif
  return Isa::kBaseline;
}

// MASKRCNN_CPU=baseline|avx2 holds the choice back, for tests of the other versions.
static Isa choose() {
  const Isa best = detect();
  const char* wish = std::getenv("MASKRCNN_CPU");
  if (wish && std::strcmp(wish, "baseline") == 0) return Isa::kBaseline;
  if (wish && std::strcmp(wish, "avx2") == 0 && best == Isa::kAvx512) return Isa::kAvx2;
  return best;
}

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

template <class T>
const Kernels<T>& kernels() {
#if defined(__x86_64__)
  static const Kernels<T> table = isa() == Isa::kAvx512 ? Avx512<T>::table()
                                  : isa() == Isa::kAvx2 ? Avx2<T>::table()
                                                        : Baseline<T>::table();
#else
  static const Kernels<T> table = Baseline<T>::table();
#endif
  return table;
}

template <class A>
const Gradients<A>& gradients() {
#if defined(__x86_64__)
  static const Gradients<A> table = isa() == Isa::kAvx512 ? Avx512<A>::gradient_table()
                                    : isa() == Isa::kAvx2 ? Avx2<A>::gradient_table()
                                                          : Baseline<A>::gradient_table();
#else
  static const Gradients<A> table = Baseline<A>::gradient_table();
#endif
  return table;
}

template const Kernels<float>& kernels<float>();
template const Kernels<double>& kernels<double>();
template const Kernels<Half>& kernels<Half>();
template const Kernels<BFloat16>& kernels<BFloat16>();
template const Gradients<float>& gradients<float>();
template const Gradients<double>& gradients<double>();

}  // namespace mrcnn
