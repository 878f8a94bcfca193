"""The recipes that come with the package: what each is, what it costs, and what it should reach."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from maskrcnn.config.shipped import shipped_recipes, zoo_names
from maskrcnn.data.synthetic.dataset import SyntheticConfig
from maskrcnn.data.synthetic.shapes import SHAPES
from maskrcnn.data.transforms.resizing import ResizeShortestEdge
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.mask_rcnn import MaskRCNNConfig
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.run.flops import SIZE, count_cost
from maskrcnn.viz.tables import Table

#: What a recipe may expect, and the title of the column.
METRICS = {"bbox/AP": "box AP", "segm/AP": "mask AP", "keypoints/AP": "keypoint AP"}
#: Titles of the columns before and behind the figures.
_HEAD, _COSTS = ("config", "model", "backbone", "steps x images"), ("params, M", "GFLOPs")
_COCO_CLASSES = 80


@dataclass(frozen=True)
class ZooEntry:
    """A row of the table.

    name: what one types for it, wherever a config is asked for.
    place: its file below ``configs``, without ``.yaml``.
    schedule: optimizer steps x images a step.
    expected: published figures by metric, in [0, 1]; source: whose they are.
    size: (height, width) of the image that ``flops`` is for, pixels.
    parameters, flops: see :class:`maskrcnn.run.flops.Cost`.
    """

    name: str
    place: str
    task: str
    backbone: str
    schedule: str
    expected: dict[str, float]
    source: str
    size: tuple[int, int]
    parameters: int
    flops: int


def entries(words: Iterable[str] = ()) -> list[ZooEntry]:
    """Every shipped recipe whose name, or place below ``configs``, holds all of ``words``."""
    names = zoo_names()
    return [
        describe(names[place], place, load_recipe(path))
        for place, path in shipped_recipes().items()
        if all(word in names[place] or word in place for word in words)
    ]


def describe(name: str, place: str, recipe: Recipe) -> ZooEntry:
    """The row of one recipe."""
    size = _size(recipe)
    cost = count_cost(recipe.model, _classes(place, recipe), size)
    sources = dict.fromkeys(item.source for item in recipe.expect)
    steps = recipe.solver.steps
    return ZooEntry(
        name,
        place,
        task(recipe.model),
        backbone(recipe.model),
        f"{f'{steps // 1000}k' if steps % 1000 == 0 else steps} x {recipe.solver.batch_size}",
        {item.metric: item.value for item in recipe.expect},
        "; ".join(sources),
        size,
        cost.parameters,
        cost.flops,
    )


def task(model: MaskRCNNConfig) -> str:
    """Fast, Faster, Mask or Keypoint R-CNN, and whether it is a cascade."""
    heads = {"Mask": model.mask_head, "Keypoint": model.keypoint_head}
    kinds = [word for word, head in heads.items() if head is not None]
    kind = " and ".join(kinds) or ("Fast" if model.rpn is None else "Faster")
    return f"{'Cascade ' if model.roi.cascade else ''}{kind} R-CNN"


def backbone(model: MaskRCNNConfig) -> str:
    """As ``R50-FPN``, ``X101-32x8d-FPN``, ``R50-C4``, ``R18-FPN, GN``."""
    config: Any = model.backbone
    if isinstance(config, ResNetConfig):
        groups, width = config.groups, config.width_per_group
        kind = f"X{config.depth}-{groups}x{width}d" if groups > 1 else f"R{config.depth}"
        kind = f"WR{config.depth}-{width // 64}" if groups == 1 and width != 64 else kind
    else:
        kind = getattr(config, "name", None) or type(config).__name__.removesuffix("Config")
    if model.neck is not None:
        form = "FPN"
    else:
        form = "DC5" if getattr(config, "dilated_c5", False) else model.roi.levels[0].upper()
    norm = {"gn": ", GN", "sync_bn": ", SyncBN", "bn": ", BN"}.get(getattr(config, "norm", ""), "")
    return f"{kind}-{form}{norm}"


def markdown(rows: Sequence[ZooEntry]) -> str:
    """The page docs/zoo.md."""
    sources = list(dict.fromkeys(row.source for row in rows if row.source))
    head = [*_HEAD, *METRICS.values(), "source", *_COSTS]
    cells = []
    for row in rows:
        number = f"[{sources.index(row.source) + 1}]" if row.source else ""
        name = f"[{row.name}](../configs/{row.place}.yaml)"
        what, figures, costs = _cells(row)
        cells.append([name, *what, *figures, number, *costs])
    lines = [
        "# Recipes",
        "",
        "[all pages](../README.md#where-to-read-on)",
        "",
        "The configs that come with the package, with the figures that their sources publish. This page is",
        "the output of `maskrcnn zoo --markdown`; `maskrcnn zoo WORD...` prints the table, `--json` its data",
        "(and `maskrcnn eval` says by its exit status whether a checkpoint meets its config's figures).",
        "The names work wherever a config is asked for, from any folder: `maskrcnn config show zoo/demo`,",
        "`base: zoo/nuclei`. Parts have their places: `base: [zoo/demo, zoo/base/gn]`.",
        "",
        Table(head, cells, left=(*range(len(_HEAD)), head.index("source"))).markdown(),
        "",
        *(f"{i}. {source}" for i, source in enumerate(sources, 1)),
        "",
        _note(),
    ]
    return "\n".join(lines)


def text(rows: Sequence[ZooEntry]) -> str:
    """The table for a terminal."""
    head = [*_HEAD, *METRICS.values(), *_COSTS]
    cells = [[row.name, *(cell for group in _cells(row) for cell in group)] for row in rows]
    return f"{Table(head, cells, left=range(len(_HEAD))).text()}\n\n{_note()}"


def _cells(row: ZooEntry) -> tuple[list[str], list[str], list[str]]:
    """What it is, its figures, its costs."""
    figures = [f"{100 * row.expected[m]:.1f}" if m in row.expected else "" for m in METRICS]
    number = f"{row.flops / 1e9:.{0 if row.flops > 1e10 else 1}f}"
    at = "" if row.size == SIZE else f" at {row.size[0]} x {row.size[1]}"
    return [row.task, row.backbone, row.schedule], figures, [f"{row.parameters / 1e6:.1f}", number + at]


def _note() -> str:
    return (
        "AP: published by the source, in percent; not re-run here. GFLOPs: multiply-adds of one image of"
        f" {SIZE[0]} x {SIZE[1]} px where no other size stands, with 1000 proposals and 100 detections."
    )


def _size(recipe: Recipe) -> tuple[int, int]:
    """The published comparisons' 800 x 1280 or, at another scale, this recipe's own of the same shape."""
    if isinstance(recipe.data.val, SyntheticConfig):
        return recipe.data.val.size, recipe.data.val.size
    for transform in recipe.data.eval_transforms:
        if isinstance(transform, ResizeShortestEdge):
            return transform.min_sizes[0], transform.min_sizes[0] * SIZE[1] // SIZE[0]
    return SIZE


def _classes(place: str, recipe: Recipe) -> int:
    """Of the data, which need not be here."""
    if isinstance(recipe.data.train, SyntheticConfig):
        return 1 if recipe.data.train.keypoints else len(SHAPES)
    if recipe.model.keypoint_head is not None or place.startswith("nuclei"):
        return 1
    return _COCO_CLASSES
