// Every operator schema, in one place. The kernels live in cpu/*.cpp and cuda/*.cu.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

STABLE_TORCH_LIBRARY(maskrcnn, m) {}
