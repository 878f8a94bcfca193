"""What a DATA argument of a command stands for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maskrcnn.config.nodes import Map, Problems
from maskrcnn.config.reader import find_config
from maskrcnn.config.text import parse
from maskrcnn.data import CocoConfig
from maskrcnn.data.file_names import shown
from maskrcnn.data.formats.data_folder import DATA_FILE
from maskrcnn.errors import UserError
from maskrcnn.recipe import DataConfig, Recipe, load_recipe

_WAYS = (
    f"DATA is a folder with a {DATA_FILE} (which `maskrcnn import` makes), that file, a COCO json with"
    " --images, or a config"
)


def read_data_argument(path: Path, images: Path | None = None, overrides: Sequence[str] = ()) -> DataConfig:
    """The data sets (``train``, and ``val`` or None) that a folder, a file or a config names.

    Args:
        path: a folder that holds ``data.yaml``, that file, a COCO json, or any config, shipped ones by name.
        images: the folder of a COCO json's images; with nothing else.
        overrides: ``key.path=value`` for a config.

    Raises:
        UserError: there is no such thing, or the images are missing or one too many.
        ConfigError: the config is wrong.
    """
    if path.suffix.lower() == ".json":
        if images is None:
            raise UserError(
                f"{shown(path)}: a COCO json needs the folder of its images; name it with --images DIR"
            )
        if not path.is_file():
            raise UserError(f"{shown(path)}: there is no such file")
        if overrides:
            raise UserError(
                f"{shown(path)}: is no config, which --set could change; name a config, or leave --set out"
            )
        return DataConfig(train=CocoConfig(images=images, annotations=path))
    if images is not None:
        raise UserError(
            f"{shown(path)}: --images goes with a COCO json alone, and this says itself where its images are"
        )
    if path.is_dir():
        if not (path / DATA_FILE).is_file():
            raise UserError(f"{shown(path)}: this folder holds no {DATA_FILE}; {_WAYS}")
        path = path / DATA_FILE
    elif not find_config(path).exists():
        raise UserError(f"{shown(path)}: there is no such file or folder; {_WAYS}")
    _refuse_yolo(find_config(path))
    return load_recipe(path, overrides).data


def read_data_or_recipe(
    path: Path, images: Path | None = None, overrides: Sequence[str] = ()
) -> tuple[DataConfig, Recipe | None]:
    """The same; and the recipe, where a config was named and not data alone.

    Raises:
        UserError, ConfigError: as there.
    """
    config = read_data_argument(path, images, overrides)
    alone = path.is_dir() or path.suffix.lower() == ".json" or path.name == DATA_FILE
    return config, None if alone else load_recipe(path, overrides)


def _refuse_yolo(path: Path) -> None:
    """
    Raises:
        UserError: the file is YOLO's data.yaml, which says what ours says in another way.
    """
    try:
        root = parse(path.read_text(encoding="utf-8-sig"), str(path), Problems())
    except (OSError, ValueError):  # told better by who reads it as a config
        return
    if isinstance(root, Map) and "names" in root.entries and not {"data", "base"} & root.entries.keys():
        raise UserError(
            f"{shown(path)}: this is a data set of YOLO's, not of ours; make one of it: maskrcnn import"
            f" {shown(path)} --out DIR"
        )
