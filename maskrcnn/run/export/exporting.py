"""``maskrcnn export``: a checkpoint in another format, compared with the model before it has its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from maskrcnn import __version__
from maskrcnn.data.interfaces import RGB
from maskrcnn.engine.distributed import connect
from maskrcnn.errors import UserError, plural
from maskrcnn.run.export.needed import needed
from maskrcnn.run.export.verify import AP_BOUND, Comparison, compare
from maskrcnn.run.export.writing import WRITERS
from maskrcnn.run.predictor import Predictor
from maskrcnn.run.room import check_folder
from maskrcnn.run.setup import build_val


@dataclass(frozen=True)
class Exported:
    """file: as it is called now.  comparison: None where there were no images to compare on."""

    file: Path
    comparison: Comparison | None

    @property
    def good(self) -> bool:
        """Whether it was proven equal."""
        return self.comparison is not None and self.comparison.good


def export(
    checkpoint: Path | str,
    to: str,
    output: Path,
    *,
    without: Collection[str] = (),
    limit: int | None = None,
    overrides: tuple[str, ...] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Write ``checkpoint`` as ``output``, and compare the two on the images of ``data.val``.

    Until both have the same AP the file is called ``<name>.unverified<suffix>``.

    Args:
        checkpoint: a file, a run's folder (its best), or published weights by name.
        to: of :data:`WRITERS`.
        output: the file; its suffix is the format's.
        without: parts to leave out, as the format allows.
        limit: compare on so many images; None: on all.
        overrides: ``key.path=value`` on the checkpoint's recipe.
        tell: shown to the user, a line each.

    Raises:
        UserError: the format has no form of this model, a package is missing, or the suffix is another.
        CheckpointError: it cannot be read.
        OutputError: the file cannot be written.
    """
    writer = WRITERS.get(to)()
    if output.suffix != writer.suffix:
        raise UserError(f"--output {output}: a file for --to {to} ends in {writer.suffix}")
    if strange := sorted(set(without) - set(writer.leavable)):
        can = ", ".join(writer.leavable) or "nothing"
        raise UserError(f"--without {strange[0]}: of --to {to} there can be left out: {can}")
    for package in writer.packages:
        needed(package)
    check_folder(output.parent, "--output")
    predictor = Predictor(checkpoint, device="cpu", score=0.0, overrides=overrides)
    recipe = predictor.recipe
    if recipe.data.reading.contrast is not None:
        raise UserError(
            "data.contrast maps the values of a file by its own percentiles, which no exported file does;"
            " export a model that was trained without, or use the checkpoint"
        )
    file = output.with_name(f"{output.stem}.unverified{output.suffix}")
    tell(f"tracing the model for {to}; a minute or two")
    writer.write(predictor, file, without, described(predictor, checkpoint, without))
    tell(f"written to {file}, {file.stat().st_size / 1e6:.1f} MB")
    if recipe.data.val is None or without:
        why = "parts were left out" if without else "data.val is not set"
        tell(f"it was not compared with the model, since {why}, and keeps that name")
        return Exported(file, None)
    val = build_val(recipe, connect("cpu"))
    count = len(val) if limit is None else min(limit, len(val))
    tell(f"comparing on {plural(count, 'image')} of {val.annotation_file}")
    found = compare(predictor, writer.runner(predictor, file), val, count, _progress(count, tell))
    for line in found.lines():
        tell(line)
    if not found.good:
        tell(f"AP differs by more than {AP_BOUND}, so the file keeps the name {file.name}")
        return Exported(file, found)
    writer.rename(file, output)
    tell(f"equal, so it is called {output}")
    return Exported(output, found)


def described(predictor: Predictor, checkpoint: Path | str, without: Collection[str]) -> Mapping[str, str]:
    """What stands in a file about itself: JSON texts by name."""
    recipe = predictor.recipe
    mean, std = recipe.model.preprocess.mean, recipe.model.preprocess.std
    content = {
        "classes": list(predictor.categories.names),
        "category_ids": list(predictor.categories.ids),
        "score_threshold": recipe.model.roi.score_threshold,
        "nms_threshold": recipe.model.roi.nms_threshold,
        "max_detections": recipe.model.roi.max_detections,
        "mean": mean,
        "std": std,
        "channels": "RGB" if recipe.data.reading == RGB else plural(recipe.model.num_channels, "channel"),
        "left_out": sorted(without),
        "made_from": Path(checkpoint).name,
        "licence": "that of the weights it was made from",
        "maskrcnn": __version__,
        "torch": torch.__version__,
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in content.items()}


def _progress(count: int, tell: Callable[[str], None]) -> Callable[[int], None]:
    every = max(count // 10, 1)

    def done(number: int) -> None:
        if number % every == 0 and number < count:
            tell(f"compared {number}/{count}")

    return done
