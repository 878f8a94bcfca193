// Ground-truth masks inside RoIs, see ../raster.h.
#include "../raster.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "geometry.h"
#include "parallel.h"

namespace mrcnn {
namespace {

constexpr const char* kName = "rasterise";

const Tensor& checked(const Tensor& t, const char* what, ScalarType type, int64_t columns) {
  STD_TORCH_CHECK(t.is_cpu() && t.is_contiguous() && t.scalar_type() == type &&
                      (columns == 0 ? t.dim() == 1 : t.dim() == 2 && t.size(1) == columns),
                  kName, ": ", what,
                  " must be a contiguous CPU tensor of the type and shape that PackedMasks gives it.");
  return t;
}

template <class T>
const T* values_of(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

void check_ends(const int64_t* ends, int64_t count, int64_t stride, int64_t most, const char* what) {
  int64_t last = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t end = ends[i * stride];
    STD_TORCH_CHECK(end >= last && end <= most, kName, ": the ends of ", what, " must ascend and not exceed ", most,
                    ".");
    last = end;
  }
}

// Everything that threads share.
template <class T>
struct Job {
  Packed packed;
  const T* boxes;
  int64_t size;
  bool soft;
  Rois rois;  // the boxes of bitmaps, in the frames of these
  T* out;
};

// What a thread keeps from one unit to the next.
template <class T>
struct Local {
  Scratch<uint8_t> bits;
  Scratch<T> bitmap;
  AxisTaps<T> y, x;
  std::vector<uint64_t> odd, any;
};

// The union of an instance's polygons inside box k.  Bit y of word w of a column is its row 64 w + y.
template <class T>
void draw(const Job<T>& job, Range polygons, int64_t k, Local<T>& local) {
  const int64_t size = job.size, words = (size + 63) / 64;
  const T* box = job.boxes + 4 * k;
  const Mapping mx = map_axis(box[0], box[2], size), my = map_axis(box[1], box[3], size);
  local.any.assign(size * words, 0);
  for (int64_t polygon = polygons.first; polygon < polygons.last; ++polygon) {
    const Range r = vertices_of(job.packed, polygon);
    if (r.last <= r.first) continue;
    local.odd.assign(size * words, 0);
    const double* last = job.packed.points + 2 * (r.last - 1);
    int64_t x0 = on_grid(last[0], mx), y0 = on_grid(last[1], my);
    for (int64_t v = r.first; v < r.last; ++v) {
      const double* point = job.packed.points + 2 * v;
      const int64_t x1 = on_grid(point[0], mx), y1 = on_grid(point[1], my);
      const Edge edge = make_edge(x0, y0, x1, y1);
      x0 = x1;
      y0 = y1;
      for (int64_t c = std::max<int64_t>(edge.low + 2, 0) / 5; c < size && edge.high >= 5 * c + 3; ++c) {
        const int64_t row = crossing(edge, c, size);
        for (int64_t w = row / 64; w < words; ++w) local.odd[c * words + w] ^= rows_from(row, 64 * w);
      }
    }
    for (int64_t i = 0; i < size * words; ++i) local.any[i] |= local.odd[i];
  }
  T* out = job.out + k * size * size;
  for (int64_t y = 0; y < size; ++y) {
    for (int64_t c = 0; c < size; ++c)
      out[y * size + c] = static_cast<T>(local.any[c * words + y / 64] >> (y % 64) & 1);
  }
}

// A bitmap [height, columns] of 0 and 1 from where its columns change.
template <class T>
const T* decode(const Packed& packed, Range columns, int64_t height, Local<T>& local) {
  const int64_t width = columns.last - columns.first, cells = height * width;
  uint8_t* bits = local.bits.get(cells);
  std::memset(bits, 0, cells);
  for (int64_t j = 0; j < width; ++j) {
    const Range r = changes_of(packed, columns.first + j);
    for (int64_t i = r.first; i < r.last; ++i) {
      const int64_t y = packed.changes[i];
      if (y >= 0 && y < height) bits[y * width + j] ^= 1;
    }
  }
  T* bitmap = local.bitmap.get(cells);
  for (int64_t i = 0; i < width; ++i) bitmap[i] = bits[i];
  for (int64_t i = width; i < cells; ++i) {
    bits[i] ^= bits[i - width];
    bitmap[i] = bits[i];
  }
  return bitmap;
}

// The average of every bin, each added up in the order of RoIAlign's own kernel, so that the bits are the same.  The
// bins of a row go on side by side: one would wait for its last sum at every tap.
template <class T>
void average(const T* bitmap, int64_t width, TapList<T> y, TapList<T> x, int64_t size, T* out) {
  std::fill(out, out + size * size, T(0));
  for (int64_t p = 0; p < size; ++p, out += size) {
    for (int32_t i = y.begin[p]; i < y.begin[p + 1]; ++i) {
      const T* line = bitmap + y.index[i] * width;
      const T wy = y.weight[i];
      for (int64_t q = 0; q < size; ++q) {
        T sum = out[q];
        for (int32_t j = x.begin[q]; j < x.begin[q + 1]; ++j) sum += wy * x.weight[j] * line[x.index[j]];
        out[q] = sum;
      }
    }
  }
}

// All rows of one instance.
template <class T>
void fill(const Job<T>& job, int64_t instance, const int64_t* rows, int64_t count, Local<T>& local) {
  const int64_t cells = job.size * job.size;
  const Range columns = columns_of(job.packed, instance), polygons = polygons_of(job.packed, instance);
  const int64_t height = job.packed.instances[3 * instance + 2], width = columns.last - columns.first;
  if (width > 0 && height > 0) {
    const T* bitmap = decode(job.packed, columns, height, local);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t k = rows[i], geometry = align_geometry(job.soft);
      T* out = job.out + k * cells;
      if (!is_finite(job.rois.template row<T>(k) + 1)) {
        std::fill(out, out + cells, T(0));
        continue;
      }
      average_taps(&local.y, job.rois, k, true, 1.0, job.size, geometry, 0, height);
      average_taps(&local.x, job.rois, k, false, 1.0, job.size, geometry, 0, width);
      average(bitmap, width, local.y.list(), local.x.list(), job.size, out);
      if (!job.soft) {
        for (int64_t j = 0; j < cells; ++j) out[j] = static_cast<T>(out[j] >= T(0.5));
      }
    }
    return;
  }
  for (int64_t i = 0; i < count; ++i) draw(job, polygons, rows[i], local);
}

template <class T>
void run(const Packed& packed, const Tensor& boxes, const int64_t* instance, int64_t size, bool soft, Tensor& out) {
  const int64_t count = boxes.size(0);
  Tensor mapped = make(boxes, {count, 5}, boxes.scalar_type(), false);
  const bool wide = std::is_same_v<T, double>;
  const Job<T> job{packed,
                   values_of<T>(boxes),
                   size,
                   soft,
                   Rois{mapped, wide, count, {}, {}},
                   static_cast<T*>(out.mutable_data_ptr())};
  T* rows = static_cast<T*>(mapped.mutable_data_ptr());
  std::vector<int64_t> order;
  for (int64_t k = 0; k < count; ++k) {
    if (instance[k] < 0) {
      std::fill(job.out + k * size * size, job.out + (k + 1) * size * size, T(0));
      continue;
    }
    STD_TORCH_CHECK(is_finite(job.boxes + 4 * k), kName, ": box ", k, " holds a NaN or an infinite number.");
    rows[5 * k] = T(0);
    map_box(job.boxes + 4 * k, packed.placing + 4 * instance[k], soft, rows + 5 * k + 1);
    order.push_back(k);
  }
  // The rows of an instance go together: a bitmap is decoded once.
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return instance[a] < instance[b]; });
  std::vector<int64_t> starts;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i == 0 || instance[order[i]] != instance[order[i - 1]]) starts.push_back(static_cast<int64_t>(i));
  }
  starts.push_back(static_cast<int64_t>(order.size()));
  std::vector<Local<T>> locals(std::max<int64_t>(torch::stable::get_num_threads(), 1));
  for_each_unit(static_cast<int64_t>(starts.size()) - 1, [&](int64_t thread, int64_t unit) {
    const int64_t* first = order.data() + starts[unit];
    fill(job, instance[*first], first, starts[unit + 1] - starts[unit], locals[thread]);
  });
}

