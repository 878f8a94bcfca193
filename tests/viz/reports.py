"""A report's figures made by hand, in every field what the page draws; and images for its gallery."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskrcnn.evaluation.report.figures import ReportFigures
from maskrcnn.viz.gallery import Overlay, Shot, shot

GRID = [k / 100 for k in range(101)]
IOUS = [0.5 + 0.05 * k for k in range(10)]


def value(x: float | None) -> dict[str, float | None]:
    return {"value": x, "low": None if x is None else x - 0.02, "high": None if x is None else x + 0.02}


def fake_figures(names: tuple[str, ...] = ("box", "disc", "ring"), **changes: Any) -> dict[str, Any]:
    """As :meth:`ReportFigures.to_json` gives them; the last class has no truth.  changes: of fields."""
    k = len(names)
    aps = [0.9 / (i + 1) if i < k - 1 else None for i in range(k)]
    kinds = ("bbox", "segm")
    twelve = dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100"), 0.41)
    falling = [1 - 0.5 * x for x in GRID]
    errors = ("class", "location", "both", "duplicate", "background", "missed")
    oracles = ("now", "boxes", "masks", "classes", "scores", "no_background", "no_duplicates", "all_found")
    fields: dict[str, Any] = {
        "kind": "segm",
        "iou": 0.5,
        "images": 5000,
        "intervals": {"level": 0.95, "resamples": 1000, "seed": 0},
        "classes": [
            {
                "id": i + 1,
                "name": n,
                "ground_truth": 1200 // (i + 1) if i < k - 1 else 0,
                "detections": 90 + i,
            }
            for i, n in enumerate(names)
        ],
        "figures": {kind: {n: value(x) for n, x in twelve.items()} for kind in kinds},
        "per_class": {
            kind: [{n: value(a) for n in ("AP", "AP50", "AP75", "APs", "APm", "APl")} for a in aps]
            for kind in kinds
        },
        "over_iou": {
            kind: {"iou": IOUS, "all": [1.3 - v for v in IOUS], "classes": [[a] * 10 for a in aps]}
            for kind in kinds
        },
        "precision_recall": {
            kind: {
                "recall": GRID,
                "iou50": falling,
                "iou75": [v * v for v in falling],
                "classes": [[None if a is None else a * v for v in falling] for a in aps],
            }
            for kind in kinds
        },
        "f1": {
            "scores": GRID,
            "all": {
                "precision": falling[::-1],
                "recall": falling,
                "f1": [4 * x * (1 - x) for x in GRID],
                "score": 0.5,
                "best_f1": 1.0,
            },
            "classes": [
                {"score": a, "f1": a, "precision": a, "recall": a, "curve": [(a or 0) * x for x in GRID]}
                for a in aps
            ],
        },
        "calibration": {
            "bins": [
                {
                    "low": i / 10,
                    "high": (i + 1) / 10,
                    "count": 1000 * i,
                    "confidence": (i + 0.5) / 10 if i else None,
                    "precision": 0.08 * (i + 0.5) if i else None,
                }
                for i in range(10)
            ],
            "ece": 0.07,
            "mce": 0.15,
            "classes": aps,
        },
        "confusion": {
            "names": [*names, "background"],
            "matrix": [[40 * (i == j) + i + j for j in range(k + 1)] for i in range(k + 1)],
            "pairs": [{"truth": names[0], "predicted": names[-1], "count": 12}],
        },
        "tide": {
            kind: {
                "ap": 0.6,
                "errors": {e: {"cost": 0.02 * (i + 1), "count": 7 * i + 1} for i, e in enumerate(errors)},
                "false_positive": 0.11,
                "false_negative": 0.2,
            }
            for kind in kinds
        },
        "boundary": {
            "figures": dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), 0.35),
            "classes": [{"AP": a, "AP50": a} for a in aps],
        },
        "oracles": {
            kind: {n: {"AP": 0.5 + 0.01 * i, "AP50": 0.7} for i, n in enumerate(oracles)} for kind in kinds
        },
        "proposals": {"AR@100": 0.5, "AR@1000": 0.7, "recall50@1000": 0.9},
        "background": {
            "images": 40,
            "with_detections": 3,
            "detections": 5,
            "worst": [{"image_id": 7, "detections": 3, "score": 0.97}],
        },
        "objects": {
            "sizes": [
                {"low": low, "high": high, "count": 100, "found": found}
                for low, high, found in ((0, 8, 0.1), (8, 16, 0.5), (16, 32, 0.8), (32, 1e10, 0.9))
            ],
            "border": {"count": 30, "found": 0.4},
            "inside": {"count": 370, "found": 0.7},
        },
        "limits": {"cap": 100, "images_at_cap": 4, "images_over_cap": 1, "tiny": 23, "tiny_pixels": 8},
        "speed": {"images_per_second": 12.5, "seconds": 400.0, "peak_bytes": 123456789},
        "about": {"checkpoint": "best.pt", "step": 400},
        "label_errors": [
            {
                "type": t,
                "image_id": 7,
                "annotation_id": None if t == "unlabelled" else 3,
                "result": None if t == "unfound" else 5,
                "label": None if t == "unlabelled" else 0,
                "predicted": None if t == "unfound" else 1,
                "score": None if t == "unfound" else 0.98,
                "iou": 0.8 if t == "class" else None,
            }
            for t in ("unlabelled", "unfound", "class")
        ],
        "images_ranked": [],
        "confident_errors": [],
        "thresholds": {n: a for n, a in zip(names, aps, strict=True) if a is not None},
        "notes": ["a note"],
    }
    return ReportFigures(**{**fields, **changes}).to_json()


def fake_shots(count: int, *, side: int = 96, objects: int = 2, room: int = 120_000) -> list[Shot]:
    """Images with boxes: the i-th of class i % 2, every third with missed objects, others with duplicates."""
    rng = np.random.default_rng(0)
    shots = []
    for number in range(count):
        image = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
        outlines = []
        for k in range(objects):
            x, y = (float(v) for v in rng.integers(0, side - 24, 2))
            label, size = number % 2, "sml"[k % 3]
            missed = number % 3 == 0
            outlines.append(
                Overlay((x, y, 20.0, 16.0), "truth", "missed" if missed else "met", label, size, f"truth {k}")
            )
            kind = "right" if missed else "duplicate"
            outlines.append(Overlay((x + 2, y, 20.0, 16.0), "found", kind, label, size, f"found {k}, 0.{k}"))
        ranks = {0: count - number} if number % 2 else {1: number}
        told = f"{objects} objects"
        shots.append(shot(image, outlines, title=f"image {number}", told=told, ranks=ranks, room=room))
    return shots
