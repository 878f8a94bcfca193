"""``maskrcnn split``: by image, folder, key and pattern; what it writes is what was there.

Covers ``maskrcnn/cli/split.py`` and ``maskrcnn/viz/shares.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.cli import main
from maskrcnn.data import CocoConfig
from maskrcnn.recipe import DataConfig
from maskrcnn.run.split import split_data
from tests.data.files import coco, write_coco


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve images of four patients, in folders of three, with keys of their own."""
    content = coco(12)
    for k, image in enumerate(content["images"]):
        image["file_name"] = f"day{k // 3}/p{k % 4}_{k}.png"
        image["study"] = {"patient": k % 4}
        (tmp_path / "images" / f"day{k // 3}").mkdir(parents=True, exist_ok=True)
    content["licenses"] = [{"id": 1}]
    content["annotations"][0]["attributes"] = {"sure": True}
    write_coco(tmp_path, content)
    return tmp_path


def split(data: Path, *words: str) -> int:
    out = [] if "--out" in words else ["--out", str(data / "mine")]
    return main(["split", str(data / "annotations.json"), "--images", str(data / "images"), *out, *words])


def parts(data: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    train, val = (json.loads((data / "mine" / f"{s}.json").read_text()) for s in ("train", "val"))
    return train, val


def values(content: dict[str, Any], by: str) -> set[Any]:
    found = {
        "folder": [i["file_name"].split("/")[0] for i in content["images"]],
        "key:study.patient": [i["study"]["patient"] for i in content["images"]],
        r"regex:/(p\d)_": [i["file_name"].split("/")[1][:2] for i in content["images"]],
    }
    return set(found[by])


def test_nothing_is_lost_and_nothing_is_double(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert split(data, "--val", "0.25") == 0
    train, val = parts(data)
    before = json.loads((data / "annotations.json").read_text())
    for key in ("images", "annotations"):
        assert sorted([r["id"] for r in train[key] + val[key]]) == sorted(r["id"] for r in before[key])
        assert all(r in before[key] for r in train[key] + val[key])
    assert (len(train["images"]), len(val["images"])) == (9, 3) and val["licenses"] == [{"id": 1}]
    told = capsys.readouterr().out
    assert [line.split() for line in told.splitlines()[1:5]] == [
        ["images", "9", "3"],
        ["objects", "18", "6"],
        ["train", "9", "3"],
        ["toothbrush", "9", "3"],
    ]


@pytest.mark.parametrize("by", ["folder", "key:study.patient", r"regex:/(p\d)_"])
def test_groups_stay_together(data: Path, by: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert split(data, "--by", by, "--val", "0.25") == 0
    train, val = parts(data)
    assert values(train, by) and values(val, by) and not values(train, by) & values(val, by)
    assert "groups" in capsys.readouterr().out


def test_the_seed_decides(data: Path) -> None:
    found = []
    for seed in ("0", "0", "1"):
        assert split(data, "--seed", seed, "--overwrite") == 0
        found.append([i["id"] for i in parts(data)[1]["images"]])
    assert found[0] == found[1] != found[2]


def test_the_parts_can_be_trained_on_and_keep_options(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "config.yaml").write_text(
        'data: {train: {type: coco, images: "${HERE}/images", annotations: "${HERE}/annotations.json",'
        " exif: false, max_images: 6, sixteen_bit: keep}}"
    )
    assert (
        main(["split", str(data / "config.yaml"), "--out", str(data / "mine"), "--val", "0.5", "--plain"])
        == 0
    )
    from maskrcnn.run.data_argument import read_data_argument

    made = read_data_argument(data / "mine")
    assert isinstance(made.train, CocoConfig) and not made.train.exif and made.train.sixteen_bit == "keep"
    assert made.train.max_images is None and made.val is not None
    assert len(made.train.build(True)) + len(made.val.build(False)) == 6
    # and what is divided already is refused, with an advice that works
    assert main(["split", str(data / "mine"), "--out", str(data / "again")]) == 2
    told = capsys.readouterr().err
    advice = told.split("by naming ")[1].split(" --images ")
    assert split_again(Path(advice[0]), Path(advice[1].strip()), data / "again") == 0


def split_again(file: Path, images: Path, out: Path) -> int:
    return main(["split", str(file), "--images", str(images), "--out", str(out), "--val", "0.4"])


def test_generated_data_are_divided_too(tmp_path: Path) -> None:
    from maskrcnn.data import SyntheticConfig

    config = SyntheticConfig(num_images=4, size=48, root=tmp_path / "cache")
    made = split_data(DataConfig(train=config), tmp_path / "mine", 0.5)
    assert made.images == {"train": 2, "val": 2}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--val", "20"], "--val 20 is no share of the images; write one between 0 and 1"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--by", "patient"], "--by patient: write image, folder, key:NAME"),
        (["--by", "key:patient"], "image 10: its record has no key 'patient'; it has file_name, height, id"),
        (["--by", "regex:("], "--by regex:(: is no regular expression"),
        (["--by", "regex:day7"], "nothing in the file name day0/p0_0.png matches; mend the pattern"),
        (["--by", "regex:day"], "12 images are of one group (day), which is not divided"),
    ],
)
def test_what_cannot_be_divided(
    data: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert split(data, *words) == 2
    assert told in capsys.readouterr().err
    assert not (data / "mine").exists()
