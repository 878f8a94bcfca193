"""The score from which a class's detections are shown, kept beside the checkpoint it was found for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from maskrcnn.errors import CheckpointError
from maskrcnn.files import write_json

#: Of a class that the file does not name, and where there is no file.
PLAIN_SCORE = 0.5


def thresholds_file(checkpoint: Path) -> Path:
    """``best.pt`` -> ``best.thresholds.json`` beside it."""
    return checkpoint.with_name(f"{checkpoint.stem}.thresholds.json")


def write_thresholds(checkpoint: Path, scores: Mapping[str, float]) -> Path:
    """Keep a score a class name; returns the file.

    Raises:
        OutputError: it cannot be written; what was there before is as it was.
    """
    path = thresholds_file(checkpoint)
    write_json(path, {"scores": dict(scores)}, indent=1)
    return path


def read_thresholds(checkpoint: Path) -> dict[str, float] | None:
    """Score by class name, each in [0, 1]; None where there is no file.

    Raises:
        CheckpointError: the file is there and cannot be used.
    """
    path = thresholds_file(checkpoint)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, f"cannot be read: {error}") from None
    try:
        scores = json.loads(text)["scores"]
        sound = all(type(v) in (int, float) and 0 <= v <= 1 for v in scores.values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise _unusable(path, 'is not {"scores": {class name: score from 0 to 1, ...}}')
    return {name: float(score) for name, score in scores.items()}


def _unusable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {why}; give a score (--score 0.5), or delete the file and evaluate with --report"
    )
