"""Pictures of instances: translucent masks, anti-aliased outlines, keypoints, labels; with OpenCV alone.

All images are uint8 [H, W, 3] in RGB order, all boxes xyxy in the pixels of the image they are drawn on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from maskrcnn.inference.paste import Paste, encode_masks
from maskrcnn.inference.records import Result
from maskrcnn.structures import Detections, Targets
from maskrcnn.viz.labels import Image, Label, Rect, draw_inside, draw_labels
from maskrcnn.viz.palette import Colour, class_colour, instance_colour, shade
from maskrcnn.viz.skeletons import draw_skeleton, sure
from maskrcnn.viz.strokes import Outline, corners, fill, line_width, outline_of, stroke

Mask = Mapping[str, Any] | npt.NDArray[Any]
ColourBy = Literal["auto", "class", "instance"]
#: Pictures smaller than this (longer side, pixels) are enlarged by a whole number, so that text fits.
SMALLEST = 640
#: And by no more than this.
MOST_ENLARGED = 8


def draw_instances(
    image: npt.NDArray[Any],
    boxes: npt.NDArray[Any] | Tensor | None,
    masks: Sequence[Mask] | None,
    labels: Sequence[int] | Tensor,
    names: Sequence[str],
    scores: Sequence[float] | Tensor | None = None,
    *,
    colour_by: ColourBy = "auto",
    colours: Sequence[Colour] | None = None,
    dashed: Sequence[bool] | None = None,
    alpha: float = 0.35,
    show_outlines: bool = True,
    show_boxes: bool | None = None,
    show_labels: bool = True,
    show_scores: bool = True,
    numbers: bool | Sequence[int] = False,
    contrast: bool = False,
    smallest: int = SMALLEST,
    keypoints: npt.NDArray[Any] | Tensor | None = None,
    skeleton: Sequence[tuple[int, int]] | None = None,
) -> Image:
    """Draw N instances over an image.

    Args:
        image: uint8 [H, W, 3] RGB (or [H, W] gray); not modified.
        boxes: [N, 4] xyxy in pixels, or None to take the masks' own.
        masks: N compressed COCO RLEs of [H, W], or N bitmaps [H, W], or None.
        labels: N contiguous class indices.
        names: name of each class; an index beyond them is written as a number.
        scores: N numbers in [0, 1], written behind the name; higher ones are labelled first; one below 0 is
            not written.
        colour_by: "class", "instance" (by its place among the N), or "auto": by instance where there is only
            one class.
        colours: N colours in place of those.
        dashed: which of the N are no more than a dashed outline.
        alpha: opacity of the fill in [0, 1].
        show_outlines: stroke the masks' outlines.
        show_boxes: also draw the boxes; None: only where there are no masks.
        show_labels: write names and scores, those for which there is room.
        show_scores: with the names.
        numbers: write into each instance its number, or one given for each: True: from 1 on.
        contrast: show the picture from its percentile 0.5 to 99.5 as black to white.
        smallest: longer side in pixels below which the picture is enlarged; 0 keeps the size.
        keypoints: [N, J, 3], x, y in pixels, drawn where the third number is above 0; or None.
        skeleton: pairs of keypoints to join; None: COCO's for 17 keypoints, else none.

    Returns:
        uint8 [k * H, k * W, 3] with a whole number k >= 1, the enlargement.
    """
    canvas = stretched(as_rgb(image)) if contrast else as_rgb(image)
    height, width = canvas.shape[:2]
    classes = [int(label) for label in labels]
    confidence = None if scores is None else [float(score) for score in scores]
    factor = enlargement(height, width, smallest)
    if factor > 1:
        size = (width * factor, height * factor)
        canvas = np.asarray(cv2.resize(canvas, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    windows = None if masks is None else [mask_window(mask) for mask in masks]
    frames = _frames(boxes, windows, factor)
    colours = _colours(classes, len(names), colour_by) if colours is None else colours
    area = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in frames]
    order = sorted(range(len(frames)), key=lambda i: -area[i])  # small ones on top
    lines: list[Outline] = []
    for i in order:
        thick = line_width(frames[i], canvas.shape[0], canvas.shape[1])
        dash = dashed is not None and dashed[i]
        if windows is not None:
            outline = outline_of(*windows[i], factor)
            fill(canvas, outline, colours[i], 0 if dash else alpha)
            lines += [Outline(outline, colours[i], thick, dash)] if show_outlines or dash else []
        if masks is None if show_boxes is None else show_boxes:
            lines.append(Outline([corners(frames[i])], colours[i], thick, dash))
    stroke(canvas, lines)
    if keypoints is not None:
        thick = max(1, round(max(canvas.shape[:2]) / 500))
        for i in order:
            draw_skeleton(canvas, np.asarray(keypoints[i]), skeleton, colours[i], thick, factor)
    tags = [""] * len(frames)
    if show_labels:
        tags = _texts(classes, names, confidence if show_scores else None)
    inside: list[Rect | None] = []
    if not isinstance(numbers, bool) or numbers:
        written = [str(n) for n in (range(1, len(frames) + 1) if isinstance(numbers, bool) else numbers)]
        inside = draw_inside(
            canvas, written, frames if windows is None else _middles(windows, frames, factor)
        )
        tags = [t if there else f"{n} {t}".strip() for n, t, there in zip(written, tags, inside, strict=True)]
    first = sorted(order, key=lambda i: 0 if confidence is None else -confidence[i])
    tagged = [Label(tags[i], frames[i], colours[i]) for i in first if tags[i]]
    draw_labels(canvas, tagged, around=[*frames, *(place for place in inside if place)])
    return canvas


def draw_records(
    image: npt.NDArray[Any],
    records: Sequence[Result],
    labels: Sequence[int],
    names: Sequence[str],
    **style: Any,
) -> Image:
    """Draw COCO's records of results: their masks, and where not all have one their boxes.

    Args:
        image: uint8 [H, W, 3] RGB (or [H, W] gray), which the records are of.
        labels: contiguous class index of each record.
        names: name of each class.
        style: further arguments of :func:`draw_instances`.
    """
    masks = [r["segmentation"] for r in records] if all("segmentation" in r for r in records) else None
    boxes = None
    if masks is None:
        boxes = np.array([r["bbox"] for r in records])
        boxes[:, 2:] += boxes[:, :2]
    return draw_instances(image, boxes, masks, labels, names, [r["score"] for r in records], **style)


def draw_detections(
    image: npt.NDArray[Any] | Tensor,
    instances: Detections | Targets,
    names: Sequence[str],
    *,
    min_score: float = 0.5,
    most: int = 100,
    paste: Paste = "aligned",
    **style: Any,
) -> Image:
    """Draw detections or ground truth that are in the frame of ``image``.

    Args:
        image: uint8 [H, W, 3] RGB, or a tensor [C, H, W]; see :func:`as_rgb`.
        instances: in that frame.
        names: name of each class.
        min_score, most: of detections, only the best ``most`` of at least ``min_score`` are drawn.
        paste: how mask probabilities are pasted, see ``inference.paste``.
        style: further arguments of :func:`draw_instances`, but keypoints: those of ``instances`` are drawn.
    """
    picture = image.detach().cpu().permute(1, 2, 0).numpy() if isinstance(image, Tensor) else image
    height, width = picture.shape[:2]
    if isinstance(instances, Targets):
        masks: Sequence[Mask] | None = None
        if instances.masks is not None:
            masks = instances.masks.to_rles(height, width)
        style["keypoints"] = instances.keypoints
        return draw_instances(picture, instances.boxes, masks, instances.labels, names, **style)
    best = instances.to("cpu")
    best = best.select(torch.argsort(best.scores, descending=True, stable=True)[:most])
    best = best.select(best.scores >= min_score)
    rles = None
    if best.mask_probs is not None:
        rles = encode_masks(best.mask_probs, best.boxes, height, width, paste)
    style["keypoints"] = None if best.keypoints is None else sure(best.keypoints)
    return draw_instances(picture, best.boxes, rles, best.labels, names, best.scores, **style)


def as_rgb(image: npt.NDArray[Any]) -> Image:
    """A new uint8 [H, W, 3] array from RGB or gray, values clipped to 0..255.

    Of other numbers of channels the first three are shown, each from its percentile 1 to 99.8; of two the
    second as green.

    Raises:
        ValueError: the array has another shape.
    """
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3:
        raise ValueError(f"an image is [H, W, C] or [H, W], got {image.shape}")
    if image.shape[2] not in (1, 3):
        shown = image[..., :3].astype(np.float32)
        low, high = np.percentile(shown, (1, 99.8), axis=(0, 1))
        shown = (shown - low) * (255 / np.maximum(high - low, 1e-6))
        image = np.concatenate((shown, np.zeros((*shown.shape[:2], 3 - shown.shape[2]))), axis=2)
    if image.dtype != np.uint8:
        image = np.clip(np.rint(image.astype(np.float64)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image.copy())


def stretched(image: Image) -> Image:
    """The picture with its percentile 0.5 black and 99.5 white, of all channels together: hues stay."""
    low, high = np.percentile(image, (0.5, 99.5))
    values = (image.astype(np.float32) - np.float32(low)) * np.float32(255 / max(high - low, 1))
    return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)


def enlargement(height: int, width: int, smallest: int) -> int:
    """The whole number by which a picture of this size is enlarged."""
    if not smallest or not height or not width:
        return 1
    return min(max(1, math.ceil(smallest / max(height, width))), MOST_ENLARGED)


def mask_window(mask: Mask) -> tuple[Image, int, int]:
    """The part of a mask that is not empty, as 0/255 [h, w], and the pixel (x, y) of its corner."""
    if isinstance(mask, Mapping):
        x, y, w, h = (int(v) for v in coco_mask.toBbox(mask))
        bitmap = np.asarray(coco_mask.decode(mask))[y : y + h, x : x + w]
    else:
        bitmap = np.asarray(mask) > 0
        x, y, w, h = cv2.boundingRect(bitmap.astype(np.uint8))
        bitmap = bitmap[y : y + h, x : x + w]
    return (bitmap > 0).astype(np.uint8) * 255, x, y


def _frames(
    boxes: npt.NDArray[Any] | Tensor | None, windows: Sequence[tuple[Image, int, int]] | None, factor: int
) -> list[Rect]:
    """Integer boxes in the picture; the masks' own where none are given."""
    if boxes is None:
        found = [(x, y, x + w.shape[1], y + w.shape[0]) for w, x, y in windows or []]
        return [(x1 * factor, y1 * factor, x2 * factor, y2 * factor) for x1, y1, x2, y2 in found]
    values = boxes.detach().cpu().numpy() if isinstance(boxes, Tensor) else np.asarray(boxes)
    rounded = np.rint(values.reshape(-1, 4) * factor).astype(int).tolist()
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in rounded]


