"""Simple copy-paste (Ghiasi et al. 2021): objects of one training image pasted onto another."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from maskrcnn.config import Config
from maskrcnn.config.ranges import Count, Share
from maskrcnn.data.transforms.moving import crop_to, pad_to
from maskrcnn.errors import DataError
from maskrcnn.structures import InstanceMasks, RawSample, Targets, rle

Bitmap = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class CopyPasteConfig(Config):
    """Paste a random subset of another training image's objects, after the transforms of both.

    Ghiasi et al. 2021, section 3, without blending, which they find to make no difference.  Meant to stand
    behind large_scale_jitter (or its narrow form), so that both images have one size; else the other image
    is cut to this one's frame.
    """

    #: Probability that an image is pasted onto, 0 to 1.  Default 1 (ibid.); the subset may still be empty.
    p: Share = 1.0
    #: Most objects pasted, > 0; null: no limit.  Default null (ibid.).
    max_instances: Count | None = None

    def partner(self, images: int, rng: np.random.Generator) -> int | None:
        """Which of ``images`` images to paste from; None to leave this one alone."""
        return int(rng.integers(images)) if rng.random() < self.p else None

    def paste(self, sample: RawSample, other: RawSample, rng: np.random.Generator) -> RawSample:
        """``sample`` with some objects of ``other`` on top.

        The number of objects is drawn evenly from 0 to all (or ``max_instances``), then which they are, as
        in the paper's release.  Masks and boxes of ``sample`` lose what is covered; instances that are
        covered wholly are dropped.  A keypoint under a pasted object counts as hidden.

        Raises:
            DataError: the data have no masks.
        """
        height, width = sample.size
        other = crop_to(other, 0, 0, min(width, other.size[1]), min(height, other.size[0]), min_side=0.0)
        other = pad_to(other, height, width, (0, 0, 0))
        most = len(other.targets) if self.max_instances is None else self.max_instances
        count = int(rng.integers(min(len(other.targets), most) + 1))
        chosen = torch.from_numpy(np.sort(rng.random(len(other.targets)).argsort()[:count]))
        cover, pasted = _stencil(other, other.targets.select(chosen))
        if not len(pasted):
            return sample
        image = np.where(cover[..., None] > 0, other.image, sample.image)
        proposals = sample.proposals
        if proposals is not None and other.proposals is not None:
            proposals = torch.cat((proposals, other.proposals))
        return replace(
            sample, image=image, targets=_join(_uncovered(sample, cover), pasted), proposals=proposals
        )


def _masks(sample: RawSample, targets: Targets) -> InstanceMasks:
    if targets.masks is None:
        raise DataError(
            f"image {sample.info.image_id} has no masks, which data.copy_paste needs; set it to null"
        )
    return targets.masks


def _stencil(sample: RawSample, targets: Targets) -> tuple[Bitmap, Targets]:
    """The pixels of any of the instances, 0/1 [H, W], and those instances that have a pixel."""
    cover = np.zeros(sample.size, dtype=np.uint8)
    masks = _masks(sample, targets)
    seen = torch.zeros(len(masks), dtype=torch.bool)
    for i in range(len(masks)):
        tile, x0, y0 = masks.tile(i)
        cover[y0 : y0 + tile.shape[0], x0 : x0 + tile.shape[1]] |= tile
        seen[i] = bool(tile.any())
    return cover, targets.select(seen)


def _uncovered(sample: RawSample, cover: Bitmap) -> Targets:
    """What is still to be seen of the instances; those that ``cover`` does not touch stay as they are."""
    targets, (height, width) = sample.targets, cover.shape
    masks = _masks(sample, targets)
    boxes = targets.boxes.clone()
    touched: list[int] = []
    codes: list[rle.RLE] = []
    seen = torch.ones(len(targets), dtype=torch.bool)
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        if not cover[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))].any():
            continue
        tile, x0, y0 = masks.tile(i)
        left = (tile > cover[y0 : y0 + tile.shape[0], x0 : x0 + tile.shape[1]]).astype(np.uint8)
        rows, columns = np.flatnonzero(left.any(1)), np.flatnonzero(left.any(0))
        if not len(rows):
            seen[i] = False
        elif not np.array_equal(left, tile):
            touched.append(i)
            codes.append(rle.encode_crop(left, x0, y0, height, width))
            boxes[i] = torch.tensor(
                [x0 + columns[0], y0 + rows[0], x0 + columns[-1] + 1, y0 + rows[-1] + 1], dtype=torch.float32
            )
    keypoints = targets.keypoints
    if keypoints is not None:
        x = keypoints[..., 0].long().clamp(0, width - 1)
        y = keypoints[..., 1].long().clamp(0, height - 1)
        hidden = (torch.from_numpy(cover)[y, x] > 0) & (keypoints[..., 2] == 2)
        keypoints = keypoints.clone()
        keypoints[..., 2][hidden] = 1
    masks = masks.replace(touched, codes)
    return replace(targets, boxes=boxes, masks=masks, keypoints=keypoints).select(seen)


def _join(a: Targets, b: Targets) -> Targets:
    """The instances of both, which share a frame."""
    assert a.masks is not None and b.masks is not None
    return Targets(
        torch.cat((a.boxes, b.boxes)),
        torch.cat((a.labels, b.labels)),
        InstanceMasks.cat([a.masks, b.masks]),
        torch.cat((a.annotation_ids, b.annotation_ids)),
        None if a.keypoints is None or b.keypoints is None else torch.cat((a.keypoints, b.keypoints)),
    )
