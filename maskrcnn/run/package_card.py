"""What the card of a package says: gathered of its checkpoint, its run and its report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrcnn.config.encode import one_line
from maskrcnn.config.schema import Slot
from maskrcnn.engine.checkpoint import Checkpoint
from maskrcnn.errors import CheckpointError, UserError, few, plural
from maskrcnn.modeling.interfaces import ROI_OPS
from maskrcnn.recipe import Recipe
from maskrcnn.run.folder import RunFolder
from maskrcnn.run.named_weights import is_name, publisher_of, weight_keys
from maskrcnn.run.thresholds import PLAIN_SCORE
from maskrcnn.viz.model_card import ModelCard


@dataclass(frozen=True)
class Stated:
    """Words of a package's maker, which may be empty: what it is for, and the licence of its weights."""

    use: str = ""
    licence: str = ""


def report_of(
    path: Path, state: Checkpoint, given: Path | None, tell: Callable[[str], object]
) -> dict[str, Any] | None:
    """Figures of a report about this checkpoint: ``given``, or of the run's folder; None: there is none.

    Args:
        path: the checkpoint's file.

    Raises:
        UserError: ``given`` cannot be read, or is about another checkpoint.
    """
    file = given or _run_of(path).report.with_suffix(".json")
    if given is None and not file.is_file():
        tell("its card has no intervals and failures: there is no report (maskrcnn eval --report PAGE.html)")
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        step, names = found["about"].get("step"), [entry["name"] for entry in found["classes"]]
        sound = found["version"] == 1 and isinstance(found["figures"], dict)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = f"cannot be read: {error}" if isinstance(error, OSError) else "is not the json of a report"
        raise UserError(
            f"--report {file}: {why}; name the json beside a page of maskrcnn eval --report"
        ) from None
    about = f"is of step {step} and {few(names, 3)}, and {path} of step {state.step}"
    if not sound or step != state.step or names != list(state.category_names):
        if given is None:
            tell(f"its card has no intervals and failures, since {file} {about}")
            return None
        raise UserError(f"--report {file}: {about}; evaluate that one with --report, and name the json of it")
    return dict(found)


def card(
    name: str,
    path: Path,
    state: Checkpoint,
    recipe: Recipe,
    scores: Mapping[str, float],
    stated: Stated,
    report: dict[str, Any] | None,
    pictures: Sequence[tuple[str, str]],
) -> ModelCard:
    """All that is known.

    Args:
        state: the checkpoint before it was stripped, of ``path``.
        recipe: its own, with what the user changed.
        scores: by class, where there are some.
    """
    best = (
        {n: v for n, v in state.best.items() if n != "step"} if state.best.get("step") == state.step else {}
    )
    return ModelCard(
        name,
        stated.use,
        stated.licence,
        {str(file) if is_name(file) else file.name: _licence(file) for _, file in weight_keys(recipe)},
        _facts(path, state, recipe),
        _data(path, state, recipe),
        {n: scores.get(n, PLAIN_SCORE) for n in state.category_names},
        best,
        report,
        pictures,
        recipe.plugins,
    )


def _run_of(path: Path) -> RunFolder:
    return RunFolder(path.parent.parent if path.parent.name == "checkpoints" else path.parent)


def _licence(file: Path) -> str:
    try:
        return (publisher_of(file).facts(file.as_posix()).licence or "") if is_name(file) else ""
    except CheckpointError:  # a name that is not known here
        return ""


def _facts(path: Path, state: Checkpoint, recipe: Recipe) -> dict[str, str]:
    model, solver = recipe.model, recipe.solver
    backbone = type(model.backbone).__name__.removesuffix("Config")
    depth = getattr(model.backbone, "depth", getattr(model.backbone, "name", ""))
    heads = {"masks": model.mask_head, "keypoints": model.keypoint_head, **model.heads}
    history = _run_of(path).history()
    facts = {
        "network": f"{backbone} {depth}".strip(),
        "pooling of RoIs": one_line(Slot(ROI_OPS), model.roi_op),
        "finds": few(["boxes", *(name for name, head in heads.items() if head is not None)], 20),
        "parameters and buffers": f"{sum(value.numel() for value in state.model.values()):,}",
        "training": f"{plural(state.step, 'step', spec=',')} of {plural(solver.batch_size, 'image')}",
        "seed": str(recipe.seed),
        "versions": ", ".join(f"{name} {version}" for name, version in state.versions.items()),
    }
    if history:
        facts["trained"] = f"from {history[0].get('started', '')} on, code {history[0].get('code', '')}"
    return facts


def _data(path: Path, state: Checkpoint, recipe: Recipe) -> dict[str, str]:
    """Without folders, which may tell more than is meant to be told."""
    data = recipe.data
    said = [entry["data"] for entry in _run_of(path).history() if isinstance(entry.get("data"), dict)]
    digests: dict[str, Any] = said[-1] if said else {}
    found = {}
    for part, config in (("train", data.train), ("val", data.val)):
        if config is not None:
            file = getattr(config, "annotations", None)
            kind = type(config).__name__.removesuffix("Config")
            told = [kind if file is None else f"{kind}, {Path(file).name}"]
            told += [f"digest {digests[part]}"] if part in digests else []
            found["trained on" if part == "train" else "evaluated on"] = "; ".join(told)
    if state.image_size:
        height, width = state.image_size[:2]
        found["size of the images"] = f"{width} x {height} pixels in the median"
    found["channels"] = str(data.channels)
    found["images are made of them by"] = ", ".join(map(repr, data.eval_transforms)) or "nothing"
    return found
