// Ground-truth masks inside RoIs, see ../raster.h.  One block a box.
//
// Polygons: a thread has a column of the target, up to 64 rows of it as the bits of a word; the block brings
// vertices to the grid together, a tile at a time.  Bitmaps: a thread has a bin and reads the pixels of its taps
// from what changes down their columns.  Sums go in the order of the CPU kernel, so that the bits are the same.
#include "common.cuh"
#include "raster.h"

namespace mrcnn {
namespace {

constexpr int kThreads = 64;

// Calls visit(cell, weight) for the cells that the samples of a bin read, in rising order, with all of the weight of
// each: added up in the order of the samples, as the CPU kernel does.
template <class T, class F>
MR_DEVICE void visit_cells(const Axis<T>& axis, int bin, int length, F&& visit) {
  int64_t first, last;
  sample_range(axis, bin, length, &first, &last);
  const T share = axis.grid > 0 ? quot(T(1), static_cast<T>(axis.grid)) : T(0);
  int cell = 0;
  T here = 0, next = 0;  // the weights of `cell` and the one after it, so far
#pragma unroll 1
  for (int64_t i = first; i <= last; ++i) {
    Taps<T> t{length, length, T(0)};  // a last step lets go of what is left
    if (i < last && !sample_axis(grid_position(axis, bin, i), length, &t)) continue;
    const int low = static_cast<int>(t.low);
#pragma unroll 1
    while (cell < low && (here != T(0) || next != T(0))) {
      if (here != T(0)) visit(cell, here);
      ++cell;
      here = next;
      next = T(0);
    }
    cell = low;
    here = add(here, mul(add(T(1), -t.fraction), share));
    next = add(next, mul(t.fraction, share));
  }
}

MR_DEVICE bool pixel(const Packed& packed, int64_t column, int row) {
  const Range r = changes_of(packed, column);
  int64_t i = r.first;
  while (i < r.last && packed.changes[i] <= row) ++i;
  return ((i - r.first) & 1) != 0;
}

template <class T>
MR_DEVICE void align(const Packed& packed, Range columns, int height, const T* box, int size, bool soft, T* out) {
  const int width = static_cast<int>(columns.last - columns.first);
  const Axis<T> ay = make_axis(box[1], box[3], T(1), size, align_geometry(soft), 0);
  const Axis<T> ax = make_axis(box[0], box[2], T(1), size, align_geometry(soft), 0);
  for (int bin = threadIdx.x; bin < size * size; bin += kThreads) {
    T sum = 0;
    visit_cells(ay, bin / size, height, [&](int row, T wy) {
      visit_cells(ax, bin % size, width, [&](int column, T wx) {
        if (pixel(packed, columns.first + column, row)) sum = add(sum, mul(wy, wx));
      });
    });
    out[bin] = soft ? sum : static_cast<T>(sum >= T(0.5));
  }
}

template <class T>
MR_DEVICE void draw(const Packed& packed, Range polygons, const T* box, int size, T* out) {
  __shared__ int32_t x[kThreads + 1], y[kThreads + 1];
  const int thread = threadIdx.x;
  const Mapping mx = map_axis(box[0], box[2], size), my = map_axis(box[1], box[3], size);
  const int words = (size + 63) / 64;
  for (int start = 0; start < size * words; start += kThreads) {
    const int item = start + thread, column = item % size, row = item / size * 64;
    uint64_t any = 0;
    for (int64_t polygon = polygons.first; polygon < polygons.last; ++polygon) {
      const Range r = vertices_of(packed, polygon);
      const int64_t count = r.last - r.first;
      uint64_t odd = 0;
      for (int64_t first = 0; first < count; first += kThreads) {
        const int edges = static_cast<int>(at_most(count - first, int64_t(kThreads)));
        __syncthreads();
        for (int i = thread; i <= edges; i += kThreads) {
          const int64_t v = r.first + (first + i == count ? 0 : first + i);
          x[i] = on_grid(packed.points[2 * v], mx);
          y[i] = on_grid(packed.points[2 * v + 1], my);
        }
        __syncthreads();
        if (row >= size) continue;
        for (int i = 0; i < edges; ++i) {
          const Edge edge = make_edge(x[i], y[i], x[i + 1], y[i + 1]);
          if (crosses(edge, column)) odd ^= rows_from(crossing(edge, column, size), row);
        }
      }
      any |= odd;
    }
    const int last = at_most(row + 64, size);
    for (int i = row; i < last; ++i) out[i * size + column] = static_cast<T>(any >> (i - row) & 1);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 8)
    rasterise_kernel(const Packed packed, const T* boxes, const int64_t* instances, const int size, const bool soft,
                     T* outputs) {
  const int64_t k = blockIdx.x, instance = instances[k];
  const T* box = boxes + 4 * k;
  T* out = outputs + k * size * size;
  if (instance >= 0 && instance < packed.count && is_finite(box)) {
    const Range columns = columns_of(packed, instance);
    const int height = static_cast<int>(packed.instances[3 * instance + 2]);
    if (columns.last <= columns.first) return draw(packed, polygons_of(packed, instance), box, size, out);
    T mapped[4];
    map_box(box, packed.placing + 4 * instance, soft, mapped);
    if (height > 0 && is_finite(mapped)) return align(packed, columns, height, mapped, size, soft, out);
  }
  for (int i = threadIdx.x; i < size * size; i += kThreads) out[i] = T(0);
}

constexpr const char* kName = "rasterise";

const Tensor& checked(const Tensor& t, const Tensor& like, ScalarType type, int64_t columns) {
  STD_TORCH_CHECK(t.device() == like.device() && t.is_contiguous() && t.scalar_type() == type &&
                      (columns == 0 ? t.dim() == 1 : t.dim() == 2 && t.size(1) == columns),
                  kName, ": the masks must be contiguous tensors as PackedMasks holds them, on the boxes' device.");
  return t;
}

template <class T>
const T* values_of(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <class T>
void launch(const Packed& packed, const Tensor& boxes, const Tensor& instance, int64_t size, bool soft, Tensor& out) {
  MR_LAUNCH((rasterise_kernel<T>), dim3(static_cast<unsigned>(boxes.size(0))), dim3(kThreads), 0, current_stream(out),
            packed, values_of<T>(boxes), values_of<int64_t>(instance), static_cast<int>(size), soft,
            static_cast<T*>(out.mutable_data_ptr()));
}

Tensor rasterise(Tensor points, Tensor polygon_ends, Tensor changes, Tensor column_ends, Tensor instances,
                 Tensor placing, Tensor boxes, Tensor instance, int64_t size, bool soft) {
  const ScalarType type = boxes.scalar_type();
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4 && on_device(boxes) && boxes.size(0) < (int64_t(1) << 31) &&
                      (type == ScalarType::Float || type == ScalarType::Double),
                  kName, ": boxes must be a float32 or float64 CUDA tensor [R, 4].");
  STD_TORCH_CHECK(instance.dim() == 1 && instance.size(0) == boxes.size(0) && instance.device() == boxes.device() &&
                      instance.scalar_type() == ScalarType::Long,
                  kName, ": instance must be an int64 tensor [R] on the boxes' device.");
  const Packed packed{values_of<double>(checked(points, boxes, ScalarType::Double, 2)),
                      values_of<int64_t>(checked(polygon_ends, boxes, ScalarType::Long, 0)),
                      values_of<int32_t>(checked(changes, boxes, ScalarType::Int, 0)),
                      values_of<int64_t>(checked(column_ends, boxes, ScalarType::Long, 0)),
                      values_of<int64_t>(checked(instances, boxes, ScalarType::Long, 3)),
                      values_of<double>(checked(placing, boxes, ScalarType::Double, 4)),
                      points.size(0),
                      polygon_ends.size(0),
                      changes.size(0),
                      column_ends.size(0),
                      instances.size(0)};
  STD_TORCH_CHECK(placing.size(0) == packed.count, kName, ": instances and placing must be of one length.");
  check_bins(kName, size, size);
  const DeviceGuard guard(boxes.get_device_index());
  Tensor out = make(boxes, {boxes.size(0), size, size}, type, false);
  if (boxes.size(0) == 0) return out;
  const Tensor box = torch::stable::contiguous(boxes), index = torch::stable::contiguous(instance);
  if (type == ScalarType::Double) {
    launch<double>(packed, box, index, size, soft, out);
  } else {
    launch<float>(packed, box, index, size, soft, out);
  }
  return out;
}

}  // namespace
}  // namespace mrcnn

MR_REGISTER { m.impl("rasterise", TORCH_BOX(&mrcnn::rasterise)); }
