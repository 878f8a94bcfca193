"""A batch that memory has no room for is passed in pieces, to the same losses and gradients, and says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maskrcnn.data.loader import train_loader
from maskrcnn.engine.checkpoint import load
from maskrcnn.engine.console import Console
from maskrcnn.engine.outcomes import NoMemoryError, Wishes
from maskrcnn.engine.passes import MOST_PIECES
from maskrcnn.engine.pieces import split, stand_in
from maskrcnn.engine.step import Step
from maskrcnn.engine.strategy import choose_strategy
from maskrcnn.errors import UserError
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.run import setup, train
from maskrcnn.structures import Batch
from tests.engine.line import ALONE, Line, Lines, batch, batches, make_step, trainer
from tests.engine.tiny import write_recipe
from tests.test_resume import StopAfter, assert_same_state, last

#: Every kind of a loss that is normalised in a way of its own.
KINDS = {
    "as the tiny recipe": [],
    "by the sampled": ["model.rpn.normalize_by=sampled", "model.rpn.box_loss=giou"],
    "softmax masks": ["model.mask_head.loss=softmax"],
    "bitmasks": ["model.mask_target=bitmask"],
    "fixed shapes": ["model.static_shapes=true"],
    "weighed classes": ["model.roi.class_weights={background: 0.25, disc: 3}"],
    "weighed classes in fixed shapes": [
        "model.roi.class_weights={background: 0.25, disc: 3}",
        "model.static_shapes=true",
    ],
    "cascade": [
        "model.roi.cascade={ious: [0.5, 0.6], box_weights: [[10, 10, 5, 5], [20, 20, 10, 10]]}",
        "model.box_head.class_agnostic=true",
    ],
}


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"))


def first_batch(recipe: Recipe, size: int) -> tuple[MaskRCNN, Batch]:
    """The model, and images of different sizes, one of them without an object."""
    data = setup.build_data(recipe, ALONE)
    torch.manual_seed(1)
    model = setup.place_model(recipe, len(data.train.categories), torch.device("cpu"))
    model.roi.class_weights = setup.class_weights(recipe.model.roi, data.train, torch.device("cpu"))
    transforms = setup.build_transforms(recipe, training=True)
    drawn = setup.drawn_masks(recipe)
    loader = train_loader(
        data.train, transforms, images_per_rank=size, total_steps=1, group=False, drawn_masks=drawn
    )
    (found,) = loader
    assert 1 in [info.image_id for info in found.infos]
    assert len({image.shape for image in found.images}) > 1
    return model, found


def gradients(recipe: Recipe, pieces: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    model, found = first_batch(recipe, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    step = Step(
        *(choose_strategy(ALONE, model), optimizer, lambda _: 0.0), seed=0, precision="float32", accumulate=1
    )
    step.passes.pieces = pieces
    done = step.take(0, iter([found]), Wishes)
    return done.losses, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_have_the_losses_and_gradients_of_the_whole(recipe_file: Path, kind: str) -> None:
    recipe = load_recipe(recipe_file, KINDS[kind])
    losses, slopes = gradients(recipe, 1)
    assert len(losses) >= 5
    for pieces in (2, 8):
        found, parts = gradients(recipe, pieces)
        assert found == pytest.approx(losses, rel=1e-5)
        assert parts.keys() == slopes.keys()
        for name, slope in slopes.items():
            assert torch.allclose(parts[name], slope, rtol=1e-3, atol=1e-6 + 1e-5 * float(slope.abs().max()))


def test_batches_are_cut_in_their_order() -> None:
    whole = batch(3, 5)
    assert [[i.image_id for i in piece.infos] for piece in split(whole, 2)] == [[300, 301, 302], [303, 304]]
    assert [len(piece) for piece in split(whole, 8)] == [1] * 5
    assert stand_in(whole).images[0].shape == (3, 2, 2)


class Small(Line):
    """Has memory for so many images at a time."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.sizes: list[int] = []

    def forward(self, images: list[Tensor], targets: Any, generator: Any) -> dict[str, Tensor]:
        self.sizes.append(len(images))
        losses = super().forward(images, targets, generator)
        if len(images) > self.room:
            torch.empty(2**60)
        return losses


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_that_has_no_memory_is_made_in_pieces_and_told(deferred: bool, accumulate: int) -> None:
    def eights() -> Iterator[Batch]:
        return (batch(i, 8) for i in range(9))

    straight, small, told = Line(), Small(2), list[str]()
    other = make_step(straight, accumulate=accumulate)
    step = make_step(small, accumulate=accumulate, deferred=deferred, tell=told.append)
    expected, source, theirs = [], eights(), eights()
    for i in range(3):
        expected.append(other.take(i, theirs, Wishes))
        step.queue(i, source, Wishes)
        if not deferred:
            (found,) = step.read()
            assert found.losses == pytest.approx(expected[-1].losses)
    if deferred:
        assert [r.losses for r in step.read()] == [pytest.approx(r.losses) for r in expected]
    assert small.w.item() == pytest.approx(straight.w.item())
    assert [text.partition(";")[0] for text in told] == ["step 1: out of memory"] * 2
    assert "2 pieces of at most 4 images" in told[0] and "4 pieces of at most 2 images" in told[1]
    assert small.sizes.count(8) == 1  # once is enough to know
    assert step.parts()["recovery"].save() == {"pieces": 4, "skipped": 0, "in_a_row": 0}


def test_an_image_that_does_not_fit_is_the_end_after_three_tries() -> None:
    told: list[str] = []
    step = make_step(Small(0), tell=told.append)
    with pytest.raises(NoMemoryError) as caught:
        step.take(0, iter([batch(0, 16)]), Wishes)
    assert len(told) == 3 and step.passes.pieces == MOST_PIECES
    assert len(caught.value.infos) == 16


def test_the_end_for_want_of_memory_leaves_a_checkpoint(tmp_path: Path) -> None:
    class Fuller(Small):
        def forward(self, images: list[Tensor], targets: Any, generator: Any) -> dict[str, Tensor]:
            self.room = 9 if len(self.sizes) < 2 else 0
            return super().forward(images, targets, generator)

    console = Lines()
    with pytest.raises(
        UserError, match=r"step 3: out of memory on image 200 .*the checkpoint of step 2 is kept"
    ):
        trainer(Fuller(9), tmp_path, console=console).fit(batches())
    assert load(tmp_path / "last.pt").step == 2
    assert len(console.warnings) == 1


def test_a_run_that_was_cut_goes_on_cut_to_the_bit(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, passes = MaskRCNN.forward, [0]

    def full(self: MaskRCNN, images: Any, targets: Any = None, *args: Any) -> Any:
        passes[0] += 1
        if passes[0] == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, images, targets, *args)

    monkeypatch.setattr(MaskRCNN, "forward", full)
    recipe = load_recipe(recipe_file, ["data.val=null"])
    train(recipe, tmp_path / "straight", console=Console(quiet=True))
    assert last(tmp_path / "straight").more["recovery"] == {"pieces": 2, "skipped": 0, "in_a_row": 0}
    passes[0] = 0
    with pytest.raises(BaseException, match="after step 4"):
        train(recipe, tmp_path / "parted", console=StopAfter(3))
    train(recipe, tmp_path / "parted", resume=True, console=Console(quiet=True))
    assert_same_state(last(tmp_path / "straight"), last(tmp_path / "parted"))
