"""Running a model over a loader: every image once, modes restored, progress told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn

from maskrcnn.inference.loop import PredictionProgress, evaluating, predict_batches, predict_dataset
from maskrcnn.structures import Batch, Detections, ImageInfo


@dataclass(frozen=True)
class Ids:
    ids: tuple[int, ...] = (5, 8)


@dataclass
class Seen:
    modes: list[bool] = field(default_factory=list)
    dtypes: list[torch.dtype] = field(default_factory=list)
    inference: list[bool] = field(default_factory=list)


class Stub(nn.Module):
    """Finds as many boxes as the image's first pixel says."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        self.body[1].eval()  # a part that the user froze
        self.seen = Seen()

    def predict(self, images: list[Tensor]) -> list[Detections]:
        self.seen.modes.append(self.training or self.body.training)
        self.seen.inference.append(torch.is_inference_mode_enabled())
        self.seen.dtypes.append(self.body(torch.ones(1, 2)).dtype)
        out = []
        for image in images:
            count = int(image[0, 0, 0])
            out.append(
                Detections(
                    torch.tensor([[0.0, 0.0, 8.0, 4.0]]).expand(count, 4),
                    torch.linspace(1, 0.5, count),
                    torch.ones(count, dtype=torch.int64),
                    torch.ones(count, 4, 4),
                )
            )
        return out


def batch(*ids: int) -> Batch:
    """Image i holds i % 3 objects; network frame half the original."""
    images = [torch.full((3, 10, 20), i % 3, dtype=torch.uint8) for i in ids]
    return Batch(images, [ImageInfo(i, f"{i}.png", 20, 40) for i in ids], None)


def test_proposals_reach_the_model() -> None:
    class Proposed(Stub):
        def predict(self, images: list[Tensor], proposals: list[Tensor]) -> list[Detections]:  # type: ignore[override]
            assert [p.tolist() for p in proposals] == [[[1.0, 2.0, 3.0, 4.0]]]
            return super().predict(images)

    given = replace(batch(2), proposals=[torch.tensor([[1.0, 2.0, 3.0, 4.0]])])
    assert len(predict_dataset(Proposed(), [given], "cpu", Ids())) == 2


def test_every_image_once_in_the_original_frame() -> None:
    model = Stub()
    results = predict_dataset(model, [batch(1, 2), batch(3, 4), batch(4, 1)], "cpu", Ids())
    assert [r["image_id"] for r in results] == [1, 2, 2, 4]
    assert {r["category_id"] for r in results} == {8}
    assert results[0]["bbox"] == [0.0, 0.0, 16.0, 8.0]
    assert results[0]["segmentation"]["size"] == [20, 40]
    assert model.seen.inference == [True] * 3
    assert model.seen.dtypes == [torch.float32] * 3


def test_the_model_is_evaluated_and_restored_part_by_part() -> None:
    model = Stub().train()
    model.body[1].eval()
    predict_dataset(model, [batch(1)], "cpu", Ids())
    assert model.seen.modes == [False]
    assert (model.training, model.body.training, model.body[1].training) == (True, True, False)


def test_modes_are_restored_after_an_error() -> None:
    model = Stub().train()
    with pytest.raises(RuntimeError, match="broken"), evaluating(model):
        raise RuntimeError("broken")
    assert model.training


def test_a_wrapped_model_is_unwrapped() -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    assert len(predict_dataset(Wrapper(Stub()), [batch(2)], "cpu", Ids())) == 2


def test_lower_precision_runs_under_autocast() -> None:
    model = Stub()
    list(predict_batches(model, [batch(1)], "cpu", "bfloat16"))
    assert model.seen.dtypes == [torch.bfloat16]


def test_progress_is_told_after_each_batch() -> None:
    told: list[PredictionProgress] = []
    predict_dataset(Stub(), [batch(1, 2), batch(3)], "cpu", Ids(), progress=told.append, total=3)
    assert [(p.done, p.total) for p in told] == [(2, 3), (3, 3)]
    assert all(p.rate > 0 for p in told)
    assert told[0].eta is not None
    assert told[0].eta > 0
    assert told[1].eta == 0
    predict_dataset(Stub(), [batch(1)], "cpu", Ids(), progress=told.append)
    assert (told[2].total, told[2].eta) == (None, None)


def test_encoding_beside_the_model_gives_the_same_results() -> None:
    batches = [batch(i, i + 1) for i in range(0, 20, 2)]
    alone, beside = (
        predict_dataset(Stub(), batches, "cpu", Ids(), overlap=overlap) for overlap in (False, True)
    )
    assert alone == beside
    assert len(alone) == 19


def test_a_fault_while_encoding_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no room")

    monkeypatch.setattr("maskrcnn.inference.loop.coco_results", broken)
    for overlap in (False, True):
        with pytest.raises(ValueError, match="no room"):
            predict_dataset(Stub(), [batch(2)], "cpu", Ids(), overlap=overlap)


def test_an_empty_loader() -> None:
    assert predict_dataset(Stub(), [], "cpu", Ids()) == []
