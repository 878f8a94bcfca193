#!/usr/bin/env bash
# Whether the maskrcnn that is installed works, tried in an empty folder: version, operators, data, training, prediction.
#   tools/smoke_test.sh VERSION
set -euo pipefail
export MASKRCNN_REQUIRE_OPS=1 MASKRCNN_CACHE="$PWD/cache" OMP_NUM_THREADS=1
[ "$(maskrcnn --version)" = "maskrcnn $1" ]
python -c "from maskrcnn import Model; print(Model('zoo/demo'))"
maskrcnn doctor
maskrcnn data synthetic --out pictures --level easy --train 12 --val 4 --size 96
maskrcnn import pictures --out shapes
maskrcnn train zoo/demo --output run --set solver.steps=4 --set data.train.num_images=48 --set data.val.num_images=8
maskrcnn predict --checkpoint run --score 0 --out found pictures/val/images
test -s found/predictions.json
maskrcnn export --help >/dev/null
