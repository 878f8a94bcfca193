"""Runs over slots: finished ones are kept, broken ones go on, stale ones are never mixed in."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from maskrcnn.engine.interrupt import Interrupted
from maskrcnn.engine.provenance import code_fingerprint
from maskrcnn.errors import ConfigError, UserError
from maskrcnn.studies.ablation import processes
from maskrcnn.studies.ablation.plan import Run, check_runs, plan_runs
from maskrcnn.studies.ablation.processes import Scheduler, claim, command, find_slots, train_missing
from maskrcnn.studies.ablation.progress import RunCost, describe, time_left
from maskrcnn.studies.ablation.suite import load_suite
from tests.studies.ablation.tiny import CODE, SUITE, stand_in, write_suite


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """RoIPool with seeds 0 and 1, trained by the stand-in, one at a time."""
    monkeypatch.setattr(processes, "_POLL", 0.01)
    monkeypatch.setattr(processes, "command", stand_in)
    set_code(monkeypatch, lambda: CODE)
    suite = load_suite(write_suite(tmp_path))
    return plan_runs(suite, tmp_path / "out", suite.variants[:1])


def set_code(monkeypatch: pytest.MonkeyPatch, code: Callable[[], str]) -> None:
    monkeypatch.setattr("maskrcnn.studies.ablation.processes.code_fingerprint", code)


def train(runs: list[Run], rerun_stale: bool = False) -> dict[str, str]:
    return train_missing(runs, runs[0].folder.path.parents[1], 1, rerun_stale, "maskrcnn ablate ...")


def outputs(runs: list[Run]) -> list[str]:
    return [run.log_file.read_text() for run in runs]


def test_finished_runs_are_not_repeated(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert train(runs[:1]) == {}
    assert train(runs) == {}
    assert outputs(runs) == ["at step 0\n", "at step 0\n"]
    assert "1 finished, 0 begun, 1 to begin; 1 at a time" in capsys.readouterr().out


def test_ctrl_c_stops_cleanly_and_the_next_call_goes_on(
    runs: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    variant = runs[0].folder.path.parent
    variant.mkdir(parents=True)
    (variant / "pause").touch()

    def press() -> None:
        while not (runs[0].folder.path / "waiting").exists():
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    with pytest.raises(Interrupted, match=r"0 of 2 runs were finished.*to go on: maskrcnn ablate") as stop:
        train(runs)
    presser.join()
    assert stop.value.exit_status == 130
    assert not runs[1].folder.path.exists()
    (variant / "pause").unlink()
    capsys.readouterr()
    assert train(runs) == {}
    assert "0 finished, 1 begun, 1 to begin" in capsys.readouterr().out
    assert outputs(runs) == ["at step 0\nat step 1\n", "at step 0\n"]


def test_a_failure_is_told_and_does_not_hold_up_the_others(runs: list[Run]) -> None:
    runs[0].folder.path.mkdir(parents=True)
    (runs[0].folder.path / "fail").touch()
    failures = train(runs)
    assert list(failures) == ["RoIPool, seed 0"]
    assert "exit status 1" in failures["RoIPool, seed 0"]
    assert failures["RoIPool, seed 0"].endswith("a clear reason")
    assert runs[1].is_finished()


def test_a_folder_that_cannot_be_made_does_not_hold_up_the_others(runs: list[Run]) -> None:
    runs[0].folder.path.parent.mkdir(parents=True)
    runs[0].folder.path.write_text("in the way")
    assert list(train(runs)) == ["RoIPool, seed 0"]
    assert runs[1].is_finished()


@pytest.mark.parametrize("what", ["code", "config"])
def test_stale_runs_are_named_and_only_set_aside_on_request(
    runs: list[Run], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(runs) == {}
    if what == "code":
        set_code(monkeypatch, lambda: "other")
        wanted = "RoIPool, seed 0: made with code c0de, now other"
    else:
        suite = load_suite(write_suite(tmp_path, SUITE.replace("steps=2", "steps=3")))
        runs = plan_runs(suite, tmp_path / "out", suite.variants[:1])
        wanted = "RoIPool, seed 0: config changed: solver.steps: 2 -> 3"
    with pytest.raises(UserError, match=wanted):
        train(runs)
    assert all(run.folder.results.is_file() for run in runs)
    monkeypatch.setattr(Scheduler, "train", lambda *_: {})
    assert train(runs, rerun_stale=True) == {}
    assert not runs[0].folder.path.exists()
    aside = runs[0].folder.path.with_name("seed0.stale")
    assert json.loads((aside / "figures.json").read_text())["step"] == 2


def test_a_run_that_two_codes_worked_on_is_stale(runs: list[Run]) -> None:
    assert train(runs) == {}
    entries = runs[0].folder.history()
    runs[0].folder.facts.write_text(json.dumps([*entries, {**entries[0], "code": "another"}]))
    assert "resumed with code another" in str(runs[0].why_stale(None))
    assert runs[1].why_stale(None) is None


def test_runs_stop_where_the_code_changes(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    codes = iter([CODE, CODE, "other"])  # at the start, and before each run
    set_code(monkeypatch, lambda: next(codes))
    failures = train(runs)
    assert list(failures) == ["RoIPool, seed 1"] and "sources were changed" in failures["RoIPool, seed 1"]
    assert runs[0].is_finished() and not runs[1].folder.path.exists()


def test_the_fingerprint_is_of_what_runs_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskrcnn.__file__", str(tmp_path / "maskrcnn" / "__init__.py"))
    found = [code_fingerprint()]
    for name in ("maskrcnn/a.py", "csrc/cuda/b.cuh", "maskrcnn/cli/c.py", "maskrcnn/studies/ablation/d.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
        found.append(code_fingerprint())
    assert len(set(found[:3])) == 3 and found[2] == found[3] == found[4]


def test_set_aside_never_overwrites(runs: list[Run]) -> None:
    names = []
    for _ in range(3):
        runs[0].folder.path.mkdir(parents=True)
        names.append(runs[0].set_aside().name)
    assert names == ["seed0.stale", "seed0.stale-2", "seed0.stale-3"]


def test_only_one_process_trains_in_a_folder(tmp_path: Path) -> None:
    again = pytest.raises(UserError, match="being trained there already")
    with claim(tmp_path / "x"), again, claim(tmp_path / "x"):
        pass
    with claim(tmp_path / "x"):
        pass


def test_slots_and_commands_by_the_devices_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = load_suite(write_suite(tmp_path))
    runs = plan_runs(suite, tmp_path / "out", suite.variants)
    assert find_slots(runs, 1) == [{}]  # device: cpu
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert find_slots(runs, 1) == [{}]
    on_gpu = plan_runs(suite, tmp_path / "out", suite.variants, overrides=["device=auto"])
    assert [s["CUDA_VISIBLE_DEVICES"] for s in find_slots(on_gpu, 1)] == ["0", "1", "2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    assert [s["CUDA_VISIBLE_DEVICES"] for s in find_slots(on_gpu, 2)] == ["2,5"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for spelling in ("0,1,", "0, 1", "0,1,99"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", spelling)
        assert [s["CUDA_VISIBLE_DEVICES"] for s in find_slots(on_gpu, 1)] == ["0", "1"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    with pytest.raises(UserError, match="--nproc-per-run 4 needs as many GPUs; PyTorch sees 3"):
        find_slots(on_gpu, 4)
    assert command(runs[0], 1)[1:4] == ["-m", "maskrcnn", "train"]
    assert command(runs[0], 2)[1:6] == [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]


def test_several_slots_train_at_a_time(runs: list[Run]) -> None:
    variant = runs[0].folder.path.parent
    variant.mkdir(parents=True)
    (variant / "pause").touch()

    def go_on() -> None:
        while not all((run.folder.path / "waiting").exists() for run in runs):
            time.sleep(0.01)
        (variant / "pause").unlink()

    threading.Thread(target=go_on).start()
    slots = [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    told: list[str] = []
    assert Scheduler(slots, 1, told.append).train(runs, "") == {}
    assert any("on GPU 1" in line for line in told)


def test_time_left_by_what_was_measured(runs: list[Run]) -> None:
    fresh = RunCost(0, None, None, 0, None)
    assert time_left(runs, [fresh, fresh], 1) is None
    # Two steps of 3 s and 4 s of evaluation for the second, one step and the evaluation for the first.
    begun = RunCost(1, 3.0, None, 0, None)
    done = RunCost(2, 3.0, 4.0, 1, None)
    assert time_left(runs, [begun, fresh], 1) == 9.0
    assert time_left(runs, [done, fresh], 1) == 10.0
    assert time_left(runs, [done, begun], 2) == 7.0


def test_progress_in_words(runs: list[Run]) -> None:
    assert describe(runs[0], RunCost(0, None, None, 0, None), None) == "step 0/2"
    told = describe(runs[0], RunCost(1, 0.524, None, 0, None), 240.0)
    assert told == "step 1/2, 0.52 s a step, 4m00s left for all"


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("[model.roi_op=roi_align]", "[model.roi_opp=roi_align]", "variant 'RoIAlign, avg': .*roi_opp"),
        ("[model.roi_op=roi_align]", "[model.box_head.pool_size=0]", "variant 'RoIAlign, avg': .*pool_size"),
        ("[model.roi_op=roi_align]", "[data.val=null]", "variant 'RoIAlign, avg': data.val is not set"),
        ("[model.roi_op=roi_align]", "[data.val.exif=false]", "'RoIAlign, avg': data.val differs"),
        ("[model.roi_op=roi_align]", "[data.train.images=gone]", "'RoIAlign, avg': .*gone"),
        ("[model.roi_op=roi_align]", "[model.mask_head=null]", "metric segm/AP needs a head for segm"),
        ("segm/AP75]", "segm/APX]", "'RoIPool': the suite's metric segm/APX is not one of AP, AP50"),
        ("segm/AP75]", "segm/AP@200]", "'RoIPool': .*segm/AP@200 needs model.roi.max_detections 200"),
        ("set: [solver.steps=2,", "set: [solver.batch_size=3,", "'RoIPool': .*cannot be dealt evenly"),
    ],
)
def test_every_variant_is_checked_before_the_first_run(
    tmp_path: Path, before: str, after: str, sentence: str
) -> None:
    suite = load_suite(write_suite(tmp_path, SUITE.replace(before, after)))
    with pytest.raises(UserError, match=sentence):
        check_runs(suite, plan_runs(suite, tmp_path / "out", suite.variants), processes=2)


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("label: RoIWarp", "label: RoIPool", "two of them have the label 'roipool'"),
        ("label: RoIWarp", 'label: "RoIAlign avg"', "two of them have the slug 'roialign-avg'"),
        ("reference: RoIPool", "reference: RoIPol", "no variant is called 'RoIPol'. Did you mean 'RoIPool'"),
        ("seeds: [0, 1]", "seeds: []", "at least one entry"),
        ("seeds: [0, 1]", "seeds: [0, -1]", "seeds.1 must be >= 0, got -1"),
        ("bbox/AP50", "AP50", "'AP50' is not of the form segm/AP"),
        ("bbox/AP50", "bbox/AP", "metrics: one of them is named twice"),
        ("segm/AP: 0.269", "segm/AP: 26.9", r"published.segm/AP must be in \[0, 1\], got 26.9"),
        ("segm/AP: 0.269", "segm/AP: .nan", "segm/AP must be a finite number, got nan"),
        ("solver.steps=2,", "seed=2,", "'seed=2'; the suite's key seeds says"),
        ("label: RoIWarp", "label: Pictures", "'Pictures' is the name of a part of the report"),
    ],
)
def test_a_wrong_suite_is_a_sentence(tmp_path: Path, before: str, after: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_suite(write_suite(tmp_path, SUITE.replace(before, after)))


def test_core_rows_full_and_only(tmp_path: Path) -> None:
    suite = load_suite(write_suite(tmp_path))
    assert [v.label for v in suite.chosen(full=False)] == ["RoIPool", "RoIAlign, avg"]
    assert len(suite.chosen(full=True)) == 3
    assert [v.slug for v in suite.chosen(full=False, only=["RoIWarp", "RoIAlign, avg"])] == [
        "RoIAlign-avg",
        "RoIWarp",
    ]
    with pytest.raises(UserError, match="--only: no variant is called 'RoIWrap'"):
        suite.chosen(full=False, only=["RoIWrap"])
