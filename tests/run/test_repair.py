"""``maskrcnn doctor --fix``: each repair ends its finding, keeps all else, and is listed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from maskrcnn.cli import main
from maskrcnn.config import Config
from maskrcnn.data import DATASETS, CocoDataset
from maskrcnn.data.doctor.look import Look
from maskrcnn.run.data_argument import read_data_argument
from maskrcnn.run.examine import examine
from maskrcnn.run.repair import repair
from maskrcnn.structures import rle
from tests.data.doctor.scenes import SIZE, content, octagon, scene, write_data
from tests.data.doctor.test_overlap_doubts import TWICE

Spoil = Callable[[dict[str, Any], Path], None]


def fixed(folder: Path, spoil: Spoil, *, quick: bool = False, **options: Any) -> tuple[list[str], Path]:
    """Kinds of findings before, and the folder of the copy."""
    source = content()
    write_data(folder / "data", source)
    spoil(source, folder / "data" / "images")
    (folder / "data" / "train.json").write_text(json.dumps(source))
    config = read_data_argument(folder / "data")
    look = None if quick else Look(workers=0)
    found = examine(config, look=look)
    repair(config, found, look, folder / "fixed", **options)
    return [doubt.kind for doubt in found.doubts], folder / "fixed"


def read(folder: Path, name: str = "train.json") -> Any:
    return json.loads((folder / name).read_text())


def first(source: dict[str, Any], **changes: Any) -> None:
    source["annotations"][0] |= changes


def twice(source: dict[str, Any], images: Path) -> None:
    source["annotations"].append(source["annotations"][0] | {"id": 1000})


def under_two_ids(source: dict[str, Any], images: Path) -> None:
    source["images"].append(source["images"][0] | {"id": 99})
    source["annotations"][1]["image_id"] = 99


def exchanged(source: dict[str, Any], images: Path) -> None:
    source["images"][0] |= {"height": SIZE[1], "width": SIZE[0]}


def grouping(source: dict[str, Any], images: Path) -> None:
    for path in ("val.json",):
        val = read(images.parent, path)
        for record in (source, val):
            record["categories"] = [{**c, "supercategory": "things"} for c in record["categories"]]
            record["categories"].append({"id": 9, "name": "things", "supercategory": "none"})
        (images.parent / path).write_text(json.dumps(val))


def val_image_in_train(source: dict[str, Any], images: Path) -> None:
    (images / "002.png").write_bytes((images / "102.png").read_bytes())


@DATASETS.register("of_test_repair")
@dataclass(frozen=True, kw_only=True)
class OwnConfig(Config):
    """A format of one's own, which makes records in memory."""

    folder: Path

    def build(self, training: bool, **options: Any) -> CocoDataset:
        return CocoDataset(self.folder / "images", self.folder, records=content(), **options)


REPAIRED: list[tuple[str, Spoil]] = [
    ("annotation twice", twice),
    ("mask of nothing", lambda s, _: first(s, segmentation=[[9, 9, 9, 30, 9, 40]])),
    (
        "polygon without area",
        lambda s, _: s["annotations"][0]["segmentation"].append([80, 40, 90, 50, 95, 55]),
    ),
    ("box disagrees with mask", lambda s, _: first(s, bbox=[1, 1, 5, 5])),
    ("area that cannot be", lambda s, _: first(s, area=0)),
    ("left out: unknown category", lambda s, _: first(s, category_id=77)),
    ("read as meant: iscrowd null or text", lambda s, _: first(s, iscrowd="0")),
    ("read as meant: annotation ids missing or repeated, numbered anew", lambda s, _: first(s, id=11)),
    ("unreadable image", lambda s, images: (images / "001.png").write_bytes(b"\x89PNG")),
    ("unreadable image", lambda s, images: (images / "001.png").unlink()),
    ("size differs", exchanged),
    ("file under several ids", under_two_ids),
    ("root class", grouping),
    ("val repeats train", val_image_in_train),
]


@pytest.mark.parametrize(("kind", "spoil"), REPAIRED, ids=[f"{k}-{n}" for n, (k, _) in enumerate(REPAIRED)])
def test_a_repair_ends_its_finding_and_is_listed(tmp_path: Path, kind: str, spoil: Spoil) -> None:
    before, folder = fixed(tmp_path, spoil)
    assert kind in before
    assert examine(read_data_argument(folder), look=Look(workers=0)).doubts == []
    listed = read(folder, "repairs.json")
    assert listed["left"] == [] and len(listed["done"]) >= 1
    assert all(entry["count"] >= 1 and entry["where"].endswith(".json") for entry in listed["done"])


def test_what_is_sound_is_kept_as_it_is(tmp_path: Path) -> None:
    def further_keys(source: dict[str, Any], images: Path) -> None:
        source["info"] = {"year": 2025}
        source["images"][2]["licence"] = 4
        source["annotations"][3]["attributes"] = {"blurred": True}
        twice(source, images)

    _, folder = fixed(tmp_path, further_keys)
    expected = content()
    expected["info"] = {"year": 2025}
    expected["images"][2]["licence"] = 4
    expected["annotations"][3]["attributes"] = {"blurred": True}
    found = read(folder)
    assert found == expected
    assert read(folder, "val.json") == read(tmp_path / "data", "val.json")


