"""A suite of two variants of two steps, and a stand-in for training that needs no torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from maskrcnn.config import fingerprint
from maskrcnn.recipe import NEUTRAL_KEYS
from maskrcnn.studies.ablation.plan import Run
from tests.engine.tiny import write_recipe

SUITE = """\
title: RoIPool or RoIAlign
source: "He et al. 2017, table 2c"
config: tiny.yaml
set: [solver.steps=2, solver.optimizer.lr=0.02]
reference: RoIPool
seeds: [0, 1]
pictures: 1
metrics: [bbox/AP, bbox/AP50, bbox/APs, segm/AP, segm/AP75]
variants:
  - {label: RoIPool, set: [model.roi_op=roi_pool], published: {segm/AP: 0.269}}
  - {label: "RoIAlign, avg", set: [model.roi_op=roi_align], published: {segm/AP: 0.303}}
  - {label: RoIWarp, set: [model.roi_op=roi_warp], core: false}
"""

#: Fingerprint of the code in the stand-in's runs.
CODE = "c0de"
#: A run that takes two steps, and stops between them where a file "pause" lies in its folder.
STAND_IN = """
import json, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
entries = json.loads((folder / "run.json").read_text()) if (folder / "run.json").exists() else []
(folder / "run.json").write_text(json.dumps([*entries, json.loads(sys.argv[2])]))
done = json.loads((folder / "step").read_text()) if (folder / "step").exists() else 0
print("at step", done, flush=True)
for step in range(done + 1, 3):
    if (folder / "fail").exists():
        sys.exit("a clear reason")
    (folder / "step").write_text(str(step))
    while (folder.parent / "pause").exists() and step == 1 and not stopped:
        (folder / "waiting").touch()
        time.sleep(0.01)
    if stopped:
        sys.exit(143)
(folder / "figures.json").write_text(json.dumps({"step": 2, "figures": {"segm": {"AP": 0.5}}}))
(folder / "results.json").write_text("[]")
"""


def write_suite(folder: Path, text: str = SUITE) -> Path:
    """The data, the recipe and ``pair.yaml`` in ``folder``; returns the suite."""
    write_recipe(folder)
    path = folder / "pair.yaml"
    path.write_text(text)
    return path


def stand_in(run: Run, processes: int) -> list[str]:
    """Takes the place of ``schedule.command``."""
    entry = {"config": fingerprint(run.recipe, NEUTRAL_KEYS), "code": CODE}
    return [sys.executable, "-S", "-c", STAND_IN, str(run.folder.path), json.dumps(entry)]
