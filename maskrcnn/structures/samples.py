"""What the data side hands to the model, and what the model hands back.

Two frames occur.  The *original* frame is the image as stored (after EXIF rotation); the *network* frame
is the image after the transforms, as it enters the model, before padding.  Every tensor below says which.

Legend: G = ground-truth instances of an image, D = detections of an image, C = image channels,
H, W = network-frame height and width, M = side of a mask head's output (28), J = keypoints an instance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maskrcnn.structures.masks import InstanceMasks
from maskrcnn.structures.packed_masks import PackedMasks

#: An image before it is a tensor: [H, W, C] (three: RGB), uint8, or float32 in [0, 255] where files are
#: deeper and that is kept, or have a contrast.
Image: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class ImageInfo:
    """Which image this is, and its size in the original frame, in pixels."""

    image_id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True)
class Targets:
    """The ground truth of one image, in the network frame.

    boxes: float32 [G, 4] xyxy, pixels, inside the image, every side > 0.
    labels: int64 [G], contiguous class index in [0, K) (no background entry; see ``data.Categories``).
    masks: G instance masks, or None where the task has none.
    annotation_ids: int64 [G], the data set's own ids, for messages and reports.
    keypoints: float32 [G, J, 3], or None where the task has none: x, y in pixels (continuous, as boxes) and
        COCO's flag v: 0 not labelled (x, y mean nothing), 1 labelled but hidden, 2 labelled and visible.
    packed: the masks of its batch, and which row of them its first instance is; None: not packed.
    """

    boxes: Tensor
    labels: Tensor
    masks: InstanceMasks | None
    annotation_ids: Tensor
    keypoints: Tensor | None = None
    packed: tuple[PackedMasks, int] | None = None

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def to(self, device: torch.device | str) -> Targets:
        """Boxes, labels and keypoints on ``device``; masks stay where they are (on the CPU), unpacked."""
        return replace(
            self,
            boxes=self.boxes.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            keypoints=None if self.keypoints is None else self.keypoints.to(device, non_blocking=True),
            packed=None,
        )

    def pin_memory(self) -> Targets:
        """What :meth:`to` moves, in memory that a GPU reads by itself; from other memory a copy may wait."""
        points = None if self.keypoints is None else self.keypoints.pin_memory()
        return replace(self, boxes=self.boxes.pin_memory(), labels=self.labels.pin_memory(), keypoints=points)

    def select(self, keep: Tensor) -> Targets:
        """The instances that ``keep`` (bool [G] or int64 indices, on the CPU) names."""
        index = keep.nonzero()[:, 0] if keep.dtype == torch.bool else keep
        return Targets(
            self.boxes[index],
            self.labels[index],
            None if self.masks is None else self.masks.select(index.tolist()),
            self.annotation_ids[index],
            None if self.keypoints is None else self.keypoints[index],
        )


@dataclass(frozen=True)
class Sample:
    """One image after the transforms.

    image: uint8 (or float32 in [0, 255]) [C, H, W], three in RGB order, network frame; in memory pixel by
        pixel, [H, W, C], as decoders give it and the model reads it.
    proposals: float32 [P, 4] xyxy, network frame, by falling score, where the data come with them.
    """

    image: Tensor
    info: ImageInfo
    targets: Targets | None
    proposals: Tensor | None = None


@dataclass(frozen=True)
class Note:
    """Something about an image file that was read but hardly as meant.

    kind: ``damaged`` or ``pages``.  words: the shortest way to say it.  sentence: for a message.
    """

    kind: str
    words: str
    sentence: str


@dataclass(frozen=True)
class RawSample:
    """One image on its way through the transforms.

    image: uint8 (or float32 in [0, 255]) [H, W, C], three in RGB order, current frame.
    info: which image, and its size in the original frame.
    targets: the ground truth in the current frame.
    proposals: float32 [P, 4] xyxy in the current frame and inside it, by falling score; None where the
        data come without.
    mirror: for each keypoint, the one that takes its place in a mirror; None where there are none.
    notes: what is doubtful about its file, for the loader to tell.
    """

    image: Image
    info: ImageInfo
    targets: Targets
    proposals: Tensor | None = None
    mirror: tuple[int, ...] | None = None
    notes: tuple[Note, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the current frame, in pixels."""
        return self.image.shape[0], self.image.shape[1]

    def to_sample(self) -> Sample:
        """As the model takes it: a [C, H, W] tensor, a view of the image's own memory where that is one."""
        image = torch.from_numpy(np.ascontiguousarray(self.image)).permute(2, 0, 1)
        return Sample(image, self.info, self.targets, self.proposals)


