"""The loss terms of the RPN and of the RoI heads but keypoints: pure functions.

Those of the heads are 0, with a gradient of 0, on empty input.

Where a batch is cut into pieces for want of memory (:class:`Pieces`), the losses of a piece are weighed so
that those of all pieces add up to those of the batch.  Where ranks share one, it is noted what to weigh them
by (:func:`noted`).

Legend: S = sampled anchors, R = sampled RoIs of the batch, P = positive ones, K = classes; M = boxes, or the
side of masks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.modeling.box_coder import Weights, decode_boxes, encode_boxes
from maskrcnn.structures import box_area

BoxLoss = Literal["smooth_l1", "giou"]


class Pieces:
    """The pieces of a batch: first measured, piece by piece, and then weighed.

    Each loss says at each pass, in the same order, over how many it is a mean: :func:`of_whole`.
    """

    def __init__(self) -> None:
        self._counts: list[list[Tensor | float | None]] = []
        self._weights: list[tuple[Tensor | float, Tensor | float | None]] | None = None
        self.calls = 0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """A pass of the next piece, whose losses are not used."""
        self._counts.append([])
        with self._active(None):
            yield

    @contextmanager
    def weighed(self, piece: int) -> Iterator[None]:
        """A pass of one of the pieces, all of which were measured."""
        weights: list[tuple[Tensor | float, Tensor | float | None]] = []
        for counts in zip(*self._counts, strict=True):
            mine = counts[piece]
            if mine is None:
                weights.append((1.0, None))
                continue
            total = torch.as_tensor(sum(c for c in counts if c is not None), dtype=torch.float64)
            weight = torch.as_tensor(mine, device=total.device) / total.clamp(min=1e-9)
            weights.append((weight.float(), total))
        with self._active(weights):
            yield

    @contextmanager
    def _active(self, weights: list[tuple[Tensor | float, Tensor | float | None]] | None) -> Iterator[None]:
        global _pieces
        self._weights, self.calls, _pieces = weights, 0, self
        try:
            yield
        finally:
            _pieces = None

    def weigh(self, loss: Tensor, count: Tensor | float | None) -> tuple[Tensor, Tensor | float | None]:
        """See :func:`of_whole`; and over how many the batch's loss is a mean."""
        self.calls += 1
        if self._weights is None:
            self._counts[-1].append(count.detach() if isinstance(count, Tensor) else count)
            return loss, count
        weight, total = self._weights[self.calls - 1]
        return loss * weight, total


#: Those of the pass that is under way; None: it has the whole batch.
_pieces: Pieces | None = None
#: Losses, and over how many each is a mean; see :func:`of_whole`.
Noted = list[tuple[Tensor, Tensor | float | None]]
#: Where those of the pass that is under way are noted; None: nowhere.
_noted: Noted | None = None


@contextmanager
def noted() -> Iterator[Noted]:
    """Context of a pass of one rank's share of a batch; it gives the list that its losses are noted in."""
    global _noted
    _noted = []
    try:
        yield _noted
    finally:
        _noted = None


def of_whole(loss: Tensor, count: Tensor | float | None) -> Tensor:
    """``loss``, as it adds up over the pieces of a batch; itself where it is of the whole batch.

    Args:
        loss: a scalar.
        count: over how many it is a mean, 0 or more; None: what it is divided by is the same for any batch.
    """
    if _pieces is not None:
        loss, count = _pieces.weigh(loss, count)
    if _noted is not None:
        _noted.append((loss, count))
    return loss


def weighed_losses() -> int:
    """How many losses of the pass that is under way were given to :func:`of_whole`; 0 of a whole batch."""
    return len(_noted or ()) if _pieces is None else _pieces.calls


