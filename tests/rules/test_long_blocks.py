"""The commands of the README and the docs that take longer, run at a small size: each in its own words, with
small models, stand-ins for COCO and the nuclei, 2 ranks for 8, and a server of ours for published weights.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import cv2
import pytest
import torch

from maskrcnn.cli import main
from maskrcnn.config.encode import flatten
from maskrcnn.files import save_tensors
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.studies.ablation.suite import find_suite, load_suite, recipe_of
from maskrcnn.weights import published
from tests.convert.foreign import our_state, their_state
from tests.rules.pages import ROOT, split_command
from tests.rules.reader import DEMO, OURS, SMALL, STANDS_FOR, sets
from tests.rules.test_blocks import LINES, LONGER
from tests.test_packaging import copied
from tests.weights.server import serving

pytestmark = pytest.mark.slow
#: Of any recipe what it has of these.
LITTLE = [*SMALL, *OURS, *DEMO, "solver.steps=1", "solver.batch_size=2", "model.backbone.weights=null"]
LITTLE += ["train.allow_frozen_random=true", "data.train_transforms.0.scales=[64]", "eval.report=false"]
FOREIGN = ("COCO_ROOT", "NUCLEI_ROOT")
#: Runs a line in the current folder, the reader's; the number is for names of its own.
Case: TypeAlias = Callable[[str, str], None]


def little(recipe: Recipe) -> list[str]:
    """The ``--set`` that make a recipe small, of the keys that it has."""
    has = flatten(recipe)
    return sets([item for item in LITTLE if item.partition("=")[0] in has])


def run(*words: str | Path) -> str:
    """A program; what it said."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def ablate(line: str, number: str) -> None:
    """One variant for all that are not named, one seed."""
    _, name, *words = split_command(line)
    suite = load_suite(find_suite(Path(name)))
    if "--output" in words:
        del words[(at := words.index("--output")) : at + 2]
    for option, stops in (("--seeds", 3), ("--nproc-per-run", 2)):
        if option in words:
            del words[(at := words.index(option)) : at + stops]
            words += ["--nproc-per-run", "2"] if option == "--nproc-per-run" else []
    recipes = {v.label: recipe_of(suite, v, 0) for v in suite.variants}
    chosen = min(recipes, key=lambda label: recipes[label].model.neck is None)  # the first with a pyramid
    if "--only" not in words:
        words += ["--only", chosen]
    command = ["ablate", name, "--output", f"ablated/{number}", "--seeds", "0", *little(recipes[chosen])]
    if "--report" in words:  # of what is finished
        assert main([*command, *[word for word in words if word != "--report"]]) == 0
    assert main([*command, *words]) == 0
    assert list(Path(f"ablated/{number}").glob("*/report.html"))


def cross_validate(line: str, number: str) -> None:
    words = [STANDS_FOR.get(word, word) for word in split_command(line)]
    words[words.index("--folds") + 1] = "2"
    assert main([*words, "--output", f"folds/{number}", *little(load_recipe("mine.yaml"))]) == 0