def _colours(classes: Sequence[int], known: int, colour_by: ColourBy) -> list[Colour]:
    if colour_by == "instance" or (colour_by == "auto" and known <= 1):
        return [instance_colour(i) for i in range(len(classes))]
    counts: dict[int, int] = {}
    out = []
    for label in classes:
        number = counts.get(label, 0)
        counts[label] = number + 1
        out.append(shade(class_colour(label), number))
    return out


def _texts(classes: Sequence[int], names: Sequence[str], scores: Sequence[float] | None) -> list[str]:
    """What to write at each instance; a name that all share is left out beside a score."""
    out = []
    for i, label in enumerate(classes):
        name = names[label] if 0 <= label < len(names) else str(label)
        if len(names) == 1:
            name = ""
        score = "" if scores is None or scores[i] < 0 else f"{scores[i]:.2f}"
        out.append(f"{name} {score}".strip())
    return out


def _middles(windows: Sequence[tuple[Image, int, int]], frames: Sequence[Rect], factor: int) -> list[Rect]:
    """Of each mask the square about the middle of its thickest part, in the picture; of none its frame."""
    out = []
    for (window, x, y), frame in zip(windows, frames, strict=True):
        if not window.size:
            out.append(frame)
            continue
        padded = cv2.copyMakeBorder(window, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=[0])
        _, most, _, (column, row) = cv2.minMaxLoc(cv2.distanceTransform(padded, cv2.DIST_L2, 3))
        left, top = (x + column - 0.5 - most) * factor, (y + row - 0.5 - most) * factor
        side = 2 * most * factor
        out.append((round(left), round(top), round(left + side), round(top + side)))
    return out
