"""What lies under examples/ works as it stands: the plugin package as pip installs it, and the notebook."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.rules.pages import ROOT

EXAMPLES = ROOT / "examples"
SMALL = [
    *("model.backbone.width=8", "model.neck.out_channels=16", "model.box_head.hidden=16"),
    *("model.mask_head.width=16", "model.heads.centroid.hidden=16", "model.roi.samples=16"),
    *("model.rpn.pre_nms_train=60", "model.rpn.post_nms_train=30", "model.roi.score_threshold=0.0"),
    *("solver.steps=3", "solver.batch_size=2", "train.log_every=1", "train.tensorboard=false"),
    *("data.train_transforms.0.min_sizes=[64]", "data.eval_transforms.0.min_sizes=[64]", "device=cpu"),
    *("eval.report=false", "data.workers=0"),
]
needs_setuptools = pytest.mark.skipif(
    importlib.util.find_spec("setuptools") is None or int(metadata.version("setuptools").split(".")[0]) < 77,
    reason="setuptools >= 77 is not installed (it is in the extra 'test')",
)


def write_plates(folder: Path) -> None:
    """Images of 64 x 64 with two bright circles each, and their CSV file."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["file,class,x,y,radius"]
    for number in range(4):
        pixels = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        for x, y, r in ((18, 20, 9), (44, 40, 12)):
            cv2.circle(pixels, (x, y), r, (200, 220, 180), -1)
            rows.append(f"{number}.png,colony,{x + 0.5},{y + 0.5},{r}")
        cv2.imwrite(str(folder / f"{number}.png"), pixels)
    (folder / "circles.csv").write_text("\n".join(rows) + "\n")


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of ours in ``folder``, with what was installed into its ``site``."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(folder / "site")))}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@needs_setuptools
def test_the_plugin_package_is_installed_and_trained(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "plugin", tmp_path / "source")
    options = ["--target", "site", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = run(tmp_path, "-m", "pip", "install", *options, "./source")
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "site/maskrcnn_extras").glob("*.py")} == {
        *("__init__.py", "centroid.py", "circles.py", "wide.py")
    }
    write_plates(tmp_path / "plates")
    shutil.copy(EXAMPLES / "plugin/circles.yaml", tmp_path / "mine.yaml")
    code = (
        "from maskrcnn.cli import main\nfrom maskrcnn.run import Predictor\n"
        f"small = [part for wish in {SMALL!r} for part in ('--set', wish)]\n"
        "assert main(['train', 'mine.yaml', '--output', 'run', *small]) == 0\n"
        "found = Predictor('run', score=0.0)('plates/0.png').extras['centroid']\n"
        "assert len(found) and found.shape == (len(found), 2) and ((found > 0) & (found < 1)).all()\n"
        "operator = ['--plugins', 'maskrcnn_extras', '--ops', 'wide_align:factor=1.5']\n"
        "assert main(['explain-roi', *operator, '--out', 'wide.png', '--dpi', '30']) == 0\n"
        "open('plates/circles.csv', 'w').write('file,class,x,y,radius\\n0.png,colony,1,2,wide\\n')\n"
        "assert main(['train', 'mine.yaml', '--output', 'other']) == 2\n"
    )
    done = run(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert "circles.csv:2: could not convert string to float: 'wide'; write: file,class" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [row["loss_centroid"] for row in rows if "loss_centroid" in row]
    assert len(losses) == 3 and all(0 < loss < 1 for loss in losses)


@pytest.mark.slow
def test_a_model_of_the_plugin_is_exported(tmp_path: Path) -> None:
    """Its head is told by its name, and its operator runs in the program."""
    shutil.copytree(EXAMPLES / "plugin/maskrcnn_extras", tmp_path / "site/maskrcnn_extras")
    write_plates(tmp_path / "plates")
    shutil.copy(EXAMPLES / "plugin/circles.yaml", tmp_path / "mine.yaml")
    code = (
        "from maskrcnn.cli import main\n"
        f"small = [part for wish in {SMALL!r} for part in ('--set', wish)]\n"
        "assert main(['train', 'mine.yaml', '--output', 'run', *small]) == 0\n"
        "words = ['--checkpoint', 'run', '--to', 'torch', '--output', 'mine.pt2']\n"
        "larger = ['--set', 'data.eval_transforms.0.min_sizes=[96]']\n"
        "assert main(['export', *words, *larger]) == 0\n"
    )
    done = run(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert ", centroid " in done.stdout and "equal, so it is called mine.pt2" in done.stdout


@pytest.mark.slow
def test_the_notebook_is_executed(tmp_path: Path) -> None:
    """With few images and steps, from an empty folder; committed are no outputs, which would go stale."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(EXAMPLES / "images_to_results.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    small = {"STEPS = 900": "STEPS = 2", '{"root": "data"}': '{"root": "data", "num_images": 4, "size": 64}'}
    for old, new in small.items():
        assert any(old in cell.source for cell in cells)
        for cell in cells:
            cell.source = cell.source.replace(old, new)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    assert (tmp_path / "shapes/model.pt").is_file() and (tmp_path / "runs/notebook/report.html").is_file()
    shown = cells[-1].outputs[0]["data"]["text/markdown"]
    assert "CC0-1.0" in shown and "## Known failures" in shown and "disc" in shown
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
