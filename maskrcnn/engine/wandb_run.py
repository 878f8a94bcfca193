"""Weights & Biases as a tracker, through its own library."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from maskrcnn.config import Config
from maskrcnn.engine.events import TRACKERS, Ended, curves, kept_word


@TRACKERS.register("wandb")
@dataclass(frozen=True, kw_only=True)
class WandbConfig(Config):
    """A run at Weights & Biases; a resumed one goes on with the same (its id is in ``wandb_id.txt``)."""

    #: The project there.  Default maskrcnn.
    project: str = "maskrcnn"
    #: The team or user; null: the library's default.  Default null.
    entity: str | None = None
    #: Name of the run; null: that of the run's folder.  Default null.
    name: str | None = None
    #: Runs that belong together; null: none.  Default null.
    group: str | None = None
    #: Words to find it by.  Default none.
    tags: tuple[str, ...] = ()
    #: online, or offline (files in ``wandb`` of the run's folder, for `wandb sync`); null: as the variable
    #: WANDB_MODE says, else online.  Default null.
    mode: Literal["online", "offline"] | None = None

    @property
    def package(self) -> str:
        """See :class:`maskrcnn.engine.events.TrackerConfig`."""
        return "wandb"

    def open(self, folder: Path, start_step: int, settings: Mapping[str, str]) -> WandbRun:
        """See :class:`maskrcnn.engine.events.TrackerConfig`."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # of its own faults, to its makers
        import wandb

        run = wandb.init(
            project=self.project,
            entity=self.entity,
            name=self.name or folder.resolve().name,
            group=self.group,
            tags=list(self.tags) or None,
            mode=self.mode,
            dir=str(folder),
            config=dict(settings),
            id=kept_word(folder / "wandb_id.txt", lambda: secrets.token_hex(8)),
            resume="allow",
            allow_val_change=True,
            settings=wandb.Settings(console="off"),  # what is printed goes past it
        )
        return WandbRun(run, wandb.Image)


class WandbRun:
    """A run there; a tracker."""

    #: Its history only grows: what it has of a step cannot be replaced from here, nor offline at all.
    keeps_all = True

    def __init__(self, run: Any, picture: Any) -> None:
        self._run, self._picture = run, picture
        run.define_metric("step")  # an axis of our own: its own only ever rises, and a resumed run goes back
        run.define_metric("*", step_metric="step")

    def file(self, kind: str) -> None:
        """See :class:`maskrcnn.engine.events.Tracker`."""

    def record(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Send the numbers of a record."""
        numbers = curves(kind, values)
        if numbers:
            self._run.log({"step": step, **numbers})

    def picture(self, step: int, name: str, image: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Send a picture, uint8 [H, W, 3] RGB."""
        self._run.log({"step": step, name: self._picture(image)})

    def close(self, ended: Ended) -> None:
        """Wait until all is sent; a run that can go on is told apart from one that is whole, and one that
        failed.
        """
        if ended == "interrupted":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if ended == "whole" else 1)
