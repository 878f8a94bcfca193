"""``maskrcnn export``: a checkpoint in another format, compared with the model before it has its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch

from maskrcnn import __version__
from maskrcnn.data.interfaces import RGB
from maskrcnn.engine.distributed import connect
from maskrcnn.errors import DataError, UserError, plural
from maskrcnn.recipe import Recipe
from maskrcnn.run.export.int8 import CALIBRATION
from maskrcnn.run.export.needed import needed
from maskrcnn.run.export.running import Array
from maskrcnn.run.export.verify import Comparison, compare
from maskrcnn.run.export.writing import WRITERS, Order
from maskrcnn.run.named_weights import is_name, local_file, publisher_of
from maskrcnn.run.predictor import Predictor
from maskrcnn.run.room import check_folder
from maskrcnn.run.setup import build_val, keypoint_scores
from maskrcnn.run.thresholds import NO_VIEWS, read_thresholds


@dataclass(frozen=True)
class Exported:
    """file: as it is called now.  comparison: None where there were no images to compare on."""

    file: Path
    comparison: Comparison | None

    @property
    def good(self) -> bool:
        """Whether it was proven equal."""
        return self.comparison is not None and self.comparison.doubt is None


def export(
    checkpoint: Path | str,
    to: str,
    output: Path,
    *,
    without: Collection[str] = (),
    precision: str = "float32",
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
        precision: that the file computes in, as the format allows; int8 takes its ranges from images of
            ``data.train``, or of ``data.val`` where that is not set.
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
    if precision not in writer.precisions:
        can = ", ".join(writer.precisions)
        raise UserError(f"--precision {precision}: a file of --to {to} computes in {can}")
    for package in (*writer.packages.get("", ()), *writer.packages.get(precision, ())):
        needed(package)
    check_folder(output.parent, "--output")
    predictor = Predictor(checkpoint, device="cpu", score=0.0, overrides=overrides)
    recipe = predictor.recipe
    if recipe.eval.tta is not None:
        raise UserError(
            "eval.tta looks at an image several times, and an exported file does so once; export with --set"
            " eval.tta=null"
        )
    file = output.with_name(f"{output.stem}.unverified{output.suffix}")
    tell(f"tracing the model for {to}; a minute or two")
    metadata = described(predictor, checkpoint, without, precision)
    chosen = read_thresholds(local_file(Path(checkpoint)))
    if chosen is not None and (doubt := chosen.doubt(NO_VIEWS, other="")):
        tell(f"the file has the scores of the classes, but {doubt}")
    writer.write(predictor, file, Order(without, precision, metadata, lambda: _samples(recipe)))
    tell(f"written to {file}, {file.stat().st_size / 1e6:.1f} MB")
    if recipe.data.val is None or without:
        why = "parts were left out" if without else "data.val is not set"
        tell(f"it was not compared with the model, since {why}, and keeps that name")
        return Exported(file, None)
    val = build_val(recipe, connect("cpu"))
    count = len(val) if limit is None else min(limit, len(val))
    tell(f"comparing on {plural(count, 'image')} of {val.annotation_file}")
    found = compare(predictor, writer.runner(predictor, file), val, count, _progress(count, tell), precision)
    for line in found.lines():
        tell(line)
    if found.doubt is not None:
        tell(f"{found.doubt}, so the file keeps the name {file.name}")
        return Exported(file, found)
    writer.rename(file, output)
    tell(f"{'equal' if precision == 'float32' else 'near enough'}, so it is called {output}")
    return Exported(output, found)


def described(
    predictor: Predictor, checkpoint: Path | str, without: Collection[str], precision: str
) -> Mapping[str, str]:
    """What stands in a file about itself: JSON texts by name.

    Raises:
        CheckpointError: the thresholds beside the checkpoint cannot be used.
    """
    recipe = predictor.recipe
    source = local_file(Path(checkpoint))
    named = is_name(Path(checkpoint))
    chosen = read_thresholds(source)
    licence = publisher_of(Path(checkpoint)).facts(str(checkpoint)).licence if named else None
    content = {
        "classes": list(predictor.categories.names),
        "category_ids": list(predictor.categories.ids),
        "thresholds": None if chosen is None else dict(chosen.scores),
        "score_threshold": recipe.model.roi.score_threshold,
        "nms_threshold": recipe.model.roi.nms_threshold,
        "max_detections": recipe.model.roi.max_detections,
        "mean": recipe.model.preprocess.mean,
        "std": recipe.model.preprocess.std,
        "channels": "RGB" if recipe.data.reading == RGB else plural(recipe.model.num_channels, "channel"),
        "keypoint_scores": None if recipe.model.keypoint_head is None else keypoint_scores(recipe),
        "paste": recipe.eval.paste,
        "precision": precision,
        "left_out": sorted(without),
        "made_from": source.name,
        "sha256": sha256(source.read_bytes()).hexdigest(),
        "trained_on": Path(str(getattr(recipe.data.train, "annotations", "") or "")).name or "not stated",
        "licence": licence or "not stated: that of the weights and data it was made from",
        "maskrcnn": __version__,
        "torch": torch.__version__,
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in content.items()}


def _samples(recipe: Recipe) -> list[Array]:
    """Images to take ranges from, uint8 [H, W, C], evenly out of all; those that cannot be read are left out.

    Raises:
        UserError: no data are set, or there is no image to read.
        DataError: the annotations are wrong.
    """
    config = recipe.data.val if recipe.data.train is None else recipe.data.train
    if config is None:
        raise UserError("--precision int8 takes its ranges from images: set data.train or data.val")
    dataset = recipe.data.build(config, False)
    count = len(dataset)
    found = []
    for index in sorted({i * count // CALIBRATION for i in range(CALIBRATION)}):
        with suppress(DataError):
            found.append(dataset.load(index).image)
    if not found:
        raise UserError(f"{dataset.annotation_file}: none of its images can be read, so int8 has no ranges")
    return found


def _progress(count: int, tell: Callable[[str], None]) -> Callable[[int], None]:
    every = max(count // 10, 1)

    def done(number: int) -> None:
        if number % every == 0 and number < count:
            tell(f"compared {number}/{count}")

    return done
