"""Importing what was exported is the identity up to what is named.

Covers ``maskrcnn/data/formats/exported.py``, ``maskrcnn/data/formats/data_folder.py``,
``maskrcnn/cli/import_data.py`` and ``maskrcnn/cli/export_data.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from maskrcnn.cli import main
from maskrcnn.data.formats.exchange import EXPORTERS, IMPORTERS
from maskrcnn.structures import rle
from tests.data.formats.labels import datasets, objects, ring, same


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's data, small: polygons, codes, masks with holes, crowds; and one mask of several polygons."""
    folder = tmp_path_factory.mktemp("demo")
    sizes = ["--train", "24", "--val", "6", "--size", "96", "--level", "hard"]
    assert main(["data", "synthetic", "--out", str(folder), *sizes]) == 0
    file = folder / "train" / "annotations.json"
    content = json.loads(file.read_text())
    first = content["annotations"][0]
    first["segmentation"] = [[3.25, 4, 20, 4, 20, 20.5], [30, 30, 40.125, 30, 40, 41]]
    first["bbox"], first["iscrowd"] = [3.25, 4, 37, 37], 0
    image = content["images"][1]
    holed = rle.as_text(rle.encode(ring((image["height"], image["width"]))))
    extra = {"id": 10_000, "area": 399.5, "image_id": image["id"], "category_id": first["category_id"]}
    content["annotations"].append({**extra, "segmentation": holed, "bbox": [5, 5, 45, 28], "iscrowd": 0})
    content["annotations"].sort(key=lambda a: a["image_id"])
    file.write_text(json.dumps(content))
    here = 'type: coco, images: "${HERE}/SPLIT/images", annotations: "${HERE}/SPLIT/annotations.json"'
    lines = [f"  {s}: {{{here.replace('SPLIT', s)}}}" for s in ("train", "val")]
    (folder / "data.yaml").write_text("\n".join(["data:", *lines]))
    return folder


def around(demo: Path, out: Path, name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Export and import again by the commands; what the export told."""
    assert main(["export-data", str(demo), "--format", name, "--out", str(out / name)]) == 0
    told = capsys.readouterr().out
    wanted = "masks" if name == "labels" else name
    assert main(["import", str(out / name), "--out", str(out / "mine")]) == 0
    assert f"(format {wanted})" in capsys.readouterr().out
    return told


def test_the_demo_has_what_is_hard(demo: Path) -> None:
    truth = datasets(demo)["train"].ground_truth()
    outlines = [truth.outline(row) for row in range(len(truth))]
    assert any(o is None for o in outlines) and any(o is not None and len(o) > 1 for o in outlines)
    assert truth.crowds.any() and not truth.crowds.all()


@pytest.mark.parametrize("name", ["coco", "labelme"])
def test_around_nothing_of_masks_classes_and_crowds_is_lost(
    name: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    around(demo, tmp_path, name, capsys)
    before, after = datasets(demo), datasets(tmp_path / "mine")
    for split in ("train", "val"):
        same(objects(before[split]), objects(after[split]))
        one, other = before[split].ground_truth(), after[split].ground_truth()
        assert [one.outline(r) for r in range(len(one))] == [other.outline(r) for r in range(len(other))]
        if name == "coco":
            assert one.annotation_ids.tolist() == other.annotation_ids.tolist()
            assert (
                one.category_ids == other.category_ids and one.image_ids.tolist() == other.image_ids.tolist()
            )
            assert np.array_equal(one.boxes, other.boxes) and np.array_equal(
                one.areas, other.areas, equal_nan=True
            )


def test_around_yolo_loses_crowds_and_ids_alone(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = around(demo, tmp_path, "yolo", capsys)
    before, after = datasets(demo), datasets(tmp_path / "mine")
    crowds = sum(int(d.ground_truth().crowds.sum()) for d in before.values())
    assert f"not kept: crowd regions, left out: {crowds}" in told and "joined by seams" in told
    for split in ("train", "val"):
        wanted = {name: [o for o in found if not o[1]] for name, found in objects(before[split]).items()}
        same(wanted, objects(after[split]))
        assert before[split].categories.names == after[split].categories.names


def test_around_label_images_lose_what_lies_under_others(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = around(demo, tmp_path, "labels", capsys)
    before, after = datasets(demo), datasets(tmp_path / "mine")
    under = hidden = 0
    for split in ("train", "val"):
        truth, found = objects(before[split]), objects(after[split])
        assert truth.keys() == found.keys()
        for name, mine in truth.items():
            left, others = [], iter(found[name])
            for k, (label, crowd, mask) in enumerate(mine):
                above = [o[2] for j, o in enumerate(mine) if (o[2].sum(), -j) < (mask.sum(), -k)]
                seen = mask & ~np.any(above, axis=0) if above else mask
                under += 0 < seen.sum() < mask.sum()
                hidden += seen.sum() == 0
                if seen.sum():
                    left.append((label, crowd, seen))
            for (label, crowd, seen), other in zip(left, others, strict=True):
                assert (label, crowd) == other[:2] and np.array_equal(seen, other[2])
    assert under > 0 and f"not kept: objects that lie partly under others: {under}" in told
    assert (f"{hidden} objects that lie wholly under" in told) == (hidden > 0)


def test_boxes_alone_stay_boxes(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (demo / "data.yaml").read_text().replace("type: coco", "type: coco, masks: false")
    (tmp_path / "boxes.yaml").write_text(text.replace("${HERE}", str(demo)))
    for name in ("coco", "labelme", "yolo"):
        around(tmp_path / "boxes.yaml", tmp_path / name, name, capsys)
        one = datasets(demo)["val"].ground_truth()
        other = datasets(tmp_path / name / "mine")["val"].ground_truth()
        assert not other.has_masks and np.allclose(
            one.boxes[~one.crowds], other.boxes[~other.crowds], atol=1e-5
        )
    assert main(
        ["export-data", str(tmp_path / "boxes.yaml"), "--format", "labels", "--out", str(tmp_path / "x")]
    )
    assert "boxes alone, which label images cannot hold" in capsys.readouterr().err


def test_keypoints_are_kept_by_coco_and_counted_by_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--train", "4", "--val", "0", "--size", "64"]
    assert main(["data", "synthetic", "--out", str(tmp_path / "posed"), "--keypoints", *sizes]) == 0
    lines = '{type: coco, keypoints: true, images: "${HERE}/images", annotations: "${HERE}/annotations.json"}'
    (tmp_path / "posed" / "train" / "data.yaml").write_text(f"data: {{train: {lines}}}")
    demo = tmp_path / "posed" / "train"
    before = datasets(demo)["train"]
    told = around(demo, tmp_path / "yolo", "yolo", capsys)
    labelled = int((before.ground_truth().labelled > 0).sum())
    assert f"not kept: keypoints: {labelled}" in told
    assert main(["export-data", str(demo), "--format", "coco", "--out", str(tmp_path / "coco")]) == 0
    after = datasets(tmp_path / "coco")["train"]
    assert np.array_equal(before.ground_truth().keypoints, after.ground_truth().keypoints)
    assert before.keypoints == after.keypoints


def test_formats_have_names_and_titles() -> None:
    assert IMPORTERS.names() == ["coco", "cvat", "dsb2018", "labelme", "masks", "yolo"]
    assert EXPORTERS.names() == ["coco", "labelme", "labels", "yolo"]
    assert len({IMPORTERS.get(name)().title for name in IMPORTERS.names()}) == 6
