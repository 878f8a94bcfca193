#!/usr/bin/env bash
# Proves that one binary serves many torch versions: builds a wheel against the OLDEST supported torch,
# then runs the operator tests with it in others, in throw-away virtual environments.
#   PYTHON=python3.11 COMPAT_TORCH="2.11.0@python3.12 newest" tools/test_compat.sh
# COMPAT_TORCH lists torch versions, each with an interpreter of its own after an @ if it needs one.
# COMPAT_WHEEL=dist/maskrcnn-...whl takes a wheel that is there, as that of make release, instead of building one.
# Every environment takes about 6 GB while it exists; they exist one at a time.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
oldest=${COMPAT_OLDEST:-2.10}
versions=${COMPAT_TORCH:-2.11.0 newest}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
step() { printf '\n== %s\n' "$*"; }

if [ -n "${COMPAT_WHEEL:-}" ]; then
    step "taking $COMPAT_WHEEL"
    mkdir "$work/dist"
    cp "$COMPAT_WHEEL" "$work/dist/"
else
    step "building against torch $oldest"
    "$python" -m venv "$work/builder"
    # The first release of the series, or else the oldest that the index has; headers and libraries alone.
    "$work/builder/bin/python" -m pip install --quiet --no-deps "torch==$oldest.0" || {
        available=$("$python" -m pip index versions torch | sed -n 's/^Available versions: //p' | tr ',' '\n')
        nearest=$({ printf '%s\n' "$available"; echo "$oldest.0"; } | tr -d ' ' | sort -V | grep -A1 -x "$oldest.0" | tail -1)
        echo "torch $oldest.0 is not to be had, taking $nearest"
        "$work/builder/bin/python" -m pip install --quiet --no-deps "torch==$nearest"
    }
    PYTHON="$work/builder/bin/python" tools/build_wheel.sh "$work/dist"
    rm -rf "$work/builder"
fi

# Away from the checkout, so that the wheel is what is tested.
mkdir "$work/run"
cp -r tests pyproject.toml "$work/run/"
results=()
for entry in $versions; do
    version=${entry%@*}
    interpreter=$python
    [[ $entry == *@* ]] && interpreter=${entry#*@}
    requirement=torch
    [[ $version == newest ]] || requirement="torch==$version"
    step "testing in $requirement, $("$interpreter" --version)"
    "$interpreter" -m venv "$work/venv"
    "$work/venv/bin/python" -m pip install --quiet "$requirement" "$work"/dist/*.whl pytest hypothesis pytest-xdist
    [[ $version == newest ]] ||
        "$work/venv/bin/python" -c "import torch; assert torch.__version__.partition('+')[0] == '$version', torch.__version__"
    (
        cd "$work/run"
        export OMP_NUM_THREADS=2 MASKRCNN_REQUIRE_OPS=1 MASKRCNN_CACHE="$work/empty-cache"
        # A compiler would hide an object that does not load by building another.
        env CXX= CUDACXX= "$work/venv/bin/python" - <<'PY'
import torch
from maskrcnn.native.library import load
for kind, state in load().items():
    print(f"torch {torch.__version__}: {kind}: loaded={state.loaded}, {state.path}, {state.reason}")
    wanted = kind == "cpu" or (torch.version.cuda is not None and state.path is not None)
    assert state.loaded or not wanted
    assert state.path is None or state.reason == "built ahead of time", state
PY
        "$work/venv/bin/python" -m pytest tests/layers tests/native/test_library.py -m "not slow" -q
    )
    results+=("$("$work/venv/bin/python" -c 'import platform, torch; print("torch", torch.__version__, "Python", platform.python_version())')")
    rm -rf "$work/venv"
done
step "passed in: $(printf '%s; ' "${results[@]}")"
