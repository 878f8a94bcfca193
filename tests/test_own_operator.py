"""An RoI operator of a user's plugin, with no edit here: it is trained, ablated and explained."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from maskrcnn.cli import main
from maskrcnn.engine.checkpoint import load
from maskrcnn.layers import ROI_OPS, roi_align
from maskrcnn.recipe import load_recipe
from tests.engine.tiny import write_recipe
from tests.rules.pages import ROOT, blocks
from tests.studies.ablation.tiny import SUITE

#: CONTRIBUTING.md's own example, and an operator that tells no geometry, as a module and an old-style config.
(PLUGIN,) = [text for text in blocks(ROOT / "CONTRIBUTING.md", "python") if "ROI_OPS" in text]
SILENT = """
from dataclasses import dataclass
import torch
from maskrcnn.layers import ROI_OPS, RoIOperator, roi_pool
from maskrcnn.modeling.interfaces import RoIOp

@ROI_OPS.register("silent")
@dataclass(frozen=True)
class Silent(RoIOperator):
    def pool(self, input, boxes, output_size, spatial_scale, levels=None):
        return roi_pool(input, boxes, output_size, spatial_scale, levels=levels)

class Learned(RoIOp):
    def __init__(self, output_size):
        super().__init__()
        self.output_size, self.gain = output_size, torch.nn.Parameter(torch.ones(1))

    def forward(self, features, rois, levels, scales):
        return self.gain * roi_pool(features, rois, self.output_size, scales, levels=levels)

@ROI_OPS.register("learned")
@dataclass(frozen=True)
class LearnedConfig:
    def build(self, output_size):
        return Learned(output_size)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A recipe with two plugins beside it; what they register is forgotten afterwards."""
    folder = tmp_path_factory.mktemp("own")
    recipe = write_recipe(folder)
    (folder / "my_operator.py").write_text(PLUGIN)
    (folder / "silent_operator.py").write_text(SILENT)
    plugins = "plugins: [tests.engine.tiny_backbone, my_operator, silent_operator]"
    recipe.write_text(recipe.read_text().replace("plugins: [tests.engine.tiny_backbone]", plugins))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        yield folder
        for name in ("middle", "silent", "learned"):
            ROI_OPS._entries.pop(name, None)
        for name in ("my_operator", "silent_operator"):
            sys.modules.pop(name, None)


def test_it_is_trained(folder: Path) -> None:
    sets = ["model.roi_op.type=middle", "model.roi_op.share=0.5", "solver.steps=2"]
    args = [part for item in sets for part in ("--set", item)]
    assert main(["train", "tiny.yaml", "--output", "run", *args]) == 0
    assert load(folder / "run" / "checkpoints" / "last.pt").step == 2
    assert "type: middle\n" in (folder / "run" / "config.yaml").read_text()
    assert main(["train", "--resume", "run", "--set", "solver.steps=3"]) == 0
    assert load(folder / "run" / "checkpoints" / "last.pt").step == 3


def test_its_options_are_checked_by_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for change, says in (
        ("model.roi_op={type: middle, share: 2.0}", "share must be in (0, 1], got 2.0"),
        ("model.roi_op={type: middle, part: 2}", "unknown key"),
        ("model.roi_op={type: middle, output_size: 7}", "unknown key"),
    ):
        assert main(["config", "check", "tiny.yaml", "--set", change]) == 2
        assert says in capsys.readouterr().err


def test_it_is_ablated(folder: Path) -> None:
    suite = re.sub(r"  - \{label: RoIWarp.*\n", "", SUITE).replace("seeds: [0, 1]", "seeds: [0]")
    suite = suite.replace(
        '"RoIAlign, avg", set: [model.roi_op=roi_align]', "Middle, set: [model.roi_op=middle]"
    )
    (folder / "pair.yaml").write_text(suite)
    assert main(["ablate", "pair.yaml", "--output", "out"]) == 0
    kept = {p.name for p in (folder / "out" / "pair").iterdir() if p.is_dir()}
    assert kept == {"RoIPool", "Middle", "pictures"}
    assert "Middle" in (folder / "out" / "pair" / "report.md").read_text()


def test_it_is_explained(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    explain = ["explain-roi", "--out", "p.png", "--dpi", "30"]
    box = [*explain, "--plugins", "my_operator", "--ops", "roi_align", "middle:share=0.5"]
    assert main(box) == 0
    said = capsys.readouterr().out
    assert "Middle (share 0.5)" in said
    assert "665 / 32 = 20.78 cells → 10.39" in said and "2×2 samples a bin" in said
    # A config brings its own plugins.
    data = [*explain, "--data", "tiny.yaml", "--strides", "8", "--ops", "middle", "--table", "t.csv"]
    assert main(data) == 0
    assert "Middle,8,all" in (folder / "t.csv").read_text()


def test_what_it_tells_is_what_it_reads(folder: Path) -> None:
    """Its weights are those that it pools one-hot maps with."""
    op = load_recipe("tiny.yaml", ["model.roi_op={type: middle, share: 0.5}"]).model.roi_op
    box = torch.tensor([[0.0, 3.0, 5.0, 41.0, 37.0]], dtype=torch.float64)
    told = op.geometry(box[:, 1:], 1 / 8, (2, 3), (6, 7)).weights(0, 6, 7)  # type: ignore[attr-defined]
    one_hot = torch.eye(42, dtype=torch.float64).view(1, 42, 6, 7)
    pooled = op.pool(one_hot, box, (2, 3), 1 / 8)  # type: ignore[attr-defined]
    torch.testing.assert_close(told.flatten(2), pooled[0].permute(1, 2, 0), rtol=0, atol=1e-12)
    plain = roi_align(one_hot, box, (2, 3), 1 / 8, aligned=True)
    assert not torch.equal(pooled, plain)


@pytest.mark.parametrize(
    ("op", "says"),
    [
        ("silent", "silent does not tell what it reads, so it cannot be explained; give its class Silent"),
        (
            "learned",
            "learned does not tell what it reads, so it cannot be explained; give its class LearnedConfig",
        ),
        ("midle", "no RoI operator 'midle'. Did you mean 'middle'?"),
        ("middle:share=half", "share: expected a number, got 'half'"),
        ("middle:share=2", "share must be in (0, 1], got 2.0"),
    ],
)
def test_what_cannot_be_explained_is_told(
    folder: Path, op: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins = ["--plugins", "my_operator", "silent_operator"]
    assert main(["explain-roi", "--out", "q.png", *plugins, "--ops", op]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not (folder / "q.png").exists()


def test_a_plugin_that_is_not_there_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain-roi", "--out", "q.png", "--plugins", "nowhere"]) == 2
    assert "no module named 'nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize("op", ["silent", "learned"])
def test_without_geometry_it_trains_all_the_same(folder: Path, op: str) -> None:
    sets = ["--set", f"model.roi_op={op}", "--set", "solver.steps=1"]
    assert main(["train", "tiny.yaml", "--output", f"run-{op}", *sets]) == 0
    weights = load(folder / f"run-{op}" / "checkpoints" / "last.pt").model
    assert any(key.endswith("op.gain") for key in weights) == (op == "learned")
