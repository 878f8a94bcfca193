"""The score from which a class's detections are shown, kept beside the checkpoint it was found for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maskrcnn.config.encode import one_line
from maskrcnn.config.schema import Struct
from maskrcnn.errors import CheckpointError
from maskrcnn.files import write_json
from maskrcnn.recipe import TTAConfig

#: Of a class that the file does not name, and where there is no file.
PLAIN_SCORE = 0.5
#: ``eval.tta`` where there is none.
NO_VIEWS = "null"


@dataclass(frozen=True)
class Thresholds:
    """scores: by class name, each in [0, 1].

    views: the ``eval.tta`` that they were chosen with, as :func:`views_of` says it; None: it is not known.
    """

    scores: Mapping[str, float]
    views: str | None = None

    def doubt(self, views: str, other: str = "predict") -> str:
        """What is wrong where they serve predictions of other views, whose scores are others; else empty.

        Args:
            other: the command that may take their views with ``--tta``; empty: none may.
        """
        if self.views in (None, views):
            return ""
        chosen, here = (
            "without test-time augmentation" if v == NO_VIEWS else f"with eval.tta={v}"
            for v in (self.views, views)
        )
        same = f"{other} with --tta '{self.views}', or " if other else ""
        return (
            f"they were chosen {chosen}, and scores {here} are others: {same}choose them anew (maskrcnn eval"
            f" --report page.html --set 'eval.tta={views}')"
        )


def views_of(tta: TTAConfig | None) -> str:
    """Test-time augmentation as YAML on one line."""
    return NO_VIEWS if tta is None else one_line(Struct(TTAConfig), tta)


def thresholds_file(checkpoint: Path) -> Path:
    """``best.pt`` -> ``best.thresholds.json`` beside it."""
    return checkpoint.with_name(f"{checkpoint.stem}.thresholds.json")


def write_thresholds(checkpoint: Path, found: Thresholds) -> Path:
    """Keep a score a class name; returns the file.

    Raises:
        OutputError: it cannot be written; what was there before is as it was.
    """
    path = thresholds_file(checkpoint)
    write_json(path, {"scores": dict(found.scores), "tta": found.views}, indent=1)
    return path


def read_thresholds(checkpoint: Path) -> Thresholds | None:
    """What stands in the file; None where there is none.

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
        content = json.loads(text)
        scores, views = content["scores"], content.get("tta")
        sound = all(type(v) in (int, float) and 0 <= v <= 1 for v in scores.values())
        sound &= views is None or isinstance(views, str)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise _unusable(path, 'is not {"scores": {class name: score from 0 to 1, ...}}')
    return Thresholds({name: float(score) for name, score in scores.items()}, views)


def _unusable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {why}; give a score (--score 0.5), or delete the file and evaluate with --report"
    )
