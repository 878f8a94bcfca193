"""MLflow as a tracker, through its own library."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.config import Config
from maskrcnn.engine.events import TRACKERS, Ended, curves, kept_word

#: How the library is to behave, where the user does not say: a server that does not answer is not asked for
#: minutes while the training waits, and use of the library is not told to its makers.
_MANNERS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
#: Parameters a call, and characters of one, that a server takes.
_MOST_PARAMS, _LONGEST = 100, 6000
#: Its words for how a run ended; RUNNING again where it goes on.
_STATUS: dict[Ended, str] = {"whole": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


@TRACKERS.register("mlflow")
@dataclass(frozen=True, kw_only=True)
class MlflowConfig(Config):
    """A run at an MLflow server or in its files; a resumed one goes on with it (``mlflow_id.txt``)."""

    #: Where to, as http://host:5000 or sqlite:///runs/mlflow.db; null: as the variable MLFLOW_TRACKING_URI
    #: says, else the library's default.  Default null.
    tracking_uri: str | None = None
    #: The experiment, made where it is not there.  Default maskrcnn.
    experiment: str = "maskrcnn"
    #: Name of the run; null: that of the run's folder.  Default null.
    name: str | None = None

    @property
    def package(self) -> str:
        """See :class:`maskrcnn.engine.events.TrackerConfig`."""
        return "mlflow"

    def open(self, folder: Path, start_step: int, settings: Mapping[str, str]) -> MlflowRun:
        """See :class:`maskrcnn.engine.events.TrackerConfig`."""
        for name, value in _MANNERS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        client = MlflowClient(tracking_uri=self.tracking_uri)

        def begin() -> str:
            found = client.get_experiment_by_name(self.experiment)
            place = found.experiment_id if found else client.create_experiment(self.experiment)
            run = str(client.create_run(place, run_name=self.name or folder.resolve().name).info.run_id)
            params = [Param(allowed(k), v[:_LONGEST]) for k, v in settings.items()]
            for first in range(0, len(params), _MOST_PARAMS):
                client.log_batch(run, params=params[first : first + _MOST_PARAMS])
            return run

        run = kept_word(folder / "mlflow_id.txt", begin)
        client.update_run(run, status="RUNNING")
        return MlflowRun(client, run, Metric)


class MlflowRun:
    """A run there; a tracker."""

    #: It has no call that takes a metric's value of a step back.
    keeps_all = True

    def __init__(self, client: Any, run: str, metric: Any) -> None:
        self._client, self._run, self._metric = client, run, metric

    def file(self, kind: str) -> None:
        """See :class:`maskrcnn.engine.events.Tracker`."""

    def record(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Send the numbers of a record."""
        now = time.time_ns() // 1_000_000
        made = [self._metric(allowed(name), v, now, step) for name, v in curves(kind, values).items()]
        if made:
            self._client.log_batch(self._run, metrics=made)

    def picture(self, step: int, name: str, image: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Send a picture, uint8 [H, W, 3] RGB, as ``name/step_00000040.png``."""
        self._client.log_image(self._run, image, f"{allowed(name)}/step_{step:08d}.png")

    def close(self, ended: Ended) -> None:
        """Say that the run has ended, and how."""
        self._client.set_terminated(self._run, status=_STATUS[ended])


def allowed(name: str) -> str:
    """A name as MLflow takes it: letters, digits and ``_ - . / :`` and blanks."""
    return re.sub(r"[^\w\-. :/]", "_", name)
