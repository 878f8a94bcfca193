"""What changed between a run's stop and its resumption, a sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maskrcnn.data import Dataset
from maskrcnn.errors import UserError

#: What of ``run.json`` decides results: where it stands, and its name.
_FACTS = (
    (("versions", "torch"), "torch"),
    (("code",), "the package's code (fingerprint)"),
    (("plugins",), "the sources of the plugins (fingerprint)"),
    (("device_name",), "the device"),
    (("threads",), "the number of threads"),
    (("world_size",), "the number of processes"),
    (("data", "train"), "the training data (digest of annotations and image sizes)"),
    (("data", "val"), "the evaluation data (digest of annotations and image sizes)"),
)


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
    for keys, name in _FACTS:
        if keys == ("threads",) and now.get("device") != "cpu":
            continue
        known = [value for entry in history if (value := _value(entry, keys)) is not None]
        current = _value(now, keys)
        if known and current is not None and known[-1] != current:
            found.append(f"{name} changed since the run was last started: {known[-1]} -> {current}")
    return found


def _value(entry: Mapping[str, Any], keys: Sequence[str]) -> Any:
    value: Any = entry
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value
