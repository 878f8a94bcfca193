#!/usr/bin/env bash
# Builds the sdist and the one wheel into dist/, installs each beside the oldest and the newest torch in throw-away
# environments, and tries it there: import, doctor, a training of steps, prediction.
#   PYTHON=python3.11 RELEASE_TORCH="2.10.0 newest" tools/release.sh
# The wheel must hold operators for these GPUs; RELEASE_GPUS= where there is no nvcc, for a wheel of the CPU's alone.
# Refuses a version that CHANGELOG.md has no section of, and a working tree that differs from its commit
# (RELEASE_DRY=1: goes on all the same, to try).  Nothing is uploaded.  An environment takes about 6 GB while it exists.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
versions=${RELEASE_TORCH:-2.10.0 newest}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
step() { printf '\n== %s\n' "$*"; }

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' maskrcnn/__init__.py)
fault=
grep -q "^## \[$version\] - 20..-..-..$" CHANGELOG.md || fault="CHANGELOG.md has no section '## [$version] - DATE'"
[ -z "$(git status --porcelain)" ] || fault="${fault:+$fault; }the working tree is not its commit"
if [ -n "$fault" ]; then
    echo "maskrcnn: $fault" >&2
    [ "${RELEASE_DRY:-0}" = 1 ] || exit 1
fi

step "building $version"
rm -rf dist
"$python" -m venv "$work/builder"
"$work/builder/bin/python" -m pip install --quiet --no-deps "torch==${versions%% *}" # headers and libraries alone
"$work/builder/bin/python" -m pip install --quiet build
PYTHON="$work/builder/bin/python" tools/build_wheel.sh dist
"$work/builder/bin/python" -m build --sdist --outdir dist .
"$python" tools/wheel_contents.py dist/*.whl --needs ${RELEASE_GPUS-9.0}
rm -rf "$work/builder"

results=()
for torch in $versions; do
    requirement=torch
    [ "$torch" = newest ] || requirement="torch==$torch"
    "$python" -m venv "$work/venv"
    "$work/venv/bin/python" -m pip install --quiet "$requirement"
    # torchvision asks for the one torch that it belongs to: the newest would bring another.
    had=$("$work/venv/bin/python" -c 'import torch; print(torch.__version__.partition("+")[0])')
    echo "torch==$had" >"$work/stays"
    for package in dist/*.whl dist/*.tar.gz; do
        step "trying $(basename "$package") beside $requirement"
        "$work/venv/bin/python" -m pip install --quiet --force-reinstall --no-deps "$package"
        "$work/venv/bin/python" -m pip install --quiet --constraint "$work/stays" "$package" # what it depends on
        "$work/venv/bin/python" -c "import torch; assert torch.__version__.partition('+')[0] == '$had', torch.__version__"
        mkdir "$work/run"
        (cd "$work/run" && PATH="$work/venv/bin:$PATH" bash "$OLDPWD/tools/smoke_test.sh" "$version")
        rm -rf "$work/run"
    done
    results+=("$("$work/venv/bin/python" -c 'import platform, torch; print("torch", torch.__version__, "Python", platform.python_version())')")
    rm -rf "$work/venv"
done
step "$version works beside: $(printf '%s; ' "${results[@]}")"
sha256sum dist/*