def by_images(losses: dict[str, Tensor], images: int, since: int) -> dict[str, Tensor]:
    """``losses`` of a part that may know nothing of pieces: means over ``images`` then.

    Args:
        since: :func:`weighed_losses` before they were computed; where it has risen, they are weighed already.
    """
    if weighed_losses() == since:
        return {name: of_whole(loss, images) for name, loss in losses.items()}
    if _noted is not None:
        # What a head makes of its losses, as a multiple, is a mean over as many as they are.
        own, known = _noted[since:], {id(loss) for loss, _ in _noted}
        counts = [count for _, count in own] if len(own) == len(losses) else [images] * len(losses)
        pairs = zip(losses.values(), counts, strict=True)
        _noted.extend((loss, count) for loss, count in pairs if id(loss) not in known)
    return losses


def smooth_l1(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """``0.5 d^2 / beta`` where ``d = |prediction - target| < beta``, else ``d - 0.5 beta``: [...] -> [...].

    Girshick 2015, Fast R-CNN, eq. 3, with the width of its quadratic part made explicit; beta 0 is L1.
    """
    distance = (prediction - target).abs()
    if beta < 1e-5:  # d^2 / beta would be inf or NaN; the limit is L1
        return distance
    return torch.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)


def giou_loss(boxes: Tensor, truth: Tensor, eps: float = 1e-7) -> Tensor:
    """``1 - GIoU`` of each pair, from 0 (the same box) to 2 (Rezatofighi et al. 2019, algorithm 1).

    Args:
        boxes, truth: [M, 4] xyxy, sides >= 0; a pair of empty boxes gives 1 where they coincide.
        eps: keeps both quotients finite, square pixels (the constant of Detectron2 and torchvision).

    Returns:
        [M].
    """
    low, high = torch.min(boxes, truth), torch.max(boxes, truth)
    intersection = box_area(torch.cat((high[:, :2], low[:, 2:]), dim=1))
    hull = box_area(torch.cat((low[:, :2], high[:, 2:]), dim=1))
    union = box_area(boxes) + box_area(truth) - intersection
    return 1 - intersection / (union + eps) + (hull - union) / (hull + eps)


def box_regression_loss(
    deltas: Tensor,
    reference: Tensor,
    truth: Tensor,
    normalizer: float | Tensor,
    real: Tensor | None = None,
    *,
    kind: BoxLoss = "smooth_l1",
    beta: float = 0.0,
    weights: Weights = (1.0, 1.0, 1.0, 1.0),
) -> Tensor:
    """Smooth L1 of the positives' deltas, or GIoU of their decoded boxes: summed, over ``normalizer``.

    Args:
        deltas: [M, 4], predicted.
        reference: [M, 4] xyxy pixels, the anchors or proposals that they move.
        truth: [M, 4] xyxy pixels, where to.
        normalizer: all sampled boxes, so that positives and negatives weigh the same whatever their mix
            (Girshick 2015, eq. 1-3); the same for both kinds, as in Detectron2.
        real: bool [M], which boxes count; None: all.
        beta: of smooth L1; 0 = L1.  weights: of the box coder.

    Returns:
        A scalar in the boxes' dtype; 0, with a gradient of 0, for M = 0.
    """
    deltas, truth = deltas.to(reference.dtype), truth.to(reference.dtype)
    if kind == "giou":
        loss = giou_loss(decode_boxes(deltas, reference, weights), truth)
    else:
        loss = smooth_l1(deltas, encode_boxes(truth, reference, weights), beta)
    return of_whole(masked(loss, real).sum() / normalizer, normalizer)


def objectness_loss(
    logits: Tensor, labels: Tensor, normalizer: float | Tensor, real: Tensor | None = None
) -> Tensor:
    """The RPN's first loss (Ren et al. 2015, eq. 1): binary cross-entropy, summed and
    divided by ``normalizer``, a scalar.

    Args:
        logits: [S], of the sampled anchors.  labels: [S], 1 object, 0 background.
        real: bool [S], which anchors count; None: all.
    """
    loss = F.binary_cross_entropy_with_logits(logits.to(labels.dtype), labels, reduction="none")
    return of_whole(masked(loss, real).sum() / normalizer, normalizer)


