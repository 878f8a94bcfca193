"""Where figures of a run go besides its own files.

The libraries of wandb and mlflow are stood in for by modules that keep what they are told; tests at the end
take the real ones, without a network, where they are installed.
"""

from __future__ import annotations

import csv
import errno
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from maskrcnn import files
from maskrcnn.config.registry import Registry
from maskrcnn.engine import events
from maskrcnn.engine.board import EventFile
from maskrcnn.engine.console import Console
from maskrcnn.engine.csv_files import WideFile
from maskrcnn.engine.events import TRACKERS, Events, Tally, curves
from maskrcnn.engine.interrupt import Interrupted
from maskrcnn.engine.mlflow_run import allowed
from maskrcnn.engine.wandb_run import WandbConfig
from maskrcnn.errors import ConfigError, UserError
from maskrcnn.recipe import load_recipe
from maskrcnn.run import train
from tests.engine.tiny import write_recipe
from tests.test_resume import assert_same_state, last

PICTURE = np.zeros((4, 5, 3), dtype=np.uint8)


def begin(folder: Path, name: str, start_step: int = 0, **options: Any) -> Events:
    folder.mkdir(exist_ok=True)
    return Events(
        folder,
        Console(),
        start_step=start_step,
        tensorboard=False,
        trackers=[TRACKERS.make(name, **options)],
        settings={"solver.steps": "9", "data.train.type": "coco"},
    )


def progress(events: Events, step: int, **losses: float) -> None:
    done = Tally(losses or {"loss_mask": 0.5}, steps=1, images=2)
    events.progress(done, step=step, total=9, lr=0.1, memory=0)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_names_of_curves() -> None:
    train_values = {"loss": 1.0, "loss_mask": 0.5, "lr": 0.1, "lr/backbone": 0.01}
    assert curves("train", train_values) == {
        "loss/loss": 1.0,
        "loss/mask": 0.5,
        "train/lr": 0.1,
        "train/lr/backbone": 0.01,
    }
    assert curves("eval", {"segm/AP": 0.25, "val/loss_mask": 0.5}) == {
        "eval/segm/AP": 0.25,
        "val/loss_mask": 0.5,
    }
    assert curves("end", {"why": "a text"}) == {}


# csv


def test_csv_has_a_row_a_step_and_a_resumed_run_writes_none_twice(tmp_path: Path) -> None:
    for start in (0, 2):  # killed after step 3, resumed from 2
        run = begin(tmp_path, "csv", start)
        for step in (1, 2, 3):
            if step > start:
                progress(run, step)
                run.evaluation(step, {"segm/AP": step / 10}, 1.0)
        run.close()
        with (tmp_path / "eval.csv").open("a") as file:
            file.write("4,0.")  # cut short by a crash
    assert [row["step"] for row in rows(tmp_path / "train.csv")] == ["1", "2", "3"]
    assert [row["loss_mask"] for row in rows(tmp_path / "train.csv")] == ["0.5"] * 3
    begin(tmp_path, "csv", 3).close()
    assert [(row["step"], row["segm/AP"]) for row in rows(tmp_path / "eval.csv")] == [
        ("1", "0.1"),
        ("2", "0.2"),
        ("3", "0.3"),
    ]


def test_a_new_figure_adds_a_column_and_keeps_the_rows(tmp_path: Path) -> None:
    file = WideFile(tmp_path / "a.csv", 0)
    file.add(1, {"a,b": 1.5})
    file.add(2, {"a,b": 2.5, "new": 3})
    file.add(3, {"new": 4})
    file.close()
    assert rows(tmp_path / "a.csv") == [
        {"step": "1", "a,b": "1.5", "new": ""},
        {"step": "2", "a,b": "2.5", "new": "3"},
        {"step": "3", "a,b": "", "new": "4"},
    ]


def test_a_full_disk_delays_rows_and_new_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "no space")

    file = WideFile(tmp_path / "a.csv", 0)
    file.add(1, {"a": 1})
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "write", full)
        patch.setattr("maskrcnn.engine.csv_files.replacing", full)
        for step, name in ((2, "b"), (3, "a")):
            with pytest.raises(OSError, match="no space"):
                file.add(step, {name: step})
    assert [row["step"] for row in rows(tmp_path / "a.csv")] == ["1"]
    file.close()  # there is room again
    assert [(row["step"], row["a"], row["b"]) for row in rows(tmp_path / "a.csv")] == [
        ("1", "1", ""),
        ("2", "", "2"),
        ("3", "3", ""),
    ]


