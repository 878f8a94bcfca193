"""Draw how a config's model fits its training data: sizes, anchors, caps (docs/low_ap.md).

python tools/draw_fit.py CONFIG --out fit.png [--set KEY=VALUE]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from maskrcnn.errors import UserError
from maskrcnn.recipe import load_recipe
from maskrcnn.run.fit_doubts import SMALL, Seen, reached
from maskrcnn.run.recipe_checks import build_without_memory
from maskrcnn.viz.figure import SUFFIXES, check_out, save
from maskrcnn.viz.fit_picture import Fit, draw_fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--title", default="")
    args = parser.parse_args()
    check_out("--out", args.out, SUFFIXES)
    recipe = load_recipe(args.config, args.overrides)
    rpn = build_without_memory(recipe).rpn
    if rpn is None or recipe.model.rpn is None:
        parser.error(f"{args.config} has no RPN, and so no anchors")
    seen = Seen(recipe.data.build(recipe.data.train, True), recipe)
    anchors = recipe.model.rpn.anchors.build(rpn.anchors.strides)
    shapes = np.concatenate([level.numpy()[:, 2:] - level.numpy()[:, :2] for level in anchors.base])
    roi = recipe.model.roi
    caps = [
        ("roi.samples x positive_fraction", int(roi.samples * roi.positive_fraction)),
        ("roi.max_detections", roi.max_detections),
    ]
    fit = Fit(
        sizes=seen.boxes[:, 2:] - seen.boxes[:, :2],
        reached=reached(seen, rpn.anchors.strides),
        anchors=shapes,
        counts=seen.counts,
        small=SMALL,
        caps=sorted(caps, key=lambda cap: cap[1]),
    )
    save(draw_fit(fit, args.title or f"{args.config}, {len(seen.dataset)} training images"), args.out, 110)
    print(f"{args.out}: written")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
