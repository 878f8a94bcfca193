"""A batch that memory has no room for, in pieces: the same losses and gradients, to rounding.

Images are sampled each by its own seed, so a piece draws what the whole batch would.  Its images are padded
to the size of the whole batch, and its losses weigh what they weigh there.  To know that, each piece is
passed twice, the first time without gradients: a third more time.  Not the same are batch normalisation that
trains (it sees the pieces) and dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn.engine.passes import CUTS, Losses, Pass
from maskrcnn.modeling.losses import Pieces, by_images
from maskrcnn.structures import Batch
from maskrcnn.structures.samples import Targets, pack_masks


@CUTS.register("images")
def passes(
    batch: Batch,
    count: int,
    model: nn.Module,
    forward: Callable[[Pass], Losses],
    statistics: Callable[[], Sequence[tuple[Tensor, Tensor]]],
) -> Iterator[Pass]:
    """The passes of a batch that is cut into ``count`` pieces (as many as it has images, at most).

    Args:
        batch: on the CPU.
        model: itself, whatever a strategy calls in its place.
        forward: by the model itself.
        statistics: buffers that a pass may change, with copies.

    Yields:
        passes whose losses add up to those of the batch.
    """
    pieces, weigher = split(batch, count), Pieces()
    before = statistics()
    with _padded_as(model, batch), torch.no_grad():
        for number, piece in enumerate(pieces):
            with weigher.measured():
                by_images(forward(Pass(piece, number)), len(piece), 0)
    for buffer, copy in before:
        buffer.copy_(copy)

    @contextmanager
    def weighed(number: int) -> Iterator[Callable[[Losses], Losses]]:
        with _padded_as(model, batch), weigher.weighed(number):
            yield lambda losses: by_images(losses, len(pieces[number]), 0)

    for number, piece in enumerate(pieces):
        yield Pass(piece, number, number == len(pieces) - 1, weighed(number))


def split(batch: Batch, count: int) -> list[Batch]:
    """``count`` pieces of a batch on the CPU, as many as it has images at most, in its order."""
    rows = torch.arange(len(batch)).tensor_split(min(count, len(batch)))
    return [_piece(batch, int(r[0]), int(r[-1]) + 1) for r in rows]


def _piece(batch: Batch, first: int, last: int) -> Batch:
    some = slice(first, last)
    targets = batch.targets[some] if batch.targets else batch.targets
    if targets and targets[0].packed is not None:
        targets = pack_masks(targets, targets[0].packed[0].drawn)
    return Batch(
        batch.images[some],
        batch.infos[some],
        targets,
        None if batch.proposals is None else batch.proposals[some],
        None if batch.seeds is None else batch.seeds[some],
    )


@CUTS.register("stand_in")
def stand_in(batch: Batch) -> Batch:
    """An image of 64 x 64 pixels without an object, to pass through all layers with next to no memory."""
    one = _piece(batch, 0, 1)
    nothing: list[Targets] | None = one.targets
    if nothing:
        nothing = [replace(t.select(torch.zeros(0, dtype=torch.int64)), packed=None) for t in nothing]
    return replace(
        one,
        images=[image[:, :64, :64].contiguous() for image in one.images],
        targets=nothing,
        proposals=None if one.proposals is None else [p[:0] for p in one.proposals],
    )


@contextmanager
def _padded_as(model: nn.Module, batch: Batch) -> Iterator[None]:
    """Pad pieces to the size of ``batch``."""
    preprocess: Any = getattr(model, "preprocess", None)
    if not hasattr(preprocess, "size_of_whole"):
        yield
        return
    whole = preprocess.padded_size([(image.shape[1], image.shape[2]) for image in batch.images])
    preprocess.size_of_whole = whole
    try:
        yield
    finally:
        preprocess.size_of_whole = (0, 0)
