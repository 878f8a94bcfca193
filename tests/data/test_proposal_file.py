"""Proposal files: what is written comes back, anyone's COCO results serve, what is wrong is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.data import CocoConfig, CocoDataset, SyntheticConfig, eval_loader, train_loader
from maskrcnn.data.proposal_file import ProposalFile, ProposalSpool, write_proposals
from maskrcnn.data.transforms.basic import HorizontalFlip
from maskrcnn.data.transforms.resizing import Resize
from maskrcnn.errors import ConfigError, DataError
from tests.data.files import SIZE, write_coco

BOXES = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8.5], [0, 0, 9, 9]])
SCORES = torch.tensor([0.2, 0.9, 0.5])


def save(path: Path, **changes: Any) -> Path:
    """Three proposals for image 20 and two for image 10, in this order, as numpy would write them."""
    arrays: dict[str, Any] = {
        "image_ids": np.array([20, 10]),
        "counts": np.array([3, 2], dtype=np.int32),
        "proposals": np.array(
            [
                [0, 0, 8, 8, 0.9],
                [1, 1, 9, 9, 0.8],
                [2, 2, 9, 9, 0.7],
                [3, 3, 9, 9, 0.1],  # out of order
                [4, 4, 9, 9, 0.6],
            ],
            dtype=np.float32,
        ),
    }
    np.savez(path, **arrays | changes)
    return path


def for_coco(path: Path, images: int = 4) -> Path:
    """For image 10 k (k = 1, 2, ...) of :func:`tests.data.files.coco`: k boxes of width 1, 2, ..., k."""
    spool = ProposalSpool(path.with_suffix(".raw").open("wb"))
    for k in range(1, images + 1):
        width = torch.arange(1, k + 1).float()
        boxes = torch.stack((torch.zeros(k), torch.zeros(k), width, torch.full((k,), 4.0)), dim=1)
        spool.add(10 * k, boxes, width)
    spool.close()
    write_proposals(path, [(spool.path, spool.image_ids, spool.counts)])
    return path


def test_what_is_written_comes_back_best_first(tmp_path: Path) -> None:
    parts = []
    for rank, ids in enumerate(((30, 10), (20, 30))):
        spool = ProposalSpool((tmp_path / f"{rank}.raw").open("wb"))
        for image_id in ids:
            spool.add(image_id, BOXES + image_id + rank, SCORES)
        if rank == 0:
            spool.add(40, torch.zeros(0, 4), torch.zeros(0))
        spool.close()
        parts.append((spool.path, spool.image_ids, spool.counts))
    path = tmp_path / "proposals.npz"
    assert write_proposals(path, parts) == 9  # image 30 once, as the first rank has it
    found = ProposalFile(path)
    assert found.image_ids.tolist() == [10, 20, 30, 40]
    for image_id, rank in ((10, 0), (20, 1), (30, 0)):
        expected = (BOXES + image_id + rank)[[1, 2, 0]]
        assert torch.equal(found.of(image_id, 100, 100, 10), expected)
    assert found.of(40, 100, 100, 10).shape == (0, 4)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    with np.load(path) as content:
        assert content["counts"].tolist() == [3, 3, 3, 0]
        assert content["proposals"].dtype == np.float32


def test_rows_are_mapped_and_not_read(tmp_path: Path) -> None:
    assert isinstance(ProposalFile(save(tmp_path / "a.npz")).rows, np.memmap)


def test_a_file_of_anyones_numpy_serves(tmp_path: Path) -> None:
    plain = ProposalFile(save(tmp_path / "plain.npz"))
    assert plain.of(10, 50, 50, 5).tolist() == [[4, 4, 9, 9], [3, 3, 9, 9]]
    rows = np.array(plain.rows)
    np.savez_compressed(
        tmp_path / "small.npz", image_ids=[20, 10], counts=[3, 2], proposals=rows.astype(np.float64)
    )
    columns = save(tmp_path / "columns.npz", proposals=np.asfortranarray(rows))
    for path in (tmp_path / "small.npz", columns):
        assert torch.equal(ProposalFile(path).of(20, 50, 50, 5), plain.of(20, 50, 50, 5))
    empty = save(tmp_path / "empty.npz", counts=np.zeros(2, np.int64), proposals=np.zeros((0, 5), np.float32))
    assert ProposalFile(empty).of(20, 5, 5, 3).shape == (0, 4)


def test_only_the_best_inside_the_image(tmp_path: Path) -> None:
    found = ProposalFile(save(tmp_path / "a.npz"))
    assert found.of(20, 50, 50, 2).tolist() == [[0, 0, 8, 8], [1, 1, 9, 9]]
    assert found.of(20, 1, 5, 2).tolist() == [[0, 0, 5, 1]]  # height 1: of the others nothing is left


def test_coco_results_serve_as_proposals(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    mask = {"size": [5, 5], "counts": "abc"}
    records = [
        {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4.5], "score": 0.1},
        {"image_id": 3, "bbox": [0, 0, 2, 2], "score": 1, "segmentation": mask},
        {"image_id": 7, "bbox": [2, 2, 2, 2], "score": 0.8},
    ]
    path.write_text(json.dumps(records))
    found = ProposalFile(path)
    assert found.image_ids.tolist() == [3, 7]
    assert found.of(7, 50, 50, 5).tolist() == [[2, 2, 4, 4], [1, 2, 4, 6.5]]
    assert found.of(3, 50, 50, 5).tolist() == [[0, 0, 2, 2]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1", "the json is broken"),
        ('{"images": []}', "are a list of COCO results"),
        ("[3]", "entry 0 of the list needs an 'image_id'"),
        ('[{"image_id": 1, "bbox": [0, 0, 1], "score": 1}]', "entry 0 of the list"),
        ('[{"image_id": 1, "bbox": [0, 0, 1, 1]}]', "entry 0 of the list"),
        ('[{"image_id": 1, "bbox": [0, 0, 1, 1], "score": 1}, {"image_id": "1"}]', "entry 1 of the list"),
        ('[{"image_id": 1, "bbox": [0, 0, 1, "a"], "score": 1}]', "entry 0 of the list"),
        ('[{"image_id": 5, "bbox": [0, 0, NaN, 1], "score": 1}]', "image 5 has the proposal [0.0, 0.0, nan"),
        ('[{"image_id": 5, "bbox": [0, 0, -1, 1], "score": 1}]', "image 5 has the proposal [0.0, 0.0, -1.0"),
    ],
)
def test_faulty_json_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(DataError, match=re.escape(message)):
        ProposalFile(path)


def with_bad_row(path: Path, row: list[float]) -> Path:
    """Row 3 belongs to the second image of the file, 10."""
    save(path)
    with np.load(path) as content:
        rows = content["proposals"].copy()
    rows[3] = row
    return save(path, proposals=rows)


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda p: None, "cannot be read: No such file"),
    "cut": (lambda p: p.write_bytes(save(p).read_bytes()[:-40]), "is damaged, or no file of proposals"),
    "no array": (lambda p: np.savez(p, image_ids=[1]), "has no array 'counts', only ['image_ids']"),
    "width": (
        lambda p: save(p, proposals=np.zeros((5, 4), np.float32)),
        "must be float [P, 5], it is float32",
    ),
    "objects": (lambda p: save(p, image_ids=np.array([1, None])), "is damaged, or no file of proposals"),
    "ids": (lambda p: save(p, image_ids=np.array([1.0, 2.0])), "must be integers of one length"),
    "lengths": (lambda p: save(p, image_ids=np.array([1])), "must be integers of one length"),
    "sum": (lambda p: save(p, counts=np.array([3, 3])), "add up to 6, but there are 5 proposals"),
    "negative": (lambda p: save(p, counts=np.array([6, -1])), "'counts' add up to 5"),
    "twice": (lambda p: save(p, image_ids=np.array([10, 10])), "image 10 is listed twice"),
    "nan": (
        lambda p: with_bad_row(p, [0, 0, 1, 1, np.nan]),
        "image 10 has the proposal [0.0, 0.0, 1.0, 1.0, nan]",
    ),
    "xywh": (lambda p: with_bad_row(p, [9, 0, 1, 1, 1]), "image 10 has the proposal [9.0, 0.0, 1.0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_files_are_named(tmp_path: Path, fault: str) -> None:
    make, message = FAULTS[fault]
    path = tmp_path / "a.npz"
    make(path)
    with pytest.raises(DataError, match=re.escape(message)) as raised:
        ProposalFile(path)
    assert str(raised.value).startswith(str(path))


def test_a_data_set_hands_them_out(tmp_path: Path) -> None:
    images, annotations = write_coco(tmp_path)
    file = for_coco(tmp_path / "p.npz")
    dataset = CocoConfig(images=images, annotations=annotations, proposals=file).build(True)
    assert dataset.num_proposals == 2000
    found = dataset.load(2).proposals
    assert found is not None
    assert found.tolist() == [[0, 0, 3, 4], [0, 0, 2, 4], [0, 0, 1, 4]]
    few = CocoConfig(images=images, annotations=annotations, proposals=file, num_proposals=2).build(False)
    assert [len(few.load(i).proposals) for i in range(4)] == [1, 2, 2, 2]  # type: ignore[arg-type]
    assert (
        CocoConfig(images=images, annotations=annotations, proposals=file).build(False).num_proposals == 1000
    )
    assert CocoDataset(images, annotations).load(0).proposals is None
    with pytest.raises(ConfigError, match="num_proposals must be >= 1, got 0"):
        SyntheticConfig(num_proposals=0)


def test_images_and_proposals_must_belong_together(tmp_path: Path) -> None:
    images, annotations = write_coco(tmp_path)
    three = for_coco(tmp_path / "three.npz", 3)
    with pytest.raises(DataError, match=r"no proposals for image 40 of .*\(1 of 4 images lack them\)"):
        CocoDataset(images, annotations, proposals=three)
    assert len(CocoDataset(images, annotations, proposals=three, max_images=3)) == 3
    five = for_coco(tmp_path / "five.npz", 5)
    with pytest.raises(DataError, match=r"its image 50 is not in .*\(1 of 5 images are not\)"):
        CocoDataset(images, annotations, proposals=five)
    # Those of images that are left out are no fault.
    assert len(CocoDataset(images, annotations, proposals=for_coco(tmp_path / "p.npz"), max_images=1)) == 1


def test_batches_carry_them_in_the_network_frame(tmp_path: Path) -> None:
    images, annotations = write_coco(tmp_path)
    dataset = CocoDataset(images, annotations, proposals=for_coco(tmp_path / "p.npz"))
    transforms = [Resize(2 * SIZE[0], 3 * SIZE[1]), HorizontalFlip(1.0)]
    seen = {}
    for rank in (0, 1):
        for batch in eval_loader(dataset, transforms, batch_size=2, rank=rank, world_size=2, workers=rank):
            assert batch.proposals is not None
            seen |= {info.image_id: p for info, p in zip(batch.infos, batch.proposals, strict=True)}
    width = 3 * SIZE[1]
    assert seen[20].tolist() == [[width - 6, 0, width, 8], [width - 3, 0, width, 8]]
    assert sorted(seen) == [10, 20, 30, 40]
    options: dict[str, Any] = {"images_per_rank": 2, "total_steps": 6}
    whole = [b.proposals for b in train_loader(dataset, transforms, **options)]
    resumed = [b.proposals for b in train_loader(dataset, transforms, start_step=4, **options)]
    assert [[p.tolist() for p in b or []] for b in resumed] == [
        [p.tolist() for p in b or []] for b in whole[4:]
    ]
