// Non-maximum suppression of many rows without a word to the host.
//
// Every row is put into the order of its scores, real boxes first.  A bit of row i and column j of a mask then says
// that the i-th box suppresses the j-th, of a lower score; 64 boxes make a word.  One block walks down each row: in
// a word the few boxes that are left decide one after another, and what they suppress further on is gathered by all
// threads at once.
#include "box_checks.h"
#include "box_iou.h"
#include "common.cuh"

namespace mrcnn {
namespace {

using Word = unsigned long long;
constexpr int kWord = 64;
constexpr int kLanes = 32, kParts = 8;  // threads of a walking block: words, and shares of the boxes of a word

template <class T>
struct Rows {
  const T* boxes;         // [B, M, 4]
  const int64_t* order;   // [B, M]
  const bool* real;       // [B, M]
  const int64_t* groups;  // [B, M]; may be null: one group
  int64_t rows, places, words;
};

template <class T>
__global__ void __launch_bounds__(256) key_kernel(const T* scores, const bool* real, int64_t count, T* keys) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) keys[i] = real[i] ? scores[i] : -std::numeric_limits<T>::infinity();
}

// A block compares the boxes of one word with those of another, or the same, further on.
template <class T>
__global__ void __launch_bounds__(kWord) mask_kernel(const Rows<T> rows, const T limit, Word* mask) {
  __shared__ Corners<T> corners[kWord];
  __shared__ T areas[kWord];
  __shared__ int64_t groups[kWord];
  __shared__ unsigned any;
  const int64_t row = blockIdx.x / (rows.words * rows.words), pair = blockIdx.x - row * (rows.words * rows.words);
  const int64_t from = pair / rows.words, to = pair - from * rows.words;
  if (to < from) return;
  const int thread = threadIdx.x;
  const int64_t start = row * rows.places;
  if (thread == 0) any = 0;
  __syncthreads();
  const int64_t column = to * kWord + thread;
  bool is_real = false;
  if (column < rows.places) {
    const int64_t place = start + rows.order[start + column];
    const T* at = rows.boxes + 4 * place;
    const Corners<T> box{at[0], at[1], at[2], at[3]};
    corners[thread] = box;
    areas[thread] = signed_area(box);
    groups[thread] = rows.groups ? rows.groups[place] : 0;
    is_real = rows.real[place];
  }
  if (is_real) atomicOr(&any, 1u);
  __syncthreads();
  const int64_t i = from * kWord + thread;
  if (any == 0 || i >= rows.places) return;  // nobody asks which unreal boxes are suppressed
  const int64_t place = start + rows.order[start + i];
  if (!rows.real[place]) return;  // nor what they would suppress
  const T* at = rows.boxes + 4 * place;
  const Corners<T> box{at[0], at[1], at[2], at[3]};
  const T area = signed_area(box);
  const int64_t group = rows.groups ? rows.groups[place] : 0;
  const int end = static_cast<int>(at_most<int64_t>(kWord, rows.places - to * kWord));
  Word bits = 0;
  for (int j = from == to ? thread + 1 : 0; j < end; ++j) {
    if (groups[j] != group) continue;
    const T inter = intersection(box, corners[j]);
    const T covered = area + areas[j] - inter;
    // A quotient above `limit` means a product below the intersection, or equal to it by rounding.
    if (inter >= covered * limit && inter / covered > limit) bits |= Word(1) << j;
  }
  mask[(start + i) * rows.words + to] = bits;
}

