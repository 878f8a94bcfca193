"""What can be known before the first step is told before the first step, all of it together.

A check is a function that is registered in :data:`CHECKS` and looks at a :class:`Start`; a plugin can add its
own.  :func:`run_checks` collects what they find over the ranks, and raises one error that lists it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import torch

from maskrcnn.config.registry import Named
from maskrcnn.data import Dataset
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks
from maskrcnn.errors import UserError, few, plural
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.recipe import Recipe

#: Problems that are written out; the others are counted.
_LISTED = 20


@dataclass(frozen=True)
class Start:
    """What is about to begin, and the one data set of it that a check looks at.

    key: where the config names ``dataset``; in a training ``data.train`` is trained on.
    folders, files: that will be written, by the option that chooses them; nothing is written into them.
    model, optimizer: of a training.
    held: names of the parameters that ``solver.freeze`` froze.
    """

    recipe: Recipe
    ranks: Ranks
    console: Console
    key: str
    dataset: Dataset
    _: KW_ONLY
    folders: Mapping[str, Path] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    model: MaskRCNN | None = None
    optimizer: torch.optim.Optimizer | None = None
    held: Collection[str] = ()

    @property
    def training(self) -> bool:
        """Whether ``dataset`` is to be trained on."""
        return self.model is not None and self.key == "data.train"


#: A problem that ends the run, or a warning.
Finding: TypeAlias = UserError | str
#: Raises the only problem there is, or gives what it finds.
Check: TypeAlias = Callable[[Start], Iterable[Finding] | None]
CHECKS: Named[Check] = Named(
    "check",
    "maskrcnn.run",
    keypoints="data_checks",
    usable="data_checks",
    masks="data_checks",
    images="image_checks",
    workers="machine_checks",
    trackers="machine_checks",
    batch="machine_checks",
    places="room",
    disk="room",
    frozen="learnable",
    learning="learnable",
    transforms="evaluation_checks",
    backend="evaluation_checks",
    judged_masks="evaluation_checks",
    judged_keypoints="evaluation_checks",
    best="evaluation_checks",
    losses="evaluation_checks",
    fit="fit_doubts",
)
#: What is looked at before each of them, in the order in which it is told; a training asks a plugin's, too.
TRAINING = ("keypoints", "usable", "masks", "trackers", "workers", "batch", "places", "disk", "fit")
EVALUATION = ("transforms", "backend", "batch", "usable", "judged_masks", "judged_keypoints")
PROPOSALS = ("transforms", "workers", "places", "images")
_OURS = frozenset(CHECKS.names())


def before_training(start: Start, val: Dataset | None) -> None:
    """Everything that a training will need: images, masks, metrics, folders, room, processes.

    Args:
        start: with the training data.  val: what the model is judged on.

    Raises:
        UserError: as :func:`run_checks`.
    """
    checks = [(name, start) for name in TRAINING]
    last = [("images", start), *((name, start) for name in CHECKS.names() if name not in _OURS)]
    if val is not None:
        judged = replace(start, key="data.val", dataset=val)
        checks += [(name, judged) for name in (*EVALUATION, "best", "losses", "fit")]
        last.append(("images", judged))
    run_checks([*checks, *last], "before the first step")


def tell(name: str, start: Start) -> None:
    """Run the check called ``name`` on this process alone; warnings are rank 0's to tell.

    Raises:
        UserError: the first problem that it finds.
    """
    for finding in _look(name, start):
        if isinstance(finding, UserError):
            raise finding
        if start.ranks.is_main:
            start.console.warn(finding)


def _look(name: str, start: Start) -> Iterator[Finding]:
    try:
        yield from CHECKS.get(name)(start) or ()
    except UserError as error:
        yield error


def run_checks(checks: Sequence[tuple[str, Start]], when: str) -> None:
    """Run checks, by their names, on the first process of each machine, and raise on all what was found.

    Raises:
        UserError: (ConfigError, DataError) what is wrong, on every rank; several problems are listed.
    """
    ranks, console = checks[0][1].ranks, checks[0][1].console
    found = [finding for check in checks for finding in _look(*check)] if ranks.local_rank == 0 else []
    gathered = [finding for part in ranks.gather(found) for finding in part]
    for warning in dict.fromkeys(f for f in gathered if isinstance(f, str)):
        console.warn(warning)
    told = ranks.share({str(f): type(f) for f in gathered if isinstance(f, UserError)})
    if len(told) == 1:
        ((sentence, kind),) = told.items()
        raise kind(sentence)
    if told:
        listed = few(told, _LISTED, "\n  ")
        raise UserError(f"{plural(len(told), 'problem')}, found {when}\n  {listed}")