def class_loss(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, real: Tensor | None = None
) -> Tensor:
    """Mean softmax cross-entropy over the RoIs, a scalar (Girshick 2015, eq. 1).

    Args:
        logits: [R, K + 1], background last.  labels: int64 [R], K = background.
        weights: [K + 1], > 0, how much a RoI of each class weighs in the mean; None: all the same.
        real: bool [R], which RoIs count; None: all.
    """
    if labels.numel() == 0:
        return of_whole(logits.sum() * 0, 0)
    logits = wide(logits)
    if weights is not None:
        weights = weights.to(logits.dtype)
    if real is None:
        count = len(labels) if weights is None else weights[labels].sum()
        return of_whole(F.cross_entropy(logits, labels, weights), count)
    total = F.cross_entropy(logits, torch.where(real, labels, -1), weights, reduction="sum", ignore_index=-1)
    share = masked(torch.ones_like(logits[:, 0]) if weights is None else weights[labels], real).sum()
    return of_whole(total / torch.where(share > 0, share, 1), share)


def mask_loss(logits: Tensor, targets: Tensor, real: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy over all pixels of the positive RoIs, a scalar.

    The logits are those of the ground-truth class alone: classes do not compete (He et al. 2017, section 3).

    Args:
        logits: [P, M, M].  targets: [P, M, M] in [0, 1].
        real: bool [P], which RoIs count; None: all.
    """
    if targets.numel() == 0:
        return of_whole(logits.sum() * 0, 0)
    logits = wide(logits)
    if real is None:
        return of_whole(F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype)), len(targets))
    return mean(F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none"), real)


def softmax_mask_loss(own: Tensor, background: Tensor, targets: Tensor, real: Tensor | None = None) -> Tensor:
    """Mean multinomial cross-entropy over all pixels of positive RoIs, a scalar: the classes compete.

    The rival of :func:`mask_loss` in He et al. 2017, table 2b.  A pixel inside the object has the RoI's
    class, one outside is background; a soft target in between shares the pixel among the two.

    Args:
        own, background: [P, M, M], logarithms of the softmax of the RoI's own class and of the background.
        targets: [P, M, M] in [0, 1].
        real: bool [P], which RoIs count; None: all.
    """
    targets = targets.to(own.dtype)
    return -mean(targets * own + (1 - targets) * background, real)


def masked(values: Tensor, real: Tensor | None) -> Tensor:
    """The values, 0 in the rows that are not real.

    Args:
        values: [R, ...].
        real: bool [R]; None: all are.

    Returns:
        [R, ...].
    """
    if real is None:
        return values
    return torch.where(real.view(-1, *[1] * (values.dim() - 1)), values, 0)


def row_count(rows: Tensor, real: Tensor | None) -> int | Tensor:
    """How many of ``rows`` [R, ...] are ``real`` (bool [R]; None: all), at least 1: a number or a scalar."""
    return max(rows.shape[0], 1) if real is None else real.sum().clamp(min=1)


def mean(values: Tensor, real: Tensor | None = None) -> Tensor:
    """The mean over the real rows, 0 with a gradient of 0 where there is none.

    Args:
        values: [R, ...].
        real: bool [R]; None: all are.

    Returns:
        A scalar.
    """
    if values.numel() == 0:
        return of_whole(values.sum() * 0, 0)
    if real is None:
        return of_whole(values.mean(), len(values))
    total = masked(values, real).sum()
    return of_whole(total / (row_count(values, real) * math.prod(values.shape[1:])), real.sum())


def wide(x: Tensor) -> Tensor:
    """``x`` [...] -> [...], float32 where it is of half precision; losses are summed in at least that."""
    return x if x.dtype.itemsize >= 4 else x.float()