template <class T>
__global__ void __launch_bounds__(kLanes* kParts)
    walk_kernel(const Rows<T> rows, const Word* mask, int64_t count, int64_t* index, int64_t* number) {
  MR_DYNAMIC_SHARED(shared);
  __shared__ Word own[kWord];  // what the boxes of a word suppress among themselves
  __shared__ unsigned here[2];
  __shared__ Word chosen;
  Word* gone = reinterpret_cast<Word*>(shared);
  const int64_t row = blockIdx.x, start = row * rows.places;
  const int thread = threadIdx.y * kLanes + threadIdx.x;
  const int64_t words = rows.words;
  int64_t* out = index + row * count;
  for (int64_t w = thread; w < words; w += kLanes * kParts) gone[w] = 0;
  int64_t total = 0;
  for (int64_t w = 0; w < words && total < count; ++w) {
    if (thread < 2) here[thread] = 0;
    __syncthreads();
    const int64_t i = w * kWord + thread;
    int64_t place = 0;
    if (thread < kWord && i < rows.places) {
      place = rows.order[start + i];
      if (rows.real[start + place]) {
        own[thread] = mask[(start + i) * words + w];
        atomicOr(&here[thread / 32], 1u << (thread % 32));
      }
    }
    __syncthreads();
    if (thread == 0) {
      Word left = (Word(here[1]) << 32 | here[0]) & ~gone[w], kept = 0;
      while (left) {
        const int first = __ffsll(static_cast<long long>(left)) - 1;
        kept |= Word(1) << first;
        left &= ~(own[first] | Word(1) << first);
      }
      chosen = kept;
    }
    __syncthreads();
    const Word kept = chosen;
    if (thread < kWord && (kept >> thread & 1)) {
      const int64_t rank = total + __popcll(kept & ((Word(1) << thread) - 1));
      if (rank < count) out[rank] = place;
    }
    for (int64_t v = w + 1 + threadIdx.x; v < words; v += kLanes) {
      Word found = 0;
#pragma unroll
      for (int r = 0; r < kWord / kParts; ++r) {
        const int j = threadIdx.y + r * kParts;
        if (kept >> j & 1) found |= mask[(start + w * kWord + j) * words + v];
      }
      if (found) atomicOr(&gone[v], found);
    }
    total += __popcll(kept);
    __syncthreads();
  }
  total = at_most(total, count);
  for (int64_t k = total + thread; k < count; k += kLanes * kParts) out[k] = 0;
  if (thread == 0) number[row] = total;
}

// The order of each row [B, M] by falling key, equal ones as they stand.
Tensor order_of(const Tensor& keys) {
  using torch::stable::detail::from;
  std::array<StableIValue, 4> stack{from(keys), from(std::optional<bool>(true)), from(int64_t(1)), from(true)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // takes over the sorted keys, which nobody needs
  return torch::stable::detail::to<Tensor>(stack[1]);
}

std::tuple<Tensor, Tensor> nms(Tensor boxes, Tensor scores, Tensor real, std::optional<Tensor> groups,
                               double iou_threshold, int64_t count) {
  const char* name = "nms";
  check_nms(name, boxes, scores, real, groups, iou_threshold, count);
  STD_TORCH_CHECK(on_device(boxes), name, ": CUDA tensors are needed.");
  const int64_t rows = boxes.size(0), places = boxes.size(1), words = (places + kWord - 1) / kWord;
  const int64_t shared = static_cast<int64_t>(sizeof(Word)) * words;
  STD_TORCH_CHECK(shared <= kSharedBytes - 1024 && rows * words * words < (int64_t(1) << 31), name, ": ", rows,
                  " row(s) of ", places, " boxes are more than a GPU takes at once.");
  const DeviceGuard guard(boxes.get_device_index());
  Tensor index = make(boxes, {rows, count}, ScalarType::Long, false);
  Tensor number = make(boxes, {rows}, ScalarType::Long, false);
  if (rows == 0) return {index, number};
  const Tensor b = torch::stable::contiguous(boxes), s = torch::stable::contiguous(scores);
  const Tensor r = torch::stable::contiguous(real), g = groups ? torch::stable::contiguous(*groups) : real;
  Tensor keys = make(boxes, {rows, places}, boxes.scalar_type(), false);
  Tensor mask = make(boxes, {rows, places, words}, ScalarType::Long, false);
  const cudaStream_t stream = current_stream(boxes);
  MR_DISPATCH_BOXES(boxes.scalar_type(), name, {
    const bool* is_real = static_cast<const bool*>(r.const_data_ptr());
    Tensor order = keys;
    if (places > 0) {
      MR_LAUNCH((key_kernel<T>), dim3(blocks(rows * places, 256)), dim3(256), 0, stream,
                static_cast<const T*>(s.const_data_ptr()), is_real, rows * places,
                static_cast<T*>(keys.mutable_data_ptr()));
      order = order_of(keys);
    }
    const Rows<T> all{static_cast<const T*>(b.const_data_ptr()),
                      static_cast<const int64_t*>(order.const_data_ptr()),
                      is_real,
                      groups ? static_cast<const int64_t*>(g.const_data_ptr()) : nullptr,
                      rows,
                      places,
                      words};
    Word* bits = static_cast<Word*>(mask.mutable_data_ptr());
    if (places > 0) {
      MR_LAUNCH((mask_kernel<T>), dim3(rows * words * words), dim3(kWord), 0, stream, all, not_above<T>(iou_threshold),
                bits);
    }
    MR_LAUNCH((walk_kernel<T>), dim3(rows), dim3(kLanes, kParts), shared, stream, all, bits, count,
              static_cast<int64_t*>(index.mutable_data_ptr()), static_cast<int64_t*>(number.mutable_data_ptr()));
  });
  return {index, number};
}

}  // namespace
}  // namespace mrcnn

MR_REGISTER { m.impl("nms", TORCH_BOX(&mrcnn::nms)); }
