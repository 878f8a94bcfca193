"""What changed between a run's stop and its resumption, a sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskrcnn.config import flatten
from maskrcnn.config.plugins import plugins_fingerprint
from maskrcnn.data import Categories, Dataset
from maskrcnn.engine.checkpoint import Checkpoint, refuse_stripped
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.provenance import describe_run
from maskrcnn.errors import CheckpointError, UserError, few
from maskrcnn.recipe import NEUTRAL_KEYS, Recipe, check_same_categories, parse_recipe
from maskrcnn.run.setup import Data

#: What of ``run.json`` decides results: where it stands, and its name.
_FACTS = {
    "versions.torch": "torch",
    "versions.albumentations": "albumentations",
    "versions.torchvision": "torchvision",
    "code": "the package's code (fingerprint)",
    "plugins": "the sources of the plugins (fingerprint)",
    "device_name": "the device",
    "threads": "the number of threads",
    "world_size": "the number of processes",
    "data.train": "the training data (digest of annotations and image sizes)",
    "data.val": "the evaluation data (digest of annotations and image sizes)",
}


def run_facts(recipe: Recipe, data: Data, ranks: Ranks) -> dict[str, Any]:
    """What ``run.json`` says of a start, besides its step: machine, code, data, plugins."""
    facts = {
        **describe_run(ranks.device, ranks.size, recipe.data.train_transforms),
        "data": data_digests(data.train, data.val),
    }
    return {**facts, "plugins": plugins_fingerprint(recipe.plugins)} if recipe.plugins else facts


def check_resumed(
    recipe: Recipe, checkpoint: Checkpoint, path: Path, data: Data, other: Sequence[str], *, strict: bool
) -> list[str]:
    """Whether a run can go on from the checkpoint at ``path``.

    Args:
        other: what else is not as it was, a sentence each.
        strict: nothing may be.

    Returns:
        A warning for each thing that is not as it was.

    Raises:
        UserError: it cannot.
    """
    refuse_stripped(checkpoint, path)
    known = Categories(checkpoint.category_ids, checkpoint.category_names)
    if known.ids:
        check_same_categories(known, data.train.categories, "data.train")
    if checkpoint.step > recipe.solver.steps and recipe.train.hours is None:
        raise UserError(
            f"{path}: already at step {checkpoint.step}, past solver.steps {recipe.solver.steps}; set"
            f" solver.steps to {checkpoint.step} or more"
        )
    stored = checkpoint.config
    changed = changed_keys(recipe, stored, f"the config in {path}") if stored else []
    if changed:
        values = few(changed, separator="; ")
        other = [f"resuming with other values than the run began with ({values})", *other]
    if other and strict:
        raise UserError(
            f"{path.parent.parent}: --strict, and this would not be one run: {'; '.join(other)}. Restore what"
            " it began with, or leave --strict out; nothing was written"
        )
    return [f"{sentence}; the result is not that of one run" for sentence in other]


def changed_keys(recipe: Recipe, stored: str, name: str) -> list[str]:
    """``key: old -> new`` for each value that decides results and differs from the stored recipe's."""
    try:
        before = flatten(parse_recipe(stored, name))
    except UserError as error:
        raise CheckpointError(f"{name}: the recipe kept inside cannot be read any more: {error}") from None
    now = flatten(recipe)
    found = []
    for key in {**before, **now}:
        neutral = any(key == n or key.startswith(n + ".") for n in NEUTRAL_KEYS)
        if not neutral and before.get(key) != now.get(key):
            found.append(f"{key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}")
    return found


def data_digests(train: Dataset | None, val: Dataset | None) -> dict[str, str]:
    """Digests of those data sets that have a method ``digest``; ours do, and one of a plugin may."""
    found = {}
    for name, dataset in (("train", train), ("val", val)):
        digest = getattr(dataset, "digest", None)
        if digest is not None:
            try:
                found[name] = str(digest())
            except OSError as error:
                raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from None
    return found


def changes(history: Sequence[Mapping[str, Any]], now: Mapping[str, Any]) -> list[str]:
    """A sentence for each fact that is not what the run's last entry with it says.

    Args:
        history: the entries of ``run.json``; what they do not say is not compared.
        now: the entry that is about to be added.
    """
    found = []
    for key, name in _FACTS.items():
        if key == "threads" and now.get("device") != "cpu":
            continue
        known = [value for entry in history if (value := _value(entry, key)) is not None]
        current = _value(now, key)
        if known and current is not None and known[-1] != current:
            found.append(f"{name} changed since the run was last started: {known[-1]} -> {current}")
    return found


def _value(entry: Mapping[str, Any], key: str) -> Any:
    outer, _, inner = key.partition(".")
    value = entry.get(outer)
    return (value.get(inner) if isinstance(value, Mapping) else None) if inner else value