def test_a_polygon_over_itself_is_filled(tmp_path: Path) -> None:
    pytest.importorskip("shapely", reason="shapely is not installed")
    square = TWICE[:8]

    def over(source: dict[str, Any], images: Path) -> None:
        first(source, segmentation=[TWICE], bbox=[20, 20, 40, 40], area=1600)
        # The same with a hole of its own, which stays one.
        hole = [30, 30, 30, 50, 35, 50, 35, 30, 30, 30, 20, 20]
        source["annotations"][2] |= {"segmentation": [[*TWICE, 20, 20, *hole]]}
        source["annotations"][2] |= {"bbox": [20, 20, 40, 40], "area": 1500}

    before, folder = fixed(tmp_path, over)
    assert before == ["polygon over itself"]
    one, _, other, *_ = read(folder)["annotations"]
    (polygon,) = one["segmentation"]
    assert rle.area(rle.from_polygons([np.array(polygon)], *SIZE)) == rle.area(
        rle.from_polygons([np.array(square, dtype=float)], *SIZE)
    )
    bitmap = rle.decode(other["segmentation"])
    assert bitmap[40, 55] == 1 and bitmap[40, 32] == 0 and bitmap[40, 25] == 1


def test_masks_of_codes_stay_codes(tmp_path: Path) -> None:
    square = rle.as_text(dict(rle.from_polygons([np.array(octagon(40, 40, 20))], *SIZE)))

    def code(source: dict[str, Any], images: Path) -> None:
        first(source, segmentation=[square], bbox=[20, 20, 40, 40], area=1131)

    before, folder = fixed(tmp_path, code)
    assert before == ["read as meant: RLE in brackets of its own"]
    assert read(folder)["annotations"][0]["segmentation"] == square


def test_images_are_named_where_they_are_or_copied(tmp_path: Path) -> None:
    _, folder = fixed(tmp_path / "a", twice)
    assert str(tmp_path / "a" / "data" / "images") in (folder / "data.yaml").read_text()
    assert not (folder / "images").exists()
    _, folder = fixed(tmp_path / "b", twice, copy=True)
    copied = cv2.imread(str(folder / "images" / "train" / "004.png"))
    np.testing.assert_array_equal(copied, scene(4))
    assert read_data_argument(folder).train.build(True).load(3).image.shape == (*SIZE, 3)


def test_options_of_the_data_set_go_along(tmp_path: Path) -> None:
    path = write_data(tmp_path / "data")
    path.write_text(path.read_text().replace('train.json"}', 'train.json", exif: false, min_keypoints: 3}'))
    assert main(["doctor", str(path), "--quick", "--fix", str(tmp_path / "fixed")]) == 0
    train: Any = read_data_argument(tmp_path / "fixed").train
    assert (train.exif, train.min_keypoints, train.masks) == (False, 3, True)


def test_what_takes_an_eye_is_left_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = content()
    inner = octagon(32, 45, 5)
    for annotation in source["annotations"][::2]:
        annotation["segmentation"].append(inner)
    path = write_data(tmp_path / "data", source)
    assert main(["doctor", str(path), "--quick", "--fix", str(tmp_path / "fixed")]) == 1
    assert "left as it is (hole as polygon): if it is meant as a hole" in capsys.readouterr().err
    assert [d["kind"] for d in read(tmp_path / "fixed", "repairs.json")["left"]] == ["hole as polygon"]


def test_without_opening_images_missing_ones_are_left_out(tmp_path: Path) -> None:
    before, folder = fixed(tmp_path, lambda s, images: (images / "001.png").unlink(), quick=True)
    assert before == ["missing image"] and len(read(folder)["images"]) == 5


def test_all_training_images_in_val_are_not_taken_from_training(tmp_path: Path) -> None:
    path = write_data(tmp_path / "data", val=content())
    assert main(["doctor", str(path), "--quick", "--fix", str(tmp_path / "fixed")]) == 1
    assert len(read(tmp_path / "fixed")["images"]) == 6
    assert [d["kind"] for d in read(tmp_path / "fixed", "repairs.json")["left"]] == ["val repeats train"]


@pytest.mark.parametrize("case", ["taken", "nothing left", "another format"])
def test_no_copy_is_written_where_it_would_be_none(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = content()
    if case == "nothing left":
        for annotation in source["annotations"]:
            del annotation["segmentation"]
    path = write_data(tmp_path / "data", source)
    if case == "another format":
        path.write_text(f"data: {{train: {{type: of_test_repair, folder: {tmp_path / 'data'}}}}}\n")
    out = tmp_path / "fixed"
    out.mkdir()
    if case == "taken":
        (out / "val.json").write_text("{}")
    assert main(["doctor", str(path), "--quick", "--fix", str(out)]) == 2
    said = {
        "taken": "holds val.json already; name another folder with --fix",
        "nothing left": "nothing would be left of its annotations",
        "another format": "export it to COCO first",
    }[case]
    assert said in capsys.readouterr().err
    assert sorted(p.name for p in out.iterdir()) == (["val.json"] if case == "taken" else [])


def test_the_original_is_as_it_was(tmp_path: Path) -> None:
    source = content()
    twice(source, tmp_path)
    before = copy.deepcopy(source)
    path = write_data(tmp_path / "data", source)
    main(["doctor", str(path), "--fix", str(tmp_path / "fixed"), "--copy"])
    assert read(tmp_path / "data") == before