@dataclass(frozen=True)
class Batch:
    """Several samples; images keep their own sizes, the model pads them."""

    images: list[Tensor]
    infos: list[ImageInfo]
    targets: list[Targets] | None
    proposals: list[Tensor] | None = None
    #: int64 [N]: of the random draws of each image (``structures.seeds``).
    seeds: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def pin_memory(self) -> Batch:
        return replace(
            self,
            images=[image.pin_memory() for image in self.images],
            targets=None
            if self.targets is None
            else _packed_as([t.pin_memory() for t in self.targets], PackedMasks.pin_memory),
            proposals=None if self.proposals is None else [p.pin_memory() for p in self.proposals],
            seeds=None if self.seeds is None else self.seeds.pin_memory(),
        )

    def to(self, device: torch.device | str) -> Batch:
        """All tensors but masks that are not packed on ``device`` (asynchronously from pinned memory)."""
        targets = self.targets
        if targets is not None:
            packed = _packed_as(targets, lambda masks: masks.to(device))
            targets = [replace(t.to(device), packed=p.packed) for t, p in zip(targets, packed, strict=True)]
        return Batch(
            [image.to(device, non_blocking=True) for image in self.images],
            self.infos,
            targets,
            None if self.proposals is None else [p.to(device, non_blocking=True) for p in self.proposals],
            self.seeds,
        )


def _packed_as(targets: list[Targets], change: Callable[[PackedMasks], PackedMasks]) -> list[Targets]:
    """The targets of a batch with ``change`` of its packed masks, of which there is one set for all."""
    packed = [t.packed for t in targets if t.packed is not None]
    if not packed:
        return targets
    masks = change(packed[0][0])
    return [replace(t, packed=(masks, row)) for t, (_, row) in zip(targets, packed, strict=True)]


def pack_masks(targets: Sequence[Targets], drawn: bool) -> list[Targets]:
    """The targets of a batch with their masks packed: see :meth:`PackedMasks.of`; shapes come again."""
    masks = PackedMasks.of([t.masks for t in targets], drawn=drawn, padded=True)
    return [replace(t, packed=(masks, i * masks.per_image)) for i, t in enumerate(targets)]


def collate(
    samples: list[Sample], seeds: Sequence[int] | None = None, drawn_masks: bool | None = None
) -> Batch:
    """A batch of the samples, in their order; targets and proposals only where every sample has them.

    drawn_masks: pack the masks, for polygons that are drawn inside RoIs (True), or as bitmaps; None: do not.
    """
    targets = [s.targets for s in samples if s.targets is not None]
    if drawn_masks is not None:
        targets = pack_masks(targets, drawn_masks)
    proposals = [s.proposals for s in samples if s.proposals is not None]
    return Batch(
        [s.image for s in samples],
        [s.info for s in samples],
        targets if len(targets) == len(samples) else None,
        proposals if proposals and len(proposals) == len(samples) else None,
        None if seeds is None else torch.tensor(seeds, dtype=torch.int64),
    )


@dataclass(frozen=True)
class Detections:
    """The detections of one image, by falling score.

    boxes: float32 [D, 4] xyxy; frame as the producer says (``predict`` gives the network frame).
    scores: float32 [D] in [0, 1].
    labels: int64 [D], contiguous class index in [0, K).
    mask_probs: float [D, M, M] in [0, 1], each over the extent of its own box, or None.
    keypoints: float [D, J, 3], or None: x, y in the boxes' frame (continuous, pixels), and a score: a logit
        or a probability, as the keypoint head is told (``scores``).
    extras: what further heads add, by their names: [D, ...], in no frame.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    mask_probs: Tensor | None = None
    keypoints: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def to(self, device: torch.device | str) -> Detections:
        return self._each(lambda values: values.to(device))

    def select(self, index: Tensor | slice) -> Detections:
        """The detections that ``index`` (bool [D] or int64, or a range) names."""
        return self._each(lambda values: values[index])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Detections:
        return Detections(
            change(self.boxes),
            change(self.scores),
            change(self.labels),
            None if self.mask_probs is None else change(self.mask_probs),
            None if self.keypoints is None else change(self.keypoints),
            {name: change(values) for name, values in self.extras.items()},
        )

    def rescale(self, from_size: tuple[int, int], to_size: tuple[int, int]) -> Detections:
        """The same detections in a resized frame; sizes are (height, width) in pixels."""
        sy, sx = to_size[0] / from_size[0], to_size[1] / from_size[1]
        boxes = self.boxes * self.boxes.new_tensor([sx, sy, sx, sy])
        if self.keypoints is None:
            return replace(self, boxes=boxes)
        return replace(self, boxes=boxes, keypoints=self.keypoints * self.keypoints.new_tensor([sx, sy, 1]))
