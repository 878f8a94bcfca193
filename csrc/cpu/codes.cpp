// COCO's compressed run-length codes: which fill their image, and how many pixels their masks have.
#include "parallel.h"
#include "tensors.h"

namespace mrcnn {
namespace {

constexpr int64_t kCodesAtOnce = 512;  // of one thread
constexpr int kMostCharacters = 7;     // of a number below 2^31 and its sign

// Pixels of one code's mask; -1 where its runs do not fill `total` pixels.
int64_t area_of_code(const uint8_t* at, const uint8_t* end, int64_t total) {
  int64_t before[2] = {0, 0};  // the last runs of background and of mask
  int64_t sums[2] = {0, 0};
  for (int64_t n = 0; at != end; ++n) {
    int64_t value = 0;
    int shift = 0;
    uint32_t digit;
    do {
      digit = static_cast<uint32_t>(*at++) - 48u;
      if (digit > 63u || shift == 5 * kMostCharacters) return -1;
      value |= static_cast<int64_t>(digit & 31u) << shift;
      shift += 5;
      if ((digit & 32u) && at == end) return -1;
    } while (digit & 32u);
    if (digit & 16u) value -= int64_t(1) << shift;
    // From the fourth on, a number is the difference to the run two before.
    const int64_t run = n > 2 ? before[n & 1] + value : value;
    if (run < 0 || run > total) return -1;
    before[n & 1] = run;
    sums[n & 1] += run;
    if (sums[0] + sums[1] > total) return -1;
  }
  return sums[0] + sums[1] == total ? sums[1] : -1;
}

// text: uint8 [C], the codes one behind the other; sizes, totals: int64 [n], characters and pixels of each.
Tensor rle_areas(Tensor text, Tensor sizes, Tensor totals) {
  const char* name = "rle_areas";
  STD_TORCH_CHECK(text.dim() == 1 && text.scalar_type() == ScalarType::Byte && text.is_contiguous(), name,
                  ": text must be contiguous uint8 [C].");
  for (const Tensor* t : {&sizes, &totals}) {
    STD_TORCH_CHECK(t->dim() == 1 && t->scalar_type() == ScalarType::Long && t->is_contiguous(), name,
                    ": sizes and totals must be contiguous int64 [n].");
  }
  const int64_t n = sizes.size(0);
  STD_TORCH_CHECK(totals.size(0) == n, name, ": sizes and totals must be of one length.");
  const auto* size = static_cast<const int64_t*>(sizes.const_data_ptr());
  const auto* total = static_cast<const int64_t*>(totals.const_data_ptr());
  std::vector<int64_t> starts(n + 1, 0);
  for (int64_t i = 0; i < n; ++i) {
    STD_TORCH_CHECK(size[i] >= 0 && size[i] <= text.size(0) - starts[i], name, ": sizes must add up to the text's.");
    starts[i + 1] = starts[i] + size[i];
  }
  STD_TORCH_CHECK(starts[n] == text.size(0), name, ": sizes must add up to the text's.");
  Tensor out = make(sizes, {n}, ScalarType::Long, false);
  const auto* chars = static_cast<const uint8_t*>(text.const_data_ptr());
  auto* found = static_cast<int64_t*>(out.mutable_data_ptr());
  for_each_unit((n + kCodesAtOnce - 1) / kCodesAtOnce, [&](int64_t, int64_t unit) {
    for (int64_t i = unit * kCodesAtOnce; i < std::min(n, (unit + 1) * kCodesAtOnce); ++i) {
      found[i] = area_of_code(chars + starts[i], chars + starts[i + 1], total[i]);
    }
  });
  return out;
}

}  // namespace
}  // namespace mrcnn

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) { m.impl("rle_areas", TORCH_BOX(&mrcnn::rle_areas)); }
