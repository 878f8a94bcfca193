"""``maskrcnn report RUN RUN``: differences, and what each model found on the images that differ most."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskrcnn.cli import main
from maskrcnn.evaluation import ground_truth_results
from maskrcnn.recipe import load_recipe
from maskrcnn.run.report import choice_of_images
from maskrcnn.run.report.choice_of_images import JudgedRun, chosen, gallery, rankings
from maskrcnn.run.report.evaluated import Evaluated, figures_of
from maskrcnn.run.report.two_runs import Both, gallery_of_two
from maskrcnn.viz.gallery import Overlay
from tests.browser import Browser, chromium
from tests.engine.tiny import write_recipe
from tests.run.report.test_origins import train
from tests.viz.test_pages import read


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs, ``first`` of which finds nothing and ``second`` everything."""
    folder = tmp_path_factory.mktemp("two")
    recipe = write_recipe(folder)
    assert train(recipe, folder / "all/first", "solver.steps=1", "eval.report=false") == 0
    shutil.copytree(folder / "all/first", folder / "all/second")
    content = json.loads((folder / "images/val.json").read_text())
    found = ground_truth_results(content)
    for name, records in (("first", found[:1]), ("second", found)):
        (folder / "all" / name / "results.json").write_text(json.dumps(records))
    config = folder / "all/second/config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 7", 1))
    return folder / "all"


@pytest.fixture(scope="module")
def page(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "compared.html"
    assert main(["report", str(runs), "--out", str(out)]) == 0
    return out


def evaluated(runs: Path, records: list[dict[str, object]]) -> Evaluated:
    recipe = load_recipe(runs.parent / "tiny.yaml")
    assert recipe.data.val is not None
    return Evaluated("a", recipe, recipe.data.build(recipe.data.val, False), records)  # type: ignore[arg-type]


def test_the_second_is_compared_with_the_first(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    read(html)
    found = json.loads(page.with_suffix(".json").read_text())
    assert found["first"] == "first" and list(found["against"]) == ["second"]
    change = found["against"]["second"]["figures"]["segm"]["AP"]
    assert change["second"] == pytest.approx(1.0) and change["first"] < 0.5
    assert change["value"] == change["second"] - change["first"] and 0 < change["low"] <= change["high"]
    assert "<td>seed</td>" not in html and '>seed</td><td class="text">0</td><td class="text">7</td>' in html
    assert "second against first" in html and html.count("<article") == 3


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Browser]:
    with chromium(page.parent) as browser:
        browser.open(page)
        yield browser


def test_both_runs_are_drawn_and_switched(browser: Browser) -> None:
    count = "document.querySelectorAll('.shot path.{}').length"
    assert [browser.do(count.format(layer)) for layer in ("truth", "found", "other")] == [6, 1, 6]
    assert browser.do(count.format("gained")) == 5 and browser.do(count.format("met")) == 1
    browser.click("#show-other")
    displays = browser.do(
        "[...document.querySelectorAll('.shot path')].map(p => getComputedStyle(p).display)"
    )
    assert len(displays) - displays.count("none") == 7
    groups = browser.do("[...document.querySelector('#group').options].map(o => o.text)")
    assert groups == ["all images", "better by second"]
    assert browser.complaints() == []


def test_runs_of_other_data_are_compared_by_their_figures(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "all")
    config = tmp_path / "all/second/config.yaml"
    config.write_text(config.read_text().replace("val.json", "train.json"))
    out = tmp_path / "c.html"
    assert main(["report", str(tmp_path / "all/first"), str(tmp_path / "all/second"), "--out", str(out)]) == 0
    html = out.read_text()
    assert "Judged by other data than first, so compared by their figures alone: second." in html
    assert "<article" not in html and json.loads(out.with_suffix(".json").read_text())["against"] == {}


def test_outlines_say_what_became_of_each_object(runs: Path) -> None:
    truth = json.loads((runs.parent / "images/val.json").read_text())
    records = ground_truth_results(truth)
    one, other = (r for r in records if r["image_id"] == 101)
    moved = {**other, "bbox": [0.0, 0.0, 6.0, 6.0], "segmentation": square(6)}
    seen = evaluated(runs, [one, {**one, "score": 0.9}, moved, *(r for r in records if r["image_id"] != 101)])
    figures = figures_of(seen, lambda what, share: None, resamples=0)
    assert figures.outcomes is not None
    scores = dict.fromkeys(("box", "disc"), 0.0)
    judged = JudgedRun(seen.dataset, seen.dataset.ground_truth(), seen.records, figures.outcomes, scores)
    kinds = [(o.layer, o.kind, o.label) for o in judged.outlines(101)]
    assert kinds == [
        ("found", "background", 1),
        ("found", "duplicate", 0),
        ("truth", "missed", 1),
        ("found", "right", 0),
        ("truth", "met", 0),
    ]
    assert {o.size for o in judged.outlines(101)} == {"s"}
    high = JudgedRun(judged.dataset, judged.truth, judged.records, judged.outcomes, {"box": 2.0, "disc": 2.0})
    assert [o.kind for o in high.outlines(101)] == ["missed", "missed"]
    groups = rankings(figures)
    assert groups["worst images"][0] == 101 and groups["best images"][-1] == 101
    assert groups["most confident errors"] == [101]
    swapped = Both(high, judged).outlines(101)
    assert sorted(o.kind for o in swapped if o.layer == "truth") == ["gained", "missed"]
    assert all(isinstance(o, Overlay) and "second run" in o.text for o in swapped if o.layer == "truth")


def square(side: int) -> dict[str, object]:
    bitmap = np.zeros((64, 64), np.uint8, order="F")
    bitmap[:side, :side] = 1
    code = coco_mask.encode(bitmap)
    return {"size": code["size"], "counts": code["counts"].decode()}


def test_a_gallery_keeps_to_its_room(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = evaluated(runs, ground_truth_results(json.loads((runs.parent / "images/val.json").read_text())))
    figures = figures_of(seen, lambda what, share: None, resamples=0)
    assert figures.outcomes is not None
    judged = JudgedRun(seen.dataset, seen.dataset.ground_truth(), seen.records, figures.outcomes, {})
    whole, told, names = gallery(judged, rankings(figures), {101: "an image"})
    assert len(whole) == 3 and told.startswith("3 of 3 images") and names[101] == "101.png"
    assert {shot.told for shot in whole} == {"an image", ""}
    monkeypatch.setattr(choice_of_images, "MOST_BYTES", whole[0].bytes + 1)
    fewer, told, _ = gallery(judged, rankings(figures), {})
    assert len(fewer) == 1 and told.startswith("1 of 3 images")


def test_images_come_from_each_ranking_in_turn() -> None:
    groups = {"a": [1, 2, 3, 4], "b": [9, 1, 8]}
    assert chosen(groups, 5) == [1, 9, 2, 3, 8]
    assert chosen(groups, 100) == [1, 9, 2, 3, 8, 4]
    assert chosen({}, 5) == []


def test_equal_runs_have_no_gallery_but_a_page(runs: Path, tmp_path: Path) -> None:
    seen = evaluated(runs, [])
    gallery = gallery_of_two(("a", "b"), (seen, seen))
    assert gallery is not None and gallery.shots == []
    shutil.copytree(runs / "first", tmp_path / "a")
    shutil.copytree(runs / "first", tmp_path / "b")
    out = tmp_path / "c.html"
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)]) == 0
    assert "Their configs are the same." in out.read_text()
