"""A run's state as named parts: a checkpoint holds each under its name, and may lack any but the model.

A new kind of state is one more part, whose default stands for the files from before there was one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrcnn.engine.checkpoint import Checkpoint
from maskrcnn.errors import CheckpointError, UserError, few
from maskrcnn.weights.safe_load import first_line


@dataclass(frozen=True)
class Part:
    """One piece of a run's state.

    save: gives it, tensors and plain containers alone; called on all ranks at once.
    load: takes it over; its second argument is the file that it comes from, for messages.
    default: what a file without it stands for, empty: as it was built; None: the same, and that is told.
    """

    save: Callable[[], dict[str, Any]]
    load: Callable[[dict[str, Any], Path], object]
    default: Callable[[], dict[str, Any]] | None = None


#: By the name in the file, in the order of loading.
Parts = Mapping[str, Part]


def load_parts(parts: Parts, checkpoint: Checkpoint, source: Path) -> None:
    """Give every part its state, or its default; on all ranks at once.

    Raises:
        CheckpointError: a state does not fit its part.
    """
    for name, part in parts.items():
        state = checkpoint.states.get(name) or (part.default() if part.default else {})
        try:
            if state:
                part.load(state, source)
        except UserError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{source}: its {name} does not fit ({first_line(error)}); begin a new run with weights: that"
                " file"
            ) from None


def incomplete(parts: Parts, checkpoint: Checkpoint, source: Path) -> list[str]:
    """A sentence on what ``checkpoint`` lacks, and one on what it holds besides ``parts``."""
    lacks = [n for n, part in parts.items() if part.default is None and not checkpoint.states.get(n)]
    lacks += [name for name in ("config", "category_ids") if not getattr(checkpoint, name)]
    without = [f"{source} does not hold {few(lacks)}, so the run goes on without"] if lacks else []
    return without + unknown(checkpoint, source, parts)


def unknown(checkpoint: Checkpoint, source: Path, parts: Parts | None = None) -> list[str]:
    """A sentence on what ``checkpoint`` holds besides ``parts``, where there is anything."""
    names = few(repr(name)[:60] for name in checkpoint.more if name not in (parts or ()))
    if not names:
        return []
    return [f"{source} holds {names}, unknown here (a later maskrcnn may have written it), and left out"]
