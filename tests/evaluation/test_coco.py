"""The evaluator gives COCO's figures to the digit, by every backend, and takes imperfect files."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.data import CocoDataset
from maskrcnn.errors import DataError, UserError
from maskrcnn.evaluation import evaluate_coco, ground_truth_results
from maskrcnn.evaluation.backends import choose_backend
from maskrcnn.evaluation.eval_result import TWELVE
from maskrcnn.structures.rle import encode

Dataset = dict[str, Any]


@pytest.fixture(params=["pycocotools", "hotcoco", "faster"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param != "pycocotools":
        module = {"hotcoco": "hotcoco", "faster": "faster_coco_eval"}[request.param]
        pytest.importorskip(module, reason=f"{module} is not installed")
    return str(request.param)


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def tiny(images: int = 3, each: int = 4) -> Dataset:
    """Squares of 12 px in two categories (ids 4 and 9) on 100 x 120 images, one category of none."""
    annotations = []
    for i in range(images):
        for j in range(each):
            x, y = 5.0 + 25 * (j % 4), 10.0 + 30 * (j // 4)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 + i,
                    "category_id": (4, 9)[j % 2],
                    "bbox": [x, y, 12.0, 12.0],
                    "area": 144.0,
                    "iscrowd": 0,
                    "segmentation": square(x, y, 12.0),
                }
            )
    return {
        "images": [{"id": 10 + i, "height": 100, "width": 120} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": 9, "name": "nine"}, {"id": 4, "name": "four"}, {"id": 12, "name": "none"}],
    }


def published(path: Path) -> dict[str, list[str]]:
    """The twelve printed figures after ``type=segm`` and ``type=bbox``."""
    out: dict[str, list[str]] = {}
    kind = ""
    for line in path.read_text().splitlines():
        if found := re.match(r"type=(\w+)", line):
            kind = found[1]
        elif found := re.search(r"\] = (-?\d\.\d+)$", line):
            out.setdefault(kind, []).append(found[1])
    return out


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_published_figures_to_every_digit(
    shared_data: Callable[[str], Path], kind: Any, backend: Any
) -> None:
    folder = shared_data("coco_eval")
    results = json.loads((folder / f"instances_val2014_fake{kind}100_results.json").read_text())
    found = evaluate_coco(folder / "instances_val2014_100.json", results, (kind,), backend=backend)
    expected = published(folder / "val2014_fake_eval_res.txt")[kind]
    assert len(expected) == 12
    assert [f"{found.figures[kind][name]:.3f}" for name in TWELVE] == expected
    assert found.backend == backend
    assert found.notes == ()


def test_the_backends_agree_to_the_last_rounding(shared_data: Callable[[str], Path]) -> None:
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    folder = shared_data("coco_eval")
    results = json.loads((folder / "instances_val2014_fakesegm100_results.json").read_text())
    one, two = (
        evaluate_coco(folder / "instances_val2014_100.json", results, max_detections=300, backend=b)
        for b in ("pycocotools", "faster")
    )
    # pycocotools divides by (tp + fp + 2.2e-16), faster-coco-eval by (tp + fp): one rounding at 1.0.
    first, second = one.scalars(), two.scalars()
    assert first.keys() == second.keys()
    assert len(first) == 38
    assert max(abs(first[key] - second[key]) for key in first) <= 1e-15
    for ours, theirs in zip(one.per_class["segm"], two.per_class["segm"], strict=True):
        assert (ours.name, ours.ground_truth, ours.detections) == (
            theirs.name,
            theirs.ground_truth,
            theirs.detections,
        )
        for name, value in ours.figures.items():
            other = theirs.figures[name]
            assert (value is None) == (other is None)
            assert abs((value or 0.0) - (other or 0.0)) <= 1e-15
    assert (one.ground_truth, one.detections) == (two.ground_truth, two.detections)


def test_auto_takes_the_fast_backend_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_backend("auto") == "pycocotools"
    with pytest.raises(UserError, match="'pip install faster-coco-eval'; or choose 'pycocotools'"):
        choose_backend("faster")
    with pytest.raises(UserError, match="'pip install hotcoco'"):
        choose_backend("hotcoco")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert choose_backend("auto") == "hotcoco"
    with pytest.raises(UserError, match="known: auto, faster, hotcoco, pycocotools"):
        choose_backend("quick")  # type: ignore[arg-type]


def test_ground_truth_scores_one(backend: Any) -> None:
    found = evaluate_coco(tiny(), ground_truth_results(tiny()), backend=backend)
    for kind in ("bbox", "segm"):
        assert found.get(f"{kind}/AP") == pytest.approx(1.0, abs=1e-12)
        assert found.figures[kind]["APl"] is None
        assert found.figures[kind]["AR1"] == pytest.approx(0.5)
    names = [(c.category_id, c.name, c.figures["AP"], c.ground_truth) for c in found.per_class["segm"]]
    assert names == [
        (4, "four", pytest.approx(1.0), 6),
        (9, "nine", pytest.approx(1.0), 6),
        (12, "none", None, 0),
    ]


@pytest.mark.parametrize("name", ["coco", "nuclei"])
def test_ground_truth_of_real_data_scores_one(shared_data: Callable[[str], Path], name: str) -> None:
    inner = {"coco": "annotations/instances_val2017.json", "nuclei": "instances_val.json"}[name]
    dataset = json.loads((shared_data(name) / inner).read_text())
    ids = [image["id"] for image in dataset["images"]][:12]
    found = evaluate_coco(dataset, ground_truth_results(dataset, ids), max_detections=500, image_ids=ids)
    assert found.get("bbox/AP@500") == pytest.approx(1.0, abs=1e-9)
    assert found.get("segm/AP@500") == pytest.approx(1.0, abs=1e-9)


def test_figures_at_a_cap_above_100(backend: Any) -> None:
    dataset = tiny(images=1, each=0)
    for j in range(150):
        x, y = 8.0 * (j % 14), 8.0 * (j // 14)
        dataset["annotations"].append(
            {"id": j + 1, "image_id": 10, "category_id": 4, "bbox": [x, y, 6, 6], "area": 36, "iscrowd": 0}
        )
    results = ground_truth_results(dataset)
    found = evaluate_coco(dataset, results, ("bbox",), max_detections=150, backend=backend).figures["bbox"]
    assert found["AR100"] == pytest.approx(100 / 150)
    assert found["AR@150"] == pytest.approx(1.0)
    assert found["AP"] == pytest.approx(0.67, abs=0.01)
    assert found["AP@150"] == pytest.approx(1.0)
    assert found["AP50@150"] == pytest.approx(1.0)
    at_100 = evaluate_coco(dataset, results, ("bbox",), max_detections=100, backend=backend).figures["bbox"]
    assert at_100 == {name: found[name] for name in TWELVE}


@pytest.mark.parametrize("cap", [100, 200])
def test_no_results_no_ground_truth(backend: Any, cap: int) -> None:
    nothing = evaluate_coco(tiny(), [], backend=backend, max_detections=cap)
    assert nothing.get("segm/AP", default=-1) == 0.0
    assert nothing.notes == ()
    empty = tiny(each=0)
    found = evaluate_coco(empty, ground_truth_results(tiny()), backend=backend, max_detections=cap)
    assert set(found.figures["bbox"].values()) == {None}
    assert found.get("bbox/AP") == 0.0
    assert found.scalars() == {}
    assert "n/a" in found.table()
    assert json.loads(json.dumps(found.as_json()))["figures"]["segm"]["AP"] is None


def test_a_file_without_area_iscrowd_or_boxes(backend: Any) -> None:
    whole, bare = tiny(), tiny()
    for annotation in bare["annotations"]:
        for key in ("area", "iscrowd", "bbox"):
            del annotation[key]
    results = ground_truth_results(whole)[1:]
    expected = evaluate_coco(whole, results, backend=backend)
    before = copy.deepcopy(bare)
    found = evaluate_coco(bare, results, backend=backend)
    assert found.figures == expected.figures
    assert found.notes == ("12 annotations read as meant: box taken from the mask (no box)",)
    assert bare == before, "the caller's data must stay as they were"


def test_annotation_ids_of_zero_and_repeated_ids_count_all_the_same(backend: Any) -> None:
    zero, repeated = tiny(), tiny()
    for i, annotation in enumerate(zero["annotations"]):
        annotation["id"] = i
    for annotation in repeated["annotations"]:
        annotation["id"] = 5
    for dataset in (zero, repeated):
        found = evaluate_coco(dataset, ground_truth_results(tiny()), backend=backend)
        assert found.get("segm/AP") == pytest.approx(1.0)
    matches = evaluate_coco(zero, ground_truth_results(tiny()), matches=True).matches["bbox"]
    assert sorted(matches.annotation_id[0].tolist()) == list(range(12))


def test_ids_written_as_text_are_read() -> None:
    dataset, results = tiny(), ground_truth_results(tiny())
    for image in dataset["images"]:
        image["id"] = str(image["id"])
    for result in results[::2]:
        result["category_id"] = str(result["category_id"])
    assert evaluate_coco(dataset, results).get("bbox/AP") == pytest.approx(1.0)
    dataset["images"][1]["id"] = "second"
    found = evaluate_coco(dataset, results)
    assert (found.images, found.ground_truth) == (2, 8)
    assert (
        "image 1 of the list: it needs an 'id' (its 'id' is the text 'second', not an integer)"
        in found.notes[0]
    )


def test_an_annotation_without_a_usable_mask_is_left_out_of_everything_and_named(backend: Any) -> None:
    dataset = tiny()
    dataset["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]  # pycocotools would read a box
    dataset["annotations"][1]["segmentation"] = []
    found = evaluate_coco(dataset, ground_truth_results(tiny())[2:], backend=backend)
    assert found.get("segm/AP") == found.get("bbox/AP") == pytest.approx(1.0)
    assert found.ground_truth == 10
    assert found.notes[0].startswith(
        "2 faulty annotations left out (1 polygon of fewer than 3 points, 1 no mask); first: the annotations:"
        " annotation 1 (image 10): a polygon has only 2 points"
    )
    alone = evaluate_coco(dataset, ground_truth_results(tiny()), ("bbox",), backend=backend)
    assert (alone.ground_truth, alone.notes) == (12, ()), "boxes alone need no masks"


def test_a_subset_of_images(backend: Any) -> None:
    results = [r for r in ground_truth_results(tiny()) if r["image_id"] != 12]
    assert evaluate_coco(tiny(), results, backend=backend).get("bbox/AP") < 0.9
    part = evaluate_coco(tiny(), results, image_ids=[10, 11], backend=backend)
    assert part.get("bbox/AP") == pytest.approx(1.0)
    assert (part.images, part.ground_truth, part.detections) == (2, 8, 8)
    one = evaluate_coco(tiny(), results, image_ids=[12], backend=backend)
    assert (one.get("bbox/AP"), one.detections) == (0.0, 0)
    with pytest.raises(DataError, match="image id 77 was asked for"):
        evaluate_coco(tiny(), results, image_ids=[77])


def test_crowds_neither_count_nor_hurt(backend: Any) -> None:
    dataset = tiny(images=1)
    runs = [0, 50 * 100, 70 * 100]
    dataset["annotations"].append(
        {
            "id": 99,
            "image_id": 10,
            "category_id": 4,
            "iscrowd": 1,
            "segmentation": {"size": [100, 120], "counts": runs},
        }
    )
    results = ground_truth_results(dataset)
    inside = {"image_id": 10, "category_id": 4, "score": 2.0, "bbox": [20, 60, 9, 9]}
    results.append({**inside, "segmentation": square(20, 60, 9)})
    found = evaluate_coco(dataset, results, backend=backend)
    assert found.get("segm/AP") == pytest.approx(1.0)
    assert found.ground_truth == 4
    dataset["annotations"].pop()
    assert evaluate_coco(dataset, results, backend=backend).get("segm/AP") < 0.9


BYTES = encode(np.eye(100, 120, dtype=np.uint8))["counts"].decode().replace("\\", "\\\\")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"image_id": 1234}, "1 of an unknown image.*result 2: the annotations does not list the image 1234"),
        ({"image_id": "x"}, "1 no sound image_id.*'image_id' is the text 'x', not an integer"),
        ({"image_id": 2**64}, r"ids must lie below 2\^63"),
        ({"category_id": None}, "1 no sound category_id.*'category_id' is None"),
        (
            {"score": float("nan")},
            r"1 no sound score.*result 2 \(image 10\): its score is nan|result 2: its score",
        ),
        ({"score": None}, "its score is None"),
        ({"score": 10**400}, "its score is a number of more than 30 digits"),
        ({"bbox": [1, 2, 3]}, "1 no sound box.*not four numbers"),
        ({"bbox": [1, 2, 3, float("inf")]}, r"\[1, 2, 3, inf\] holds a number that is not finite"),
        ({"bbox": [1, 2, -3, 4]}, "has a negative side"),
        ({"segmentation": None}, "1 no mask.*no 'segmentation'; evaluate what the results have"),
        ({"segmentation": [[]]}, "1 no mask.*no 'segmentation'; evaluate what the results have"),
        (
            {"segmentation": {"size": [120, 100], "counts": [12000]}},
            r"exchanged.*frame of the original image",
        ),
        ({"segmentation": {"size": [100, 120], "counts": [30]}}, "covers 30 pixels"),
        ({"segmentation": {"size": [100, 120], "counts": "1k"}}, "cut short"),
        ({"segmentation": "abc"}, "'segmentation' is a text"),
        ({"segmentation": [[0, 0, 1e9, 0, 5, 5]]}, "outside the image"),
    ],
)
def test_a_faulty_result_is_left_out_and_told(change: dict[str, Any], match: str, backend: Any) -> None:
    results = ground_truth_results(tiny())
    expected = evaluate_coco(tiny(), results[:2] + results[3:], backend=backend)
    results[2].update(change)
    found = evaluate_coco(tiny(), results, backend=backend)
    assert found.figures == expected.figures
    assert found.detections == 11
    assert re.search(match, found.notes[0])
    with pytest.raises(DataError, match="none of 1 result can be used|name no image"):
        evaluate_coco(tiny(), [results[2]], backend=backend)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"image_id": "10"}, None),
        ({"bbox": None}, "box taken from the mask"),
        ({"segmentation": {"size": [100, 120], "counts": f"b'{BYTES}'"}}, "text of bytes"),
        ({"segmentation": square(55, 10, 12.0)[0]}, "polygon without its own brackets"),
    ],
)
def test_a_result_that_is_plainly_meant_is_used(change: dict[str, Any], match: str | None) -> None:
    results = ground_truth_results(tiny())
    results[2].update(change)
    found = evaluate_coco(tiny(), results)
    assert found.detections == 12
    assert [bool(re.search(match or "", note)) for note in found.notes] == [True] * (match is not None)
    if "bytes" not in (match or ""):
        assert found.get("segm/AP") == found.get("bbox/AP") == pytest.approx(1.0)


def test_results_of_numpy_are_read(backend: Any) -> None:
    results = ground_truth_results(tiny())
    right = evaluate_coco(tiny(), results, backend=backend)
    for result in results:
        result["bbox"] = np.array(result["bbox"])
        result["score"] = np.float32(result["score"])
        result["image_id"], result["category_id"] = (
            np.int64(result["image_id"]),
            np.int32(result["category_id"]),
        )
        result["segmentation"] = [np.array(result["segmentation"][0])]
    found = evaluate_coco(tiny(), results, backend=backend)
    assert (found.figures, found.notes) == (right.figures, ())
    results[0]["bbox"][2] = np.nan
    assert "holds a number that is not finite" in evaluate_coco(tiny(), results, backend=backend).notes[0]


def test_results_of_unknown_classes_are_told(backend: Any) -> None:
    results = ground_truth_results(tiny())
    alone = evaluate_coco(tiny(), results, backend=backend)
    found = evaluate_coco(tiny(), [*results, {**results[0], "category_id": 5}], backend=backend)
    assert found.figures == alone.figures and alone.notes == ()
    (note,) = found.notes
    assert note.startswith(
        "1 of 13 results have category ids that the annotations does not list (5), so they match nothing;"
    )


def test_a_file_is_evaluated_without_the_images_that_a_data_set_leaves_out(tmp_path: Path) -> None:
    content = tiny()
    results = ground_truth_results(tiny())
    for image in content["images"]:
        image["file_name"] = f"{image['id']}.png"
    del content["images"][1]["file_name"]
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    found = evaluate_coco(path, results[:4] + results[8:])
    assert found == evaluate_coco(CocoDataset(tmp_path, path).ground_truth(), results[:4] + results[8:])
    assert (found.images, found.get("segm/AP")) == (2, pytest.approx(1.0))
    assert "image 11: it needs a 'file_name'" in found.notes[0]


def test_results_of_another_split_are_told() -> None:
    results = [{**r, "image_id": f"scan_{r['image_id']}"} for r in ground_truth_results(tiny())]
    with pytest.raises(DataError, match="its 'image_id' is the text 'scan_10', not an integer"):
        evaluate_coco(tiny(), results)
    results = [{**r, "image_id": 7} for r in ground_truth_results(tiny())]
    with pytest.raises(
        DataError, match=r"does not list the image 7; it lists 10, 11, 12, ...\); .* another split"
    ):
        evaluate_coco(tiny(), results)


def test_bad_annotation_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(DataError, match=r"a\.json: there is no such file"):
        evaluate_coco(path, [])
    path.write_text("[]")
    with pytest.raises(DataError, match="a COCO file is a json object, this is a list"):
        evaluate_coco(path, [])
    path.write_text("{")
    with pytest.raises(DataError, match="the json is broken"):
        evaluate_coco(path, [])
    path.write_text("\ufeff" + json.dumps(tiny()))  # as Windows editors write it
    assert evaluate_coco(path, ground_truth_results(tiny())).get("segm/AP") == pytest.approx(1.0)
    boxes_only = tiny()
    for annotation in boxes_only["annotations"]:
        del annotation["segmentation"]
    with pytest.raises(DataError, match="none of its annotations can be used.*; evaluate 'bbox' alone"):
        evaluate_coco(boxes_only, [])
    boxes = evaluate_coco(boxes_only, ground_truth_results(boxes_only), ("bbox",))
    assert boxes.get("bbox/AP") == pytest.approx(1.0)


def test_the_area_of_a_detected_mask_is_the_masks_own(backend: Any) -> None:
    """A false thin diagonal in a large box is a small object: its box must not make it a large one."""
    dataset = tiny(images=1)
    results = [{**r, "score": 0.1} for r in ground_truth_results(dataset)]
    thin = [[0.0, 0.0, 99.0, 96.0, 99.0, 99.0, 0.0, 3.0]]
    results.append(
        {"image_id": 10, "category_id": 4, "score": 0.9, "bbox": [0, 0, 99, 99], "segmentation": thin}
    )
    found = evaluate_coco(dataset, results, backend=backend)
    assert found.get("segm/APs") < 0.9, "the false positive counts among the small ones"
    assert found.get("bbox/APs") == pytest.approx(1.0), "by its box it is large"


def test_matches_tell_who_met_whom_and_give_the_ap_again(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("coco_eval")
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    found = evaluate_coco(folder / "instances_val2014_100.json", results, ("bbox",), matches=True)
    matches = found.matches["bbox"]
    assert found.backend == "pycocotools"
    assert matches.average_precision() == pytest.approx(found.get("bbox/AP"), abs=1e-14)
    everyone = dict.fromkeys(matches.gt_image_id.tolist(), 1)
    assert matches.average_precision(everyone) == matches.average_precision()
    assert matches.average_precision({}) is None
    assert [results[i]["score"] for i in matches.result_index] == matches.score.tolist()
    assert [results[i]["image_id"] for i in matches.result_index] == matches.image_id.tolist()
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    by_id = {a["id"]: a for a in truth["annotations"]}
    for image, category, met in zip(
        matches.image_id, matches.category_id, matches.annotation_id[0], strict=True
    ):
        assert met == -1 or (by_id[met]["image_id"], by_id[met]["category_id"]) == (image, category)


def test_resampled_images_equal_an_evaluation_of_the_same_images() -> None:
    rng = np.random.default_rng(0)
    results = ground_truth_results(tiny(images=6))
    for r in results:
        r["bbox"] = (np.array(r["bbox"]) + rng.normal(0, 1.5, 4)).tolist()
        r["score"] = float(rng.uniform())
    matches = evaluate_coco(tiny(images=6), results, ("bbox",), matches=True).matches["bbox"]
    part = evaluate_coco(tiny(images=6), results, ("bbox",), image_ids=[11, 13, 14])
    assert matches.average_precision({11: 1, 13: 1, 14: 1}) == pytest.approx(part.get("bbox/AP"))
    assert 0 < part.get("bbox/AP") < 1
    twice = matches.average_precision({11: 2, 13: 2, 14: 2})
    assert twice == pytest.approx(part.get("bbox/AP"), abs=0.02)


def test_text_and_json_of_a_result() -> None:
    found = evaluate_coco(tiny(), ground_truth_results(tiny()), max_detections=150)
    lines = found.table().splitlines()
    assert lines[0].split() == list(TWELVE)
    assert lines[1].split()[:2] == ["bbox", "1.000"]
    assert "AP@150" in found.table()
    assert any(line.split() == ["none", "0", "0", "n/a", "n/a", "n/a", "n/a"] for line in lines)
    assert "four" not in found.table(per_class=False)
    assert "3 images, 12 instances, 12 detections" in found.table()
    again = json.loads(json.dumps(found.as_json()))
    assert again["per_class"]["segm"][0]["name"] == "four"
    assert again["figures"]["segm"]["AR1"] == found.scalars()["segm/AR1"]
    with pytest.raises(KeyError, match="no figure 'segm/mAP'; there are bbox/AP,"):
        found.get("segm/mAP")


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str], backend: Any) -> None:
    evaluate_coco(tiny(), ground_truth_results(tiny()), backend=backend)
    assert capfd.readouterr() == ("", "")
