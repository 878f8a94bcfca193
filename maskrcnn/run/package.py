"""``maskrcnn package``: a folder with a model and all that is to be known of it, which needs nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from maskrcnn import __version__
from maskrcnn.config import dump
from maskrcnn.data.interfaces import Dataset
from maskrcnn.data.regions import Pixels
from maskrcnn.engine.checkpoint import Checkpoint, save
from maskrcnn.engine.checkpoint_folder import PACKAGE, PACKED
from maskrcnn.errors import DataError, UserError, plural
from maskrcnn.files import building_folder, write_bytes, write_json, write_text
from maskrcnn.modeling.mask_rcnn import without_weights
from maskrcnn.picture_files import encode_jpeg
from maskrcnn.recipe import Recipe
from maskrcnn.run.package_card import Stated, card, report_of
from maskrcnn.run.prediction import Prediction
from maskrcnn.run.predictor import Predictor
from maskrcnn.run.room import check_folder, in_words
from maskrcnn.run.strip import for_inference, load_known
from maskrcnn.run.thresholds import read_thresholds, write_thresholds
from maskrcnn.structures.samples import Image

#: Side in pixels of the noise that a model is tried on where there are no images, and quality of pictures.
_SIDE, _QUALITY = 160, 90
_CONFIG = """\
# The recipe of the model in this folder.  Trained again, it starts from those weights:
#   maskrcnn train config.yaml --set data.train.images=.. --set data.train.annotations=.. --output runs/mine
"""


@dataclass(frozen=True)
class PackageOptions:
    """What goes into a package besides the model.

    stated: words of its maker.
    report: the json beside a report's page; None: that in the run's folder, where it is of this checkpoint.
    pictures: images of ``data.val`` whose predictions are drawn, at most.
    """

    stated: Stated = field(default_factory=Stated)
    report: Path | None = None
    pictures: int = 2


def package(
    source: Path,
    out: Path,
    wishes: PackageOptions,
    overrides: Sequence[str] = (),
    tell: Callable[[str], object] = lambda line: None,
) -> None:
    """Write the folder; it has its name only once the model in it was read back and predicts the same.

    Args:
        source: a run's folder (its best), a checkpoint, or published weights by name.
        out: a new folder, or an empty one.
        overrides: ``key.path=value`` on the recipe, which the package keeps.
        tell: takes lines.

    Raises:
        UserError: there is something in ``out``; the report cannot be used.
        CheckpointError: the checkpoint cannot be read.
        OutputError: the folder cannot be written; nothing is left behind.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out {out}: is there already; name another folder, or remove it first")
    check_folder(out, "--out")
    path, whole, recipe = load_known(source, overrides)
    report = report_of(path, whole, wishes.report, tell)
    state, kept = for_inference(whole, recipe, path)
    scores = read_thresholds(path)
    with building_folder(out) as folder:
        _write_model(folder, state, kept)
        if scores is not None:
            write_thresholds(folder / PACKED, scores)
        original = Predictor(path, device="cpu", score=0.0, recipe=recipe)
        shown = _try(folder, original, wishes.pictures, tell)
        pictures = []
        for number, (name, found) in enumerate(shown, start=1):
            file = f"pictures/{number}.jpg"
            write_bytes(folder / file, encode_jpeg(found.draw(), _QUALITY))
            pictures.append((file, f"what it finds in {name}, an image that it was not trained on"))
        text = card(out.name, path, whole, recipe, scores or {}, wishes.stated, report, pictures).markdown()
        write_text(folder / "README.md", text)
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.*"))}
        facts = {n: {"bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for n, b in files.items()}
        made = {"format": "maskrcnn-package", "format_version": 1, "maskrcnn": __version__}
        write_json(folder / PACKAGE, {**made, "step": state.step, "files": facts}, indent=1, sync=True)
    size = in_words(sum(map(len, files.values())))
    tell(
        f"{out}: {plural(len(facts), 'file')}, {size}; read its README.md and complete what it does not state"
    )


def _write_model(folder: Path, state: Checkpoint, recipe: Recipe) -> None:
    save(state, folder / PACKED)
    shipped = replace(recipe, weights=None, model=without_weights(recipe.model), output=None, expect=())
    text = dump(shipped).replace("\nweights: null\n", f'\nweights: "${{HERE}}/{PACKED}"\n', 1)
    write_text(folder / "config.yaml", _CONFIG + text)
    rows = zip(state.category_ids, state.category_names, strict=True)
    write_json(folder / "classes.json", {"categories": [{"id": i, "name": n} for i, n in rows]}, indent=1)


def _try(
    folder: Path, original: Predictor, pictures: int, tell: Callable[[str], object]
) -> list[tuple[str, Prediction]]:
    """Compare the package with its original, and give what it finds on the first images with objects.

    Raises:
        UserError: it does not find the very same.
    """
    recipe = original.recipe
    if recipe.model.rpn is None:
        tell("its model has no RPN, so it was not tried on an image, and there are no pictures")
        return []
    packed = Predictor(folder / PACKED, device="cpu", score=0.0)
    images = _images(recipe, pictures, tell)
    channels = recipe.data.reading.channels
    noise = np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, channels)).astype(np.uint8)
    tried = images or [("", Pixels(noise))]
    shown = []
    for name, image in tried:
        packed.choose_score(0.0)
        if _find(packed, image).records != _find(original, image).records:
            raise UserError(
                f"{name or 'noise'}: the package finds something else than its original; it was not kept"
            )
        packed.choose_score(None)
        shown.append((name, _find(packed, image)))
    told = plural(len(images), "image") if images else "noise"
    tell(f"the package was read back, and finds on {told} what its original does, to the last digit")
    return shown if images else []


def _find(predictor: Predictor, image: Pixels) -> Prediction:
    return predictor(image) if predictor.recipe.data.tiles is None else predictor.tiled(image)


def _images(recipe: Recipe, most: int, tell: Callable[[str], object]) -> list[tuple[str, Pixels]]:
    """(file name, image) of the first images of ``data.val`` that have objects; none where it is not here."""
    if not most or recipe.data.val is None:
        return []
    try:
        dataset = recipe.data.build(recipe.data.val, False)
        return [(name, Pixels(image)) for name, image in islice(_with_objects(dataset), most)]
    except (UserError, OSError) as error:
        tell(f"no pictures, since the evaluation data cannot be read: {error}")
        return []


def _with_objects(dataset: Dataset) -> Iterator[tuple[str, Image]]:
    truth = dataset.ground_truth()
    places = {int(image_id): place for place, image_id in enumerate(np.asarray(dataset.image_ids).tolist())}
    for image in dict.fromkeys(map(int, truth.images)):
        place = places.get(int(truth.image_ids[image]))
        if place is None:
            continue
        try:
            sample = dataset.load(place)
        except DataError:
            continue
        yield Path(sample.info.file_name).name, sample.image
