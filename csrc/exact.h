// Arithmetic that rounds after every step, for the geometry of the RoI operators.
//
// A fused multiply-add changes the last bit of `start + p * bin`, and with it, for boxes whose size is an
// exact multiple of the bin, the adaptive sample count ceil(size / bins).  nvcc fuses by default, so device
// code spells each operation out; host code that includes this header is compiled without contraction (see
// cpu/geometry.cpp).  Everything is free of torch types and usable from host and device.
#pragma once
#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define MR_HD static __host__ __device__ __forceinline__
#else
#define MR_HD static inline
#endif

namespace mrcnn {

#if defined(__CUDA_ARCH__)
MR_HD float mul(float a, float b) { return __fmul_rn(a, b); }
MR_HD double mul(double a, double b) { return __dmul_rn(a, b); }
MR_HD float add(float a, float b) { return __fadd_rn(a, b); }
MR_HD double add(double a, double b) { return __dadd_rn(a, b); }
MR_HD float quot(float a, float b) { return __fdiv_rn(a, b); }
MR_HD double quot(double a, double b) { return __ddiv_rn(a, b); }
#else
MR_HD float mul(float a, float b) { return a * b; }
MR_HD double mul(double a, double b) { return a * b; }
MR_HD float add(float a, float b) { return a + b; }
MR_HD double add(double a, double b) { return a + b; }
MR_HD float quot(float a, float b) { return a / b; }
MR_HD double quot(double a, double b) { return a / b; }
#endif

template <class T>
MR_HD T at_least(T a, T low) {
  return a < low ? low : a;
}
template <class T>
MR_HD T at_most(T a, T high) {
  return a > high ? high : a;
}
template <class T>
MR_HD T clip(T a, T low, T high) {
  return at_most(at_least(a, low), high);
}

// Float to integer for any finite value: huge ones stop at +-2^40, far outside any map.
template <class T>
MR_HD int64_t to_int(T v) {
  return static_cast<int64_t>(clip(v, T(-1099511627776.0), T(1099511627776.0)));
}

// A row of `rois` may be used: every number is finite and the batch index is one of the images.
// The CPU kernels raise for the others, the CUDA kernels give 0 and no gradient.
template <class T>
MR_HD bool roi_is_finite(const T* roi) {
  T sum = 0;
  for (int i = 0; i < 5; ++i) sum += roi[i] * T(0);  // NaN if any is NaN or infinite
  return sum == T(0);
}

template <class T>
MR_HD bool batch_index_is_good(T index, int64_t images) {
  return index >= T(0) && index < static_cast<T>(images) && index == std::floor(index);
}

}  // namespace mrcnn
