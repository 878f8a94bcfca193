"""The one Python object: a model by name, folder or file, which trains, is evaluated and predicts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from maskrcnn.config import dump
from maskrcnn.config.shipped import is_shipped_name
from maskrcnn.data import DatasetConfig
from maskrcnn.engine.checkpoint import load
from maskrcnn.engine.checkpoint_folder import find_checkpoint
from maskrcnn.errors import CheckpointError, UserError, plural
from maskrcnn.modeling.mask_rcnn import without_weights
from maskrcnn.recipe import DataConfig, Recipe, parse_recipe
from maskrcnn.run.data_argument import read_data_argument
from maskrcnn.run.evaluation import evaluate
from maskrcnn.run.find_images import AnyImage, find_images
from maskrcnn.run.named_weights import local_file
from maskrcnn.run.prediction import Prediction
from maskrcnn.run.predictor import Predictor
from maskrcnn.run.recipe_checks import load_checked_recipe
from maskrcnn.run.train import TrainResult, train

#: The name of a file or folder.
Name: TypeAlias = str | os.PathLike[str]
#: A file, a folder or a pattern, or uint8 [H, W, 3] RGB (or [H, W] gray).
Picture: TypeAlias = Name | npt.NDArray[Any]


class Model:
    """``Model("zoo/demo")``: what the commands ``train``, ``eval`` and ``predict`` do, by the same functions.

    recipe: all that decides a training, an evaluation and a prediction.
    checkpoint: the file of its weights; None before it was trained.
    classes: their names, in the order of the outputs; empty before it was trained.
    """

    def __init__(self, source: Name, *, device: str = "auto", **overrides: object) -> None:
        """
        Args:
            source: a recipe of the zoo (``zoo/demo``; `maskrcnn zoo` lists them) or a config file, which has
                no weights yet; or a run's folder (its best), a checkpoint, or weights by name.
            device: auto (a GPU where there is one), cpu or cuda.
            overrides: keys of the recipe, as ``model={"roi": {"max_detections": 200}}``; ``--set`` takes the
                same.  A key with dots goes as ``**{"model.roi.max_detections": 200}``.

        Raises:
            ConfigError: the config, or an override, is wrong.
            CheckpointError: there is no such thing, it cannot be read, or holds no recipe.
        """
        self._device = device
        self._predictor: Predictor | None = None
        self.checkpoint: Path | None = None
        self.classes: tuple[str, ...] = ()
        path = Path(source)
        self._name = str(path)
        settings = [*_settings(overrides), *([] if device == "auto" else [f"device={device}"])]
        if path.suffix in (".yaml", ".yml") or is_shipped_name(path.as_posix()):
            self.recipe: Recipe = load_checked_recipe(path, settings)
        else:
            self._take(_file_of(path), settings)

    def __repr__(self) -> str:
        state = "untrained" if self.checkpoint is None else plural(len(self.classes), "class")
        return f"Model({self._name!r}: {state})"

    def train(
        self,
        data: Name | DatasetConfig | DataConfig | None = None,
        *,
        output: Name,
        images: Name | None = None,
        resume: bool = False,
        **overrides: object,
    ) -> TrainResult:
        """Train, from the weights there are; afterwards this is the trained model, with its best checkpoint.

        Args:
            data: a folder with a ``data.yaml``, that file, a COCO json, or any config, whose data sets take
                the place of the recipe's; or a data set's config, to train on alone; or the recipe's whole
                part ``data``.  None: the recipe's own.
            output: the run folder; must be new or empty unless ``resume``.
            images: the folder of a COCO json's images.
            resume: go on from the newest checkpoint in ``output``.
            overrides: keys of the recipe, as ``solver={"steps": 2000}``; see :meth:`__init__`.

        Raises:
            UserError: and its kinds, see :func:`maskrcnn.run.train`; what was saved is kept.
        """
        recipe = _with_data(self._changed(overrides), data, images)
        if self.checkpoint is not None:
            model = without_weights(recipe.model)  # their files need not be here any more
            recipe = replace(recipe, weights=self.checkpoint, model=model)
        output = Path(output)
        done = train(recipe, output, resume=resume, resume_hint="call train again, with resume=True")
        self._take(find_checkpoint(output), [])
        return done

    def evaluate(
        self,
        data: Name | DatasetConfig | DataConfig | None = None,
        *,
        images: Name | None = None,
        results: Name | None = None,
        pictures: Name | None = None,
        **overrides: object,
    ) -> dict[str, float]:
        """COCO's figures in [0, 1] by name, as ``segm/AP``; the tables are printed.

        Args:
            data, images: as of :meth:`train`; its ``val``, or where it has none its ``train``.  None: the
                recipe's ``data.val``.
            results: also write the detections there, as a COCO results file.
            pictures: also write ``train.pictures`` images with true and predicted masks into this folder.
            overrides: keys of the recipe, as ``eval={"batch_size": 8}``.

        Raises:
            UserError: there are no weights; and its kinds, see :func:`maskrcnn.run.evaluate`.
        """
        recipe = _with_data(self._changed(overrides), data, images)
        if data is not None and recipe.data.val is None:
            recipe = replace(recipe, data=replace(recipe.data, val=recipe.data.train))
        found = evaluate(
            self._weights(),
            recipe,
            results=None if results is None else Path(results),
            pictures=None if pictures is None else Path(pictures),
        )
        return {} if found is None else found.result.scalars()

    def predict(
        self,
        images: Picture | Iterable[Picture],
        *,
        score: float | Mapping[str, float] | None = None,
        batch_size: int | None = None,
    ) -> list[Prediction]:
        """What is found in each image: boxes xyxy, scores, labels and classes, masks, and ``draw()``.

        Args:
            images: files, folders and patterns, as `maskrcnn predict` takes them, and arrays: uint8 [H, W, 3]
                RGB or [H, W] gray; one of them, or several.  A folder stands for all images in it.
            score: instances below it are left out, in [0, 1], as :class:`Predictor` takes it.
            batch_size: images a pass; None: the recipe's ``eval.batch_size``.

        Raises:
            UserError: there are no weights; a name stands for nothing; an image cannot be read.
        """
        return list(self.predict_each(images, score=score, batch_size=batch_size))

    def predict_each(
        self,
        images: Picture | Iterable[Picture],
        *,
        score: float | Mapping[str, float] | None = None,
        batch_size: int | None = None,
    ) -> Iterator[Prediction]:
        """As :meth:`predict`, one by one: for more images than the memory holds."""
        if self._predictor is None:
            self._predictor = Predictor(self._weights(), device=self._device, recipe=self.recipe)
        self._predictor.choose_score(score)
        several = [images] if isinstance(images, (str, os.PathLike, np.ndarray)) else images
        pages = self.recipe.data.reading.pages != "channels"
        return self._predictor.stream(_each(several, pages), batch_size=batch_size)

    def _take(self, file: Path, settings: list[str]) -> None:
        """Be the model of a checkpoint."""
        state = load(file)
        if not state.config:
            raise CheckpointError(
                f"{file}: holds no recipe; name a recipe or config, and start it from the file:"
                " Model(CONFIG, weights=FILE)"
            )
        self.recipe = parse_recipe(state.config, f"the config in {file}", settings)
        self.checkpoint, self.classes, self._predictor = file, state.category_names, None

    def _weights(self) -> Path:
        if self.checkpoint is None:
            raise UserError(
                f"{self._name}: this recipe has no weights yet; train it first, or name a run's folder or a"
                " checkpoint in its place"
            )
        return self.checkpoint

    def _changed(self, overrides: Mapping[str, object]) -> Recipe:
        return parse_recipe(dump(self.recipe), f"the recipe of {self._name}", _settings(overrides))


def _each(images: Iterable[Picture], pages: bool) -> Iterator[AnyImage]:
    """The arrays, and the image files (of TIFFs, with ``pages``, each page) that names stand for."""
    for image in images:
        if isinstance(image, np.ndarray):
            yield image
        else:
            yield from find_images([os.fspath(image)], pages=pages).names


def _file_of(path: Path) -> Path:
    """The file of weights that a file, a run's folder or a name of weights stands for.

    Raises:
        CheckpointError: there is none.
    """
    file = local_file(path)
    if not file.exists():
        raise CheckpointError(
            f"{path}: no run folder, checkpoint or config of that name, and weights by that name are unknown;"
            " a recipe that comes with maskrcnn is called zoo/NAME (maskrcnn zoo lists them)"
        )
    return file


def _with_data(recipe: Recipe, data: Name | DatasetConfig | DataConfig | None, images: Name | None) -> Recipe:
    """The recipe with other data sets; what is expected of its own is not expected of them."""
    if data is None:
        if images is not None:
            raise UserError("images goes with a COCO json alone; name that as data")
        return recipe
    if isinstance(data, (str, os.PathLike)):
        named = read_data_argument(Path(data), None if images is None else Path(images))
        data = replace(recipe.data, train=named.train, val=named.val)
    elif not isinstance(data, DataConfig):
        data = replace(recipe.data, train=data, val=None)
    return replace(recipe, data=data, expect=())


def _settings(overrides: Mapping[str, object]) -> list[str]:
    """Keyword arguments as ``--set`` takes them; YAML reads JSON."""

    def plain(value: Any) -> object:
        return value.item() if isinstance(value, np.generic) else str(value)

    return [f"{key}={json.dumps(value, default=plain)}" for key, value in overrides.items()]