# a tracker that fails


@dataclass
class Faulty:
    """A tracker that fails at what is named."""

    at: str
    error: Exception
    path: Path | None = None
    package: str = ""
    done: list[str] = field(default_factory=list)

    def _do(self, what: str) -> None:
        self.done.append(what)
        if what == self.at:
            raise self.error

    def open(self, folder: Path, start_step: int, settings: Mapping[str, str]) -> Faulty:
        self._do("open")
        return self

    def file(self, kind: str) -> Path | None:
        return self.path

    def record(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        self._do(kind)

    def picture(self, step: int, name: str, image: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        self._do("picture")

    def close(self, ended: str) -> None:
        self._do("close")


def run_faulty(folder: Path, monkeypatch: pytest.MonkeyPatch, tracker: Faulty) -> None:
    registry: Registry[Any] = Registry("tracker")
    registry.register("faulty")(Faulty)
    monkeypatch.setattr(events, "TRACKERS", registry)
    run = Events(folder, Console(), tensorboard=False, trackers=[tracker])
    for step in (1, 2):
        progress(run, step)
        run.evaluation(step, {"segm/AP": 0.5}, 1.0)
        run.picture(step, "eval/a", PICTURE)
    run.close()


ALL = ["open", *["train", "eval", "picture"] * 2, "close"]


@pytest.mark.parametrize("at", ["open", "train", "eval", "picture", "close"])
@pytest.mark.parametrize(
    "error", [RuntimeError("no\nconnection"), ConnectionError("refused"), OSError(28, "full")]
)
def test_one_that_fails_is_told_once_and_left_out(
    at: str,
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tracker = Faulty(at, error)
    run_faulty(tmp_path, monkeypatch, tracker)
    assert tracker.done == ALL[: ALL.index(at) + 1]
    err = capsys.readouterr().err
    assert err.count("the tracker faulty failed") == err.count("the run goes on without it") == 1
    if isinstance(error, RuntimeError):
        assert "faulty failed (RuntimeError: no connection); the run" in err
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


def test_a_file_of_one_that_cannot_be_written_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = Faulty("eval", OSError(errno.ENOSPC, "full"), tmp_path / "a.txt")
    run_faulty(tmp_path, monkeypatch, tracker)
    assert tracker.done == ALL
    assert "what is missing is written as soon as it can be" in capsys.readouterr().err


# in a recipe


def test_a_run_writes_what_its_recipe_names_to_the_same_bits(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    plain = load_recipe(path)
    tracked = load_recipe(path, ["train.trackers=[csv, {type: tensorboard}]", "train.tensorboard=true"])
    train(plain, tmp_path / "plain", console=Console(quiet=True))
    train(tracked, tmp_path / "run", console=Console(quiet=True))
    assert [row["step"] for row in rows(tmp_path / "run" / "train.csv")] == [str(s) for s in range(1, 7)]
    assert [row["step"] for row in rows(tmp_path / "run" / "eval.csv")] == ["6"]
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1  # asked for twice, and there once
    assert not (tmp_path / "plain" / "train.csv").exists()
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = loading.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert {"classes/segm/AP/box", "classes/bbox/AP/disc", "eval/segm/AP"} <= set(board.Tags()["scalars"])
    assert board.Tags()["images"] == ["eval/precision_recall"]
    assert_same_state(last(tmp_path / "plain"), last(tmp_path / "run"))


def test_one_kind_twice_and_an_unknown_one_are_refused(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    with pytest.raises(ConfigError, match="trackers has csv more than once"):
        load_recipe(path, ["train.trackers=[csv, csv]"])
    with pytest.raises(ConfigError, match="unknown tracker 'wandd'.* Did you mean 'wandb'"):
        load_recipe(path, ["train.trackers=[wandd]"])


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_a_sentence_before_anything_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskrcnn.run.machine_checks.find_spec", lambda name: None)
    recipe = load_recipe(write_recipe(tmp_path), [f"train.trackers=[csv, {name}]"])
    sentence = rf"train\.trackers\.1 needs the Python package '{name}', .* pip install maskrcnn\[{name}\]"
    with pytest.raises(UserError, match=sentence):
        train(recipe, tmp_path / "run", console=Console(quiet=True))
    assert not (tmp_path / "run").exists()


# wandb and mlflow, stood in for


class FakeRun(SimpleNamespace):
    """Of wandb."""

    def log(self, values: Mapping[str, Any]) -> None:
        self.logged.append(dict(values))

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes.append((name, step_metric))

    def mark_preempting(self) -> None:
        self.marked = True

    def finish(self, exit_code: int) -> None:
        self.finished = True
        self.exit_code = exit_code


@pytest.fixture
def wandb_runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """The runs that were begun with a module that stands in for wandb."""
    runs: list[FakeRun] = []

    def init(**given: Any) -> FakeRun:
        runs.append(FakeRun(given=given, logged=[], axes=[], finished=False, marked=False))
        return runs[-1]

    module: Any = ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None)
    module.init, module.Image, module.Settings = init, lambda image: ("picture", image.shape), dict
    monkeypatch.setitem(sys.modules, "wandb", module)
    return runs


def test_wandb_gets_records_and_pictures_and_a_resumed_run_its_id(
    tmp_path: Path, wandb_runs: list[FakeRun]
) -> None:
    folder = tmp_path / "mine"
    for start in (0, 1):
        run = begin(folder, "wandb", start, project="cells", tags=("a", "b"), mode="offline")
        progress(run, start + 1)
        run.evaluation(start + 1, {"segm/AP": 0.5}, 1.0)
        run.picture(start + 1, "eval/a", PICTURE)
        run.end(start + 1, "a reason")
        run.close()
    first, second = wandb_runs
    assert (
        first.given["project"] == "cells"
        and first.given["name"] == "mine"
        and first.given["mode"] == "offline"
    )
    assert first.given["tags"] == ["a", "b"] and first.given["dir"] == str(folder)
    assert first.given["config"] == {"solver.steps": "9", "data.train.type": "coco"}
    assert first.given["id"] == second.given["id"] == (folder / "wandb_id.txt").read_text().strip()
    assert first.given["resume"] == "allow"
    assert first.axes == [("step", None), ("*", "step")]
    begin(tmp_path / "other", "wandb").close()
    assert wandb_runs[2].given["project"] == WandbConfig().project == "maskrcnn"
    assert wandb_runs[2].given["id"] != first.given["id"]
    progressed, evaluated, picture = second.logged
    assert progressed["step"] == 2 and progressed["loss/mask"] == 0.5
    assert evaluated == {"step": 2, "eval/segm/AP": 0.5, "eval/seconds": 1.0}
    assert picture == {"step": 2, "eval/a": ("picture", (4, 5, 3))}
    assert first.finished and second.finished


class FakeClient:
    """Of mlflow; one store for all."""

    def __init__(self, tracking_uri: str | None) -> None:
        self.calls: list[tuple[Any, ...]] = STORE.setdefault(tracking_uri, [])

    def get_experiment_by_name(self, name: str) -> Any:
        made = [call[1] for call in self.calls if call[0] == "experiment"]
        return SimpleNamespace(experiment_id=f"id of {name}") if name in made else None

    def create_experiment(self, name: str) -> str:
        self.calls.append(("experiment", name))
        return f"id of {name}"

    def create_run(self, place: str, run_name: str) -> Any:
        self.calls.append(("run", place, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=f"run{len(self.calls)}"))

    def update_run(self, run: str, status: str) -> None:
        self.calls.append((status, run))

    def log_batch(self, run: str, metrics: Sequence[Any] = (), params: Sequence[Any] = ()) -> None:
        assert len(params) <= 100
        self.calls += [("param", run, *one) for one in params]
        self.calls += [("metric", run, name, value, step) for name, value, _, step in metrics]

    def log_image(self, run: str, image: Any, place: str) -> None:
        self.calls.append(("image", run, image.shape, place))

    def set_terminated(self, run: str, status: str) -> None:
        self.calls.append(("ended", run, status))


STORE: dict[str | None, list[tuple[Any, ...]]] = {}


@pytest.fixture
def mlflow_store(monkeypatch: pytest.MonkeyPatch) -> dict[str | None, list[tuple[Any, ...]]]:
    """What modules that stand in for mlflow were told, by address."""
    STORE.clear()
    mlflow: Any = ModuleType("mlflow")
    entities: Any = ModuleType("mlflow.entities")
    mlflow.__spec__, mlflow.MlflowClient = ModuleSpec("mlflow", None), FakeClient
    entities.Param = lambda key, value: (key, value)
    entities.Metric = lambda *given: given
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    for name in ("MAX_RETRIES", "TIMEOUT"):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "1")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return STORE


def test_mlflow_gets_records_and_pictures_and_a_resumed_run_goes_on_with_its_own(
    tmp_path: Path, mlflow_store: dict[str | None, list[tuple[Any, ...]]]
) -> None:
    for start in (0, 1):
        run = begin(tmp_path / "mine", "mlflow", start, tracking_uri="http://nowhere", experiment="cells")
        progress(run, start + 1)
        run.evaluation(start + 1, {"segm/AP": 0.5}, 1.0)
        run.picture(start + 1, "eval/a (1)", PICTURE)
        run.close()
    begin(tmp_path / "other", "mlflow", tracking_uri="http://nowhere", experiment="cells").close()
    calls = mlflow_store["http://nowhere"]
    assert [call for call in calls if call[0] == "experiment"] == [("experiment", "cells")]
    assert [call[1:] for call in calls if call[0] == "run"] == [
        ("id of cells", "mine"),
        ("id of cells", "other"),
    ]
    kept = (tmp_path / "mine" / "mlflow_id.txt").read_text().strip()
    mine = [(call[0], *call[2:]) for call in calls if call[1] == kept]
    assert mine.count(("param", "solver.steps", "9")) == 1
    assert mine.count(("RUNNING",)) == mine.count(("ended", "FINISHED")) == 2
    for step in (1, 2):
        assert ("metric", "loss/mask", 0.5, step) in mine and ("metric", "eval/segm/AP", 0.5, step) in mine
        assert ("image", (4, 5, 3), f"eval/a _1_/step_0000000{step}.png") in mine


def remade(folder: Path, name: str, **options: Any) -> None:
    """Three steps, of which the third was made and then the process killed; it goes on from the second."""
    for start in (0, 2):
        run = begin(folder, name, start, **options)
        for step in range(start + 1, 5 if start else 4):
            progress(run, step)
            run.picture(step, "eval/a", PICTURE)
            run.evaluation(step, {"segm/AP": 0.5}, 1.0)


def test_steps_made_again_are_not_there_twice(
    tmp_path: Path, wandb_runs: list[FakeRun], mlflow_store: dict[str | None, list[tuple[Any, ...]]]
) -> None:
    remade(tmp_path / "a", "wandb")
    sent = [[values["step"] for values in run.logged] for run in wandb_runs]
    assert sent == [[1, 1, 1, 2, 2, 2, 3, 3, 3], [4, 4, 4]]
    remade(tmp_path / "b", "mlflow", tracking_uri="x")
    calls = mlflow_store["x"]
    assert [call[4] for call in calls if call[0] == "metric" and call[2] == "loss/mask"] == [1, 2, 3, 4]
    assert [call[4] for call in calls if call[0] == "metric" and call[2] == "eval/segm/AP"] == [1, 2, 3, 4]
    assert [call[3][-5] for call in calls if call[0] == "image"] == list("1234")
    remade(tmp_path / "c", "csv")
    assert [row["step"] for row in rows(tmp_path / "c" / "train.csv")] == list("1234")


@pytest.mark.parametrize(
    ("error", "code", "marked", "status"),
    [
        (None, 0, False, "FINISHED"),
        (Interrupted("stopped", 15), 1, True, "KILLED"),
        (KeyboardInterrupt(), 1, True, "KILLED"),
        (UserError("no memory"), 1, False, "FAILED"),
    ],
)
def test_how_a_run_ended_is_told(
    error: BaseException | None,
    code: int,
    marked: bool,
    status: str,
    tmp_path: Path,
    wandb_runs: list[FakeRun],
    mlflow_store: dict[str | None, list[tuple[Any, ...]]],
) -> None:
    for name, options in (("wandb", {}), ("mlflow", {"tracking_uri": "x"})):
        run = begin(tmp_path / name, name, **options)
        with suppress(Interrupted, KeyboardInterrupt, UserError), run.closing():
            progress(run, 1)
            if error is not None:
                raise error
    (at_wandb,) = wandb_runs
    assert (at_wandb.exit_code, at_wandb.marked) == (code, marked)
    assert [call[2] for call in mlflow_store["x"] if call[0] == "ended"] == [status]


def test_changed_steps_are_sent_anew(tmp_path: Path, wandb_runs: list[FakeRun]) -> None:
    """A rate that was lowered, say: what is made again is not what it was."""
    recipe = write_recipe(tmp_path)
    keys = ["train.trackers=[wandb]", "train.keep=9", "train.checkpoint_every=1", "data.val=null"]
    slower = ["solver.optimizer.lr=0.001"]
    run = tmp_path / "run"
    calls: Any = (([], ()), (slower, (5, 6)), ([*slower, "train.log_every=2"], (6,)))
    for changes, lost in calls:
        for step in lost:
            (run / "checkpoints" / f"step_0000000{step}.pt").unlink(missing_ok=True)
        train(load_recipe(recipe, keys + changes), run, resume=True, console=Console(quiet=True))
    sent = [[values["step"] for values in run.logged] for run in wandb_runs]
    assert sent[0] == [1, 2, 3, 4, 5, 6] and sent[1] == [5, 6] and sent[2] == []


def test_names_for_mlflow() -> None:
    assert allowed("classes/segm/AP/naïve (x), 50%") == "classes/segm/AP/naïve _x__ 50_"


def test_the_folder_of_a_run_has_no_id_where_mlflow_could_not_begin(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mlflow_store: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no answer")

    monkeypatch.setattr(FakeClient, "create_run", refuse)
    run = begin(tmp_path / "mine", "mlflow")
    progress(run, 1)
    run.close()
    assert not (tmp_path / "mine" / "mlflow_id.txt").exists()
    assert capsys.readouterr().err.count("the tracker mlflow failed (ConnectionError: no answer)") == 1


# the real libraries, without a network


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs the package wandb (an extra)")
def test_the_real_wandb_offline(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for start in (0, 1):
        run = begin(tmp_path / "mine", "wandb", start, mode="offline")
        progress(run, start + 1)
        run.picture(start + 1, "eval/a", PICTURE)
        run.close("whole" if start else "interrupted")
    assert "failed" not in capfd.readouterr().err
    import wandb

    wandb.teardown()  # its process writes the files out
    kept = (tmp_path / "mine" / "wandb_id.txt").read_text().strip()
    made = sorted((tmp_path / "mine" / "wandb").glob(f"offline-run-*-{kept}/run-{kept}.wandb"))
    assert made and all(b"loss/mask" in path.read_bytes() for path in made)


@pytest.mark.skipif(find_spec("mlflow") is None, reason="needs the package mlflow (an extra)")
def test_the_real_mlflow_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # pictures go below
    address = f"sqlite:///{tmp_path}/mlflow.db"
    for start in (0, 1):
        run = begin(tmp_path / "mine", "mlflow", start, tracking_uri=address)
        progress(run, start + 1)
        run.picture(start + 1, "eval/a", PICTURE)
        run.close("whole" if start else "interrupted")
    assert "failed" not in capsys.readouterr().err
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=address)
    kept = (tmp_path / "mine" / "mlflow_id.txt").read_text().strip()
    assert [m.step for m in client.get_metric_history(kept, "loss/mask")] == [1, 2]
    assert client.get_run(kept).data.params["solver.steps"] == "9"
    assert client.get_run(kept).info.status == "FINISHED"
    assert [f.path for f in client.list_artifacts(kept, "eval/a")] == [
        f"eval/a/step_0000000{step}.png" for step in (1, 2)
    ]


def test_tensorboard_keeps_a_record_whole(tmp_path: Path) -> None:
    """Of a record that cannot be written nothing is, and all of it goes out with the next."""
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = EventFile(tmp_path / "tb", 1)
    (tmp_path / "tb").write_text("in the way")
    with pytest.raises(OSError, match="exists"):
        board.record(1, "train", {"loss": 1.0, "lr": 0.5})
    (tmp_path / "tb").unlink()
    board.record(2, "train", {"loss": 2.0, "lr": 0.25})
    board.close()
    shown = loading.EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [(e.step, e.value) for e in shown.Scalars("train/lr")] == [(1, 0.5), (2, 0.25)]
