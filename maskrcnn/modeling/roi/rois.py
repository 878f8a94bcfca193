"""The RoIs of a batch, one a row, in the static form (shapes are fixed, a mask tells what is real) or not.

Both forms run the same code.  Where RoIs are left out (:meth:`RoIs.where`), the dynamic form keeps the rows
of the others; in the static form all rows stay, fewer of them are real, and losses leave the others out.

Legend: N = images, S = room for RoIs of an image, R = RoIs of the batch, G = room for ground truths of an
image, K = classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar, overload

import torch
from torch import Tensor

from maskrcnn.modeling.losses import mean, row_count
from maskrcnn.structures import Detections
from maskrcnn.structures.boxes import unit_box
from maskrcnn.structures.padded import PaddedTargets, Proposals

Rows = TypeVar("Rows", bound="RoIs")
#: Pixels beyond any image.
_FAR = 2.0**20


@dataclass(frozen=True, eq=False)
class RoIs:
    """RoIs of all images, those of an image together.

    rois: [R, 5], the image's index and xyxy pixels of the network frame; (0, 0, 1, 1) where not real.
    labels: int64 [R], their classes in [0, K), and K for background; 0 where not real.
    real: bool [R], which of them there are; None: all, in the dynamic form.
    """

    rois: Tensor
    labels: Tensor
    real: Tensor | None

    def __len__(self) -> int:
        return self.rois.shape[0]

    @property
    def boxes(self) -> Tensor:
        """[R, 4] xyxy."""
        return self.rois[:, 1:]

    @property
    def pooled(self) -> Tensor:
        """``rois`` as the operators get them: what is not real lies off every map, where they have no work.

        Else all the room that is left would be pooled in one corner of the image, one after the other.
        """
        if self.real is None:
            return self.rois
        boxes = torch.where(self.real[:, None], self.boxes, unit_box(self.boxes) - _FAR)
        return torch.cat((self.rois[:, :1], boxes), dim=1)

    @property
    def images(self) -> Tensor:
        """int64 [R], the index of each RoI's image."""
        return self.rois[:, 0].to(torch.int64)

    @property
    def count(self) -> int | Tensor:
        """How many there are, at least 1; a number, or int64 []."""
        return row_count(self.rois, self.real)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of ``values`` [R, ...] over the RoIs that there are, a scalar.

        0, with a gradient of 0, where there is none.
        """
        return mean(values, self.real)

    def at(self: Rows, rows: Tensor) -> Rows:
        """Those in the rows int64 [R']."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v[rows] for k, v in values.items() if isinstance(v, Tensor)})

    def where(self: Rows, keep: Tensor) -> Rows:
        """Those of bool [R]: their rows, or in the static form all rows, of which fewer are real."""
        if self.real is None:
            return self.at(keep.nonzero()[:, 0])
        real = self.real & keep
        boxes = torch.where(real[:, None], self.boxes, unit_box(self.boxes))
        rois, labels = torch.cat((self.rois[:, :1], boxes), dim=1), torch.where(real, self.labels, 0)
        return replace(self, rois=rois, labels=labels, real=real)

    def moved(self: Rows, boxes: Tensor) -> Rows:
        """The same with other boxes [R, 4]."""
        return replace(self, rois=torch.cat((self.rois[:, :1], boxes), dim=1))


def of_real(rois: Rows, compute: Callable[[Rows], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """``compute(rois)``, a row [R, ...] a RoI; in a graph to export of the real ones alone, the others 0.

    Such a graph has the same room whatever an image holds, but need not work on what is empty.
    """
    if rois.real is None or not torch.compiler.is_exporting():
        return compute(rois)
    rows = rois.real.nonzero()[:, 0]
    found = compute(replace(rois.at(rows), real=None))
    return tuple(v.new_zeros((rois.rois.shape[0], *v.shape[1:])).index_copy(0, rows, v) for v in found)


def rois_of(proposals: Proposals, *, static: bool) -> RoIs:
    """The proposals as RoIs [R, 5] of no class; R is N * P where ``static``, else there are the real ones."""
    boxes, real = proposals.boxes.flatten(0, 1), proposals.real.flatten()
    size, room = proposals.real.shape  # not len(), which a tracer takes for fixed
    images = torch.arange(size, device=boxes.device)[:, None].expand(-1, room).flatten()
    rois = torch.cat((images[:, None].to(boxes.dtype), boxes), dim=1)
    return RoIs(rois, torch.zeros_like(images), torch.ones_like(real) if static else None).where(real)


@dataclass(frozen=True, eq=False)
class SampledRoIs(RoIs):
    """The RoIs to train on; in the sample itself the positive ones of an image come first.

    truth: int64 [R], the ground truth of each positive RoI, among the G of its image.
    slots: int64 [R], the place of each among the N * S of the batch, ascending.
    targets: the ground truth.
    num_classes: K, the label of background.
    room: S.
    most_positive: among the first how many slots of an image its positive RoIs are.
    """

    truth: Tensor
    slots: Tensor
    targets: PaddedTargets
    num_classes: int
    room: int
    most_positive: int

    @property
    def positive(self) -> SampledRoIs:
        """Those with an object."""
        rows = self
        if self.real is not None and self.most_positive < self.room:
            slots = torch.arange(len(self), device=self.rois.device).view(-1, self.room)
            rows = self.at(slots[:, : self.most_positive].flatten())
        return rows.where(rows.labels < self.num_classes)

    def pick(self, values: Tensor, some: SampledRoIs) -> Tensor:
        """Of ``values`` [R, ...] those [R', ...] of ``some`` of these RoIs."""
        return values[torch.searchsorted(self.slots, some.slots)]

    @property
    def true_boxes(self) -> Tensor:
        """[R, 4], the box of each positive RoI's ground truth."""
        return self.targets.boxes[self.images, self.truth]


@dataclass(frozen=True, eq=False)
class DetectedRoIs(RoIs):
    """Detections, those of an image by falling score.

    scores: [R] in [0, 1].
    """

    scores: Tensor


class Finisher(Protocol):
    """What turns the values of a head into what is told of each detection; a RoI head."""

    def finish(self, rois: DetectedRoIs, values: Tensor) -> dict[str, Tensor]:
        """By name [D, ...], of all detections of the batch."""
        ...


@dataclass(frozen=True, eq=False)
class FoundRoIs(Sequence[Detections]):
    """The detections of a batch; as a sequence, those of every image: to read them waits for the device.

    size: N.
    rois: in the static form there are N * D rows.
    values: what each of the heads gives of them, by its name: [R, ...].
    heads: by name.
    """

    size: int
    rois: DetectedRoIs
    values: Mapping[str, Tensor]
    heads: Mapping[str, Finisher]

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, image: int) -> Detections: ...
    @overload
    def __getitem__(self, image: slice) -> Sequence[Detections]: ...
    def __getitem__(self, image: int | slice) -> Detections | Sequence[Detections]:
        return self._images[image]

    @cached_property
    def _images(self) -> list[Detections]:
        rois, values = self.rois, self.values
        if rois.real is not None:
            rows = rois.real.nonzero()[:, 0]
            rois, values = replace(rois.at(rows), real=None), {k: v[rows] for k, v in values.items()}
        extras: dict[str, Any] = {}
        for name, head in self.heads.items():
            extras |= head.finish(rois, values[name])
        own = {name: extras.pop(name) for name in ("mask_probs", "keypoints") if name in extras}
        whole = Detections(rois.boxes, rois.scores, rois.labels, **own, extras=extras)
        ends = torch.bincount(rois.images, minlength=self.size).cumsum(0).tolist()
        return [whole.select(slice(a, b)) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
