"""Ground truth and proposals of a batch in tensors of one shape, which may come from a short list.

Legend: N = images, G = room for instances an image, P = room for proposals, J = keypoints an instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from maskrcnn.structures.boxes import unit_box
from maskrcnn.structures.masks import InstanceMasks
from maskrcnn.structures.packed_masks import PackedMasks
from maskrcnn.structures.samples import Targets


@dataclass(frozen=True, eq=False)
class PaddedTargets:
    """The ground truth of a batch, in the network frame; what stands where ``real`` is False means nothing.

    boxes: float32 [N, G, 4] xyxy; (0, 0, 1, 1) where there is no instance.
    labels: int64 [N, G].
    real: bool [N, G]; those of an image come first.
    masks: of every image, on the CPU; None where an image with instances has none.
    keypoints: float32 [N, G, J, 3] as in :class:`Targets`; None where an image with instances has none.
        J is 0 where there is no instance at all.
    packing: the masks, packed, on the boxes' device; None: not packed.
    """

    boxes: Tensor
    labels: Tensor
    real: Tensor
    masks: tuple[InstanceMasks | None, ...] | None
    keypoints: Tensor | None
    packing: PackedMasks | None = None

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def packed(self, *, drawn: bool) -> PackedMasks | None:
        """The masks on the boxes' device, packed now where they are not: see :meth:`PackedMasks.of`."""
        if self.masks is None:
            return None
        if self.packing is not None and self.packing.drawn == drawn:
            return self.packing
        return PackedMasks.of(self.masks, drawn=drawn, padded=True).to(self.boxes.device)


def pad_targets(targets: Sequence[Targets] | PaddedTargets, *, static: bool = False) -> PaddedTargets:
    """``targets`` of every image as [N, G, ...], where they are; nothing is waited for.

    G is what the batch needs, at least 1; where ``static``, the next of :func:`bucket`.

    Raises:
        ValueError: the instances have different numbers of keypoints.
    """
    if isinstance(targets, PaddedTargets):
        return targets
    boxes, images, most = targets[0].boxes, len(targets), max(map(len, targets))
    room = bucket(most) if static else max(most, 1)
    some = [t for t in targets if len(t)]
    joints = {t.keypoints.shape[1] for t in some if t.keypoints is not None}
    if len(joints) > 1:
        raise ValueError(f"the instances of a batch have different numbers of keypoints: {joints}")
    without = any(t.keypoints is None for t in some)
    packings = {id(t.packed and t.packed[0]): t.packed and t.packed[0] for t in targets}
    padded = PaddedTargets(
        unit_box(boxes).expand(images, room, 4).clone(),
        targets[0].labels.new_zeros(images, room),
        torch.zeros(images, room, dtype=torch.bool, device=boxes.device),
        None if any(t.masks is None for t in some) else tuple(t.masks for t in targets),
        None if without else boxes.new_zeros(images, room, max(joints, default=0), 3),
        packings.popitem()[1] if len(packings) == 1 else None,
    )
    for i, target in enumerate(targets):
        count = len(target)
        padded.boxes[i, :count] = target.boxes
        padded.labels[i, :count] = target.labels
        padded.real[i, :count] = True
        if padded.keypoints is not None and target.keypoints is not None and count:
            padded.keypoints[i, :count] = target.keypoints
    return padded


@dataclass(frozen=True, eq=False)
class Proposals(Sequence[Tensor]):
    """The proposals of a batch, network frame; as a sequence, the real boxes [Pi, 4] of every image.

    boxes: [N, P, 4] xyxy; (0, 0, 1, 1) where there is none.
    real: bool [N, P]; those of an image come first.
    scores: [N, P] in [0, 1], falling, or None where they are not known.
    """

    boxes: Tensor
    real: Tensor
    scores: Tensor | None = None

    def __len__(self) -> int:
        return self.boxes.shape[0]

    @overload
    def __getitem__(self, image: int) -> Tensor: ...
    @overload
    def __getitem__(self, image: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, image: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(image, slice):
            return [self[i] for i in range(*image.indices(len(self)))]
        return self.boxes[image][self.real[image]]

    def scores_of(self, image: int) -> Tensor:
        """[Pi] in [0, 1], of the boxes of one image."""
        assert self.scores is not None
        return self.scores[image][self.real[image]]


def pad_proposals(boxes: Sequence[Tensor] | Proposals, *, static: bool = False) -> Proposals:
    """Boxes [Pi, 4] of every image -> [N, P, 4]; where ``static``, P is the next of :func:`bucket`."""
    if isinstance(boxes, Proposals):
        return boxes
    most = max(map(len, boxes))
    room = bucket(most) if static else most
    padded = unit_box(boxes[0]).expand(len(boxes), room, 4).clone()
    real = torch.zeros(len(boxes), room, dtype=torch.bool, device=padded.device)
    for i, of_image in enumerate(boxes):
        padded[i, : len(of_image)], real[i, : len(of_image)] = of_image, True
    return Proposals(padded, real)


def bucket(count: int) -> int:
    """The least power of two, or one and a half times one, that holds ``count``; at least 8.

    So a short list of sizes serves every batch, and at most a third of the room is empty.
    """
    size = 8
    while size < count:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return size
