// Matching: the ground truth that each box overlaps most, and the boxes that each ground truth does.
//
// A thread has a box and goes through its image's ground truths, which lie in shared memory a few at a time.  The
// largest IoU of a ground truth is found by atomic maxima, of which the order does not matter: IoUs are not
// negative, and so their bits are ordered as they are.
#include "box_checks.h"
#include "box_iou.h"
#include "common.cuh"

namespace mrcnn {
namespace {

constexpr int kThreads = 256;
constexpr int kAtOnce = 64;  // ground truths

template <class T>
using Bits = std::conditional_t<sizeof(T) == 8, unsigned long long, unsigned>;

template <class T>
struct Pairs {
  const T* truth;    // [N, G, 4]
  const bool* real;  // [N, G]
  const T* boxes;    // [M, 4] or [N, M, 4]
  int64_t truths, count, image_stride;
};

template <class T>
struct Truths {
  Corners<T> corners[kAtOnce];
  T area[kAtOnce];
  bool real[kAtOnce];
};

template <class T>
MR_DEVICE Bits<T> bits_of(T value) {
  union {
    T value;
    Bits<T> bits;
  } both;
  both.value = value;
  return both.bits;
}

// Ground truths [first, first + kAtOnce) of an image; returns how many there are.
template <class T>
MR_DEVICE int load_truths(const Pairs<T>& pairs, int64_t image, int64_t first, Truths<T>* out) {
  const int64_t g = first + threadIdx.x;
  __syncthreads();  // nobody reads the last ones any more
  if (threadIdx.x < kAtOnce && g < pairs.truths) {
    const T* at = pairs.truth + 4 * (image * pairs.truths + g);
    const Corners<T> box{at[0], at[1], at[2], at[3]};
    out->corners[threadIdx.x] = box;
    out->area[threadIdx.x] = box_area(box);
    out->real[threadIdx.x] = pairs.real[image * pairs.truths + g];
  }
  __syncthreads();
  return static_cast<int>(at_most<int64_t>(kAtOnce, pairs.truths - first));
}

// This thread's box; false beyond the last.
template <class T>
MR_DEVICE bool load_box(const Pairs<T>& pairs, int64_t image, int64_t m, Corners<T>* box) {
  if (m >= pairs.count) return false;
  const T* at = pairs.boxes + image * pairs.image_stride + 4 * m;
  *box = {at[0], at[1], at[2], at[3]};
  return true;
}

// most: the largest IoU of every ground truth, as bits, zeros before; may be null.
template <class T>
__global__ void __launch_bounds__(kThreads)
    match_kernel(const Pairs<T> pairs, const T low, const T high, const T floor, const bool floored, int64_t* index,
                 int8_t* labels, Bits<T>* most) {
  __shared__ Truths<T> truths;
  __shared__ Bits<T> top[kAtOnce];
  const int64_t image = blockIdx.y, m = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  Corners<T> box{};
  const bool mine = load_box(pairs, image, m, &box);
  const T area = box_area(box);
  T value = -1;
  int64_t best = 0;
  for (int64_t first = 0; first < pairs.truths; first += kAtOnce) {
    if (threadIdx.x < kAtOnce) top[threadIdx.x] = 0;
    const int there = load_truths(pairs, image, first, &truths);
    for (int g = 0; g < there; ++g) {
      if (!mine || !truths.real[g]) continue;
      const T iou = iou_of(intersection(truths.corners[g], box), truths.area[g], area);
      if (iou > value) {
        value = iou;
        best = first + g;
      }
      if (most && iou > T(0)) atomicMax(&top[g], bits_of(iou));
    }
    __syncthreads();
    if (most && threadIdx.x < there && top[threadIdx.x]) {
      atomicMax(&most[image * pairs.truths + first + threadIdx.x], top[threadIdx.x]);
    }
  }
  if (!mine) return;
  index[image * pairs.count + m] = best;
  const bool ignored = floored && value < floor;
  labels[image * pairs.count + m] = static_cast<int8_t>(ignored ? -1 : 2 * (value >= high) - (value >= low));
}

// Boxes that some ground truth overlaps most are labelled 1.
template <class T>
__global__ void __launch_bounds__(kThreads) claim_kernel(const Pairs<T> pairs, const Bits<T>* most, int8_t* labels) {
  __shared__ Truths<T> truths;
  __shared__ Bits<T> top[kAtOnce];
  const int64_t image = blockIdx.y, m = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  Corners<T> box{};
  const bool mine = load_box(pairs, image, m, &box);
  const T area = box_area(box);
  bool claimed = false;
  for (int64_t first = 0; first < pairs.truths; first += kAtOnce) {
    const int there = load_truths(pairs, image, first, &truths);
    if (threadIdx.x < there) top[threadIdx.x] = most[image * pairs.truths + first + threadIdx.x];
    __syncthreads();
    for (int g = 0; g < there; ++g) {
      if (!mine || top[g] == 0) continue;  // unreal ones, and those that overlap no box
      claimed |= bits_of(iou_of(intersection(truths.corners[g], box), truths.area[g], area)) == top[g];
    }
  }
  if (claimed) labels[image * pairs.count + m] = 1;
}

std::tuple<Tensor, Tensor> match(Tensor truth, Tensor truth_real, Tensor boxes, double low, double high,
                                 bool low_quality, double floor) {
  const char* name = "match";
  check_match(name, truth, truth_real, boxes);
  STD_TORCH_CHECK(on_device(truth) && truth.size(0) < (1 << 16), name, ": CUDA tensors are needed, of fewer than ",
                  1 << 16, " images.");
  const int64_t images = truth.size(0), truths = truth.size(1), count = boxes.size(boxes.dim() - 2);
  const DeviceGuard guard(truth.get_device_index());
  Tensor index = make(truth, {images, count}, ScalarType::Long, false);
  Tensor labels = make(truth, {images, count}, ScalarType::Char, false);
  if (images == 0 || count == 0) return {index, labels};
  const Tensor t = torch::stable::contiguous(truth), r = torch::stable::contiguous(truth_real);
  const Tensor b = torch::stable::contiguous(boxes);
  const cudaStream_t stream = current_stream(truth);
  const dim3 grid(blocks(count, kThreads), images);
  auto* labels_out = static_cast<int8_t*>(labels.mutable_data_ptr());
  MR_DISPATCH_BOXES(truth.scalar_type(), name, {
    const Pairs<T> pairs{static_cast<const T*>(t.const_data_ptr()),
                         static_cast<const bool*>(r.const_data_ptr()),
                         static_cast<const T*>(b.const_data_ptr()),
                         truths,
                         count,
                         boxes.dim() == 3 ? 4 * count : 0};
    Tensor memory;
    if (low_quality) {
      memory = make(truth, {images, truths}, sizeof(T) == 8 ? ScalarType::Long : ScalarType::Int, false);
      torch::stable::zero_(memory);
    }
    auto* most = low_quality ? static_cast<Bits<T>*>(memory.mutable_data_ptr()) : nullptr;
    MR_LAUNCH((match_kernel<T>), grid, dim3(kThreads), 0, stream, pairs, static_cast<T>(low), static_cast<T>(high),
              static_cast<T>(floor), floor > 0, static_cast<int64_t*>(index.mutable_data_ptr()), labels_out, most);
    if (low_quality) {
      MR_LAUNCH((claim_kernel<T>), grid, dim3(kThreads), 0, stream, pairs, most, labels_out);
    }
  });
  return {index, labels};
}

}  // namespace
}  // namespace mrcnn

MR_REGISTER { m.impl("match", TORCH_BOX(&mrcnn::match)); }