Tensor rasterise(Tensor points, Tensor polygon_ends, Tensor changes, Tensor column_ends, Tensor instances,
                 Tensor placing, Tensor boxes, Tensor instance, int64_t size, bool soft) {
  const Packed packed{values_of<double>(checked(points, "points", ScalarType::Double, 2)),
                      values_of<int64_t>(checked(polygon_ends, "polygon_ends", ScalarType::Long, 0)),
                      values_of<int32_t>(checked(changes, "changes", ScalarType::Int, 0)),
                      values_of<int64_t>(checked(column_ends, "column_ends", ScalarType::Long, 0)),
                      values_of<int64_t>(checked(instances, "instances", ScalarType::Long, 3)),
                      values_of<double>(checked(placing, "placing", ScalarType::Double, 4)),
                      points.size(0),
                      polygon_ends.size(0),
                      changes.size(0),
                      column_ends.size(0),
                      instances.size(0)};
  STD_TORCH_CHECK(placing.size(0) == packed.count, kName, ": instances and placing must be of one length.");
  check_ends(packed.polygon_ends, packed.polygons, 1, packed.vertices, "polygons");
  check_ends(packed.column_ends, packed.columns, 1, packed.change_count, "columns");
  check_ends(packed.instances, packed.count, 3, packed.polygons, "the instances' polygons");
  check_ends(packed.instances + 1, packed.count, 3, packed.columns, "the instances' columns");
  const ScalarType type = boxes.scalar_type();
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4 && boxes.is_cpu() &&
                      (type == ScalarType::Float || type == ScalarType::Double),
                  kName, ": boxes must be a float32 or float64 CPU tensor [R, 4].");
  STD_TORCH_CHECK(instance.dim() == 1 && instance.size(0) == boxes.size(0) && instance.is_cpu() &&
                      instance.scalar_type() == ScalarType::Long,
                  kName, ": instance must be an int64 CPU tensor [R].");
  check_bins(kName, size, size);
  const Tensor box = torch::stable::contiguous(boxes), index = torch::stable::contiguous(instance);
  for (int64_t k = 0; k < index.size(0); ++k) {
    const int64_t i = values_of<int64_t>(index)[k];
    STD_TORCH_CHECK(i >= -1 && i < packed.count, kName, ": box ", k, " asks for instance ", i, " of ", packed.count,
                    ".");
    STD_TORCH_CHECK(i < 0 || packed.instances[3 * i + 2] < (int64_t(1) << 31), kName, ": bitmap ", i, " is too high.");
  }
  Tensor out = make(boxes, {boxes.size(0), size, size}, type, false);
  if (type == ScalarType::Double) {
    run<double>(packed, box, values_of<int64_t>(index), size, soft, out);
  } else {
    run<float>(packed, box, values_of<int64_t>(index), size, soft, out);
  }
  return out;
}

}  // namespace
}  // namespace mrcnn

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) { m.impl("rasterise", TORCH_BOX(&mrcnn::rasterise)); }