def torchrun(line: str, number: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stands_for = {"8": "2", "4": "1", "HOST:29500": f"127.0.0.1:{port}", "RUN": "one", "CONFIG": "mine.yaml"}
    words = [stands_for.get(word, word) for word in shlex.split(line)[1:]]
    small = little(load_recipe("mine.yaml"))
    run(sys.executable, "-m", "torch.distributed.run", *words, "--output", f"ranks/{number}", *small)
    assert '"world_size": 2' in Path(f"ranks/{number}/run.json").read_text()
    assert Path(f"ranks/{number}/checkpoints/last.pt").is_file()


def export(line: str, number: str) -> None:
    """Of a model that finds something; 8 bits may cost this one more AP than a file may lose."""
    pytest.importorskip("onnxscript")
    words = split_command(line)
    if "openvino" in words:
        pytest.importorskip("openvino")
        pytest.importorskip("nncf")
    last = Path("runs/mine/checkpoints/last.pt")
    state = torch.load(last, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for name, value in state["model"].items():
        if "predictor.logits" in name:
            value.copy_(torch.randn(value.shape, generator=generator))
    for name in ("last.pt", "best.pt"):
        save_tensors(last.with_name(name), state)
    status = main([*words, *sets(OURS[1:])])
    out = Path(words[words.index("--output") + 1])
    unverified = out.with_name(f"{out.stem}.unverified{out.suffix}")
    assert out.is_file() if status == 0 else "int8" in words and unverified.is_file()


def onnx_predict(line: str, number: str) -> None:
    pytest.importorskip("onnxruntime")
    if not Path("mine.onnx").is_file():
        export("maskrcnn export --checkpoint runs/mine --to onnx --output mine.onnx", number)
    cv2.imwrite("photo.ppm", cv2.imread("photo.jpg"))
    _, script, *words = shlex.split(line)
    words[words.index("--score") + 1] = "0"
    assert run(sys.executable, ROOT / script, *words)


def to_torchvision(line: str, number: str) -> None:
    """A model of torchvision's, there and back; rows of the background's boxes and masks are of no use."""
    models = pytest.importorskip("torchvision").models.detection
    state = models.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    torch.save(state, "theirs.pth")
    assert main(["convert", "--classes", "all", "theirs.pth", "IN"]) == 0
    assert main(split_command(line)) == 0
    back = torch.load("OUT", weights_only=True)
    assert {n: t.shape for n, t in back.items()} == {n: t.shape for n, t in state.items()}
    unused = {"bbox_pred": 4, "mask_fcn_logits": 1}
    for name, tensor in state.items():
        first = next((rows for part, rows in unused.items() if part in name), 0)
        assert torch.equal(back[name][first:], tensor[first:]) if first else torch.equal(back[name], tensor)


def fetch(line: str, number: str) -> None:
    """The name as it is, its file a small one of ours."""
    name = split_command(line)[-1]
    torch.save(their_state(our_state("mask"), "torchvision"), "net.pth")
    with serving(Path("net.pth").read_bytes()) as server, pytest.MonkeyPatch.context() as patch:
        entry = server.entry()
        text = f"weights:\n  {name}: {{kind: detector, url: '{entry.url}', sha256: '{entry.sha256}'}}\n"
        Path("published.yaml").write_text(text)
        patch.setattr(published, "SHIPPED", Path("published.yaml").absolute())
        patch.setenv("MASKRCNN_HOME", str(Path("home").absolute()))
        published._shipped.cache_clear()  # it may be read already
        try:
            assert main(["weights", "fetch", name]) == 0
        finally:
            published._shipped.cache_clear()
    assert len(server.asked) == 1 and (Path("home/weights") / name).is_dir()


def train(line: str, number: str) -> None:
    """A recipe of COCO's on the stand-in."""
    words = split_command(line)
    kept = [word for word in words if not word.startswith("runs/") and word != "--output"]
    small = little(load_recipe(words[1]))
    assert main([*kept, *small, "--output", f"coco/{number}"]) == 0


def draw_fit(line: str, number: str) -> None:
    words = shlex.split(line.partition(" python ")[2])
    words[words.index("--out") + 1] = "fit.png"
    run(sys.executable, ROOT / words[0], *words[1:])
    assert cv2.imread("fit.png") is not None


def install(line: str, number: str) -> None:
    """In a copy whose operators are two lines, into a folder of its own, with what is installed already."""
    project = copied(Path("project"))
    # (Without --ignore-installed pip would remove what is installed where this runs.)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--ignore-installed"]
    options += ["--prefix", str(Path("prefix").absolute())]
    words = shlex.split(line)
    words[-1] = str(project)
    run(sys.executable, "-m", *words, *options)
    assert list(Path("prefix").rglob("bin/maskrcnn")) and list(Path("prefix").rglob("*maskrcnn*.dist-info"))


def make(line: str, number: str) -> None:
    """What it would do: the commands that it calls are run by other tests."""
    assert run("make", "--dry-run", "--directory", ROOT, *shlex.split(line)[1:])


def zoo(line: str, number: str) -> None:
    assert main(split_command(line)) == 0


CASES: dict[str, Case] = {
    "make ": make,
    "pip install": install,
    "maskrcnn ablate": ablate,
    "OMP_NUM_THREADS=1 maskrcnn ablate": ablate,
    "torchrun": torchrun,
    "maskrcnn cross-validate": cross_validate,
    "maskrcnn export --": export,
    "python examples/onnx_predict.py": onnx_predict,
    "maskrcnn zoo": zoo,
    "maskrcnn convert --to torchvision": to_torchvision,
    "maskrcnn weights fetch": fetch,
    "maskrcnn train configs/coco": train,
    "COCO_ROOT=... python -m maskrcnn train": train,
    "NUCLEI_ROOT=... python tools/draw_fit.py": draw_fit,
}
SHOWN = sorted({line for _, line in LINES if line.startswith(LONGER)})


@pytest.fixture
def data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader's images where COCO and the nuclei are looked for."""
    for name in FOREIGN:
        root = folder / name
        for split in ("train", "val"):
            if not root.exists() or not (root / split).exists():
                shutil.copytree(folder / "images", root / split)
                shutil.copytree(folder / "images", root / f"{split}2017")
                (root / "annotations").mkdir(exist_ok=True)
                shutil.copy(folder / "images" / f"{split}.json", root / f"instances_{split}.json")
                shutil.copy(
                    folder / "images" / f"{split}.json", root / "annotations" / f"instances_{split}2017.json"
                )
        monkeypatch.setenv(name, str(root))


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("line", SHOWN)
def test_they_run(line: str) -> None:
    start = next(start for start in LONGER if line.startswith(start))
    CASES[start](line, re.sub(r"\W+", "_", line)[:40] + str(SHOWN.index(line)))
