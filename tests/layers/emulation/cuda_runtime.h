// Runs the CUDA kernels on a CPU, for tests: as much of CUDA as csrc/cuda uses.
//
// A block's threads are fibers that take turns; __syncthreads() hands over to the next.  A barrier that only
// some of the threads reach aborts (on a GPU it may hang), and shared memory starts out as rubbish.
// Of the hardware nothing is emulated: not the memory model, not the rounding of its instructions.
#pragma once
#include <math.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct int2 {
  int x, y;
};
using cudaStream_t = void*;

namespace emulated {

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(256 << 10);
  dim3 index;
  bool done;
};

inline dim3 grid, block, block_index, thread_index;
inline std::vector<unsigned char> shared;
inline std::vector<Fiber*> fibers;
inline Fiber* current = nullptr;
inline ucontext_t scheduler;
inline std::function<void()> body;

inline void start() {
  body();
  current->done = true;
  swapcontext(&current->context, &scheduler);
}

inline void run_block(size_t threads) {
  for (size_t t = 0; t < threads; ++t) {
    Fiber& fiber = *fibers[t];
    fiber.index = dim3(t % block.x, t / block.x);
    fiber.done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, start, 0);
  }
  for (bool finished = false; !finished;) {
    size_t waiting = 0;
    for (size_t t = 0; t < threads; ++t) {
      current = fibers[t];
      thread_index = current->index;
      swapcontext(&scheduler, &current->context);
      waiting += !current->done;
    }
    if (waiting != 0 && waiting != threads) {
      fputs("__syncthreads() was reached by a part of the block\n", stderr);
      abort();
    }
    finished = waiting == 0;
  }
}

template <class Kernel>
void launch(dim3 blocks, dim3 threads, size_t shared_bytes, Kernel kernel) {
  grid = blocks;
  block = threads;
  body = kernel;
  const size_t count = size_t(threads.x) * threads.y;
  while (fibers.size() < count) fibers.push_back(new Fiber);
  for (unsigned y = 0; y < blocks.y; ++y) {
    for (unsigned x = 0; x < blocks.x; ++x) {
      block_index = dim3(x, y);
      shared.assign(shared_bytes + 64, 0xA5);
      run_block(count);
    }
  }
}

inline unsigned char* aligned_shared() {
  return reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(shared.data()) + 63) & ~uintptr_t(63));
}

}  // namespace emulated

#define threadIdx emulated::thread_index
#define blockIdx emulated::block_index
#define blockDim emulated::block
#define gridDim emulated::grid

inline void __syncthreads() { swapcontext(&emulated::current->context, &emulated::scheduler); }
inline int __ffs(unsigned v) { return __builtin_ffs(static_cast<int>(v)); }
inline int __clz(unsigned v) { return v ? __builtin_clz(v) : 32; }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
template <class T>
inline T atomicOr(T* p, T v) {
  const T old = *p;
  *p |= v;
  return old;
}
template <class T>
inline T atomicMax(T* p, T v) {
  const T old = *p;
  *p = old < v ? v : old;
  return old;
}

// What csrc/cuda/common.cuh leaves open.
#define MR_LAUNCH(KERNEL, GRID, BLOCK, SHARED, STREAM, ...) \
  ((void)(STREAM), emulated::launch(GRID, BLOCK, SHARED, [&]() { KERNEL(__VA_ARGS__); }))
#define MR_DYNAMIC_SHARED(NAME) unsigned char* NAME = emulated::aligned_shared()
#define MR_REGISTER STABLE_TORCH_LIBRARY_IMPL(maskrcnn_emulated, CPU, m)
#define MR_DEVICE_TYPE torch::headeronly::DeviceType::CPU

namespace mrcnn {
struct DeviceGuard {
  explicit DeviceGuard(int) {}
};
inline cudaStream_t stream_of(int) { return nullptr; }
}  // namespace mrcnn
