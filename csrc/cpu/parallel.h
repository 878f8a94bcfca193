// Threads over work units of uneven size, and memory that is cheap to touch for the first time.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace mrcnn {

// Calls work(thread, unit) once for every unit; threads take the next unit when they are done with one.
// Results must not depend on which thread takes what.
template <class Work>
void for_each_unit(int64_t units, const Work& work) {
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), units);
  if (threads <= 1) {
    for (int64_t u = 0; u < units; ++u) work(0, u);
    return;
  }
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t u = next++; u < units; u = next++) work(t, u);
    }
  });
}

// Asks for huge pages: faulting in 4 KiB pages one by one costs as much as the operators themselves.
inline void advise_huge(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHuge = uintptr_t(1) << 21;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + kHuge - 1) & ~(kHuge - 1);
  const uintptr_t last = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kHuge - 1);
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)data;
  (void)bytes;
#endif
}

// Uninitialised scratch memory of one thread; grows, never shrinks.
template <class T>
class Scratch {
 public:
  T* get(int64_t count) {
    if (count > capacity_) {
      const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) & ~size_t(63);
      data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
      if (!data_) throw std::bad_alloc();
      advise_huge(data_.get(), bytes);
      capacity_ = count;
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  int64_t capacity_ = 0;
};

}  // namespace mrcnn
