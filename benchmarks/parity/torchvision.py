"""Are our detectors the same functions as torchvision's?  Seeded random weights, real images, by stages.

    python benchmarks/parity/torchvision.py --model mask_v2 --images ../shared/data/coco/val2017 --limit 1

converts torchvision's model, and prints the worst difference of every stage: in float64 end to end, in
float32 with each stage fed torchvision's input, and of losses and gradients in float64 with the same anchors
and RoIs sampled.  Exit status 1 where a bound of BOUNDS is broken; ``--json FILE`` keeps the numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # this file's own folder, first on the path, would hide the real torchvision
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from benchmarks.parity.torchvision_models import MODELS as MODELS
from benchmarks.parity.torchvision_models import conversion as conversion
from benchmarks.parity.torchvision_models import image_batch, our_model, their_model
from maskrcnn.modeling import MaskRCNN
from maskrcnn.modeling.preprocess import ImageBatch
from maskrcnn.modeling.roi.decode import own_class, select_detections
from maskrcnn.modeling.roi.pooler import to_rois
from maskrcnn.modeling.roi.rois import FoundRoIs
from maskrcnn.modeling.rpn.decode import select_proposals
from maskrcnn.structures import Detections, InstanceMasks, Targets

ROOT = Path(__file__).resolve().parents[2]

#: Largest differences allowed: absolute in float64, in parts of the maximum in float32.
BOUNDS = {"float64": 1e-6, "float32": 1e-4, "losses": 1e-9, "gradients": 1e-7}


def worst(ours: Sequence[Tensor], theirs: Sequence[Tensor], *, relative: bool = False) -> float:
    """Largest difference over pairs of tensors (in parts of the maximum); inf where shapes differ."""
    difference, largest = 0.0, 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if b.numel():
            difference = max(difference, (a.double() - b.double()).abs().max().item())
            largest = max(largest, b.double().abs().max().item())
    return difference / largest if relative and largest else difference


@torch.no_grad()
def compare_float64(ours: MaskRCNN, theirs: Any, batch: ImageBatch) -> dict[str, float]:
    """Both models from the same tensor to the end, in float64; worst absolute differences and counts."""
    ours, theirs = ours.double().eval(), theirs.double().eval()
    batch = ImageBatch(batch.tensor.double(), batch.sizes)
    features = theirs.backbone(batch.tensor)
    proposals, _ = theirs.rpn(ImageList(batch.tensor, batch.sizes), features)
    with _double_keypoints():
        detections, _ = theirs.roi_heads(features, proposals, batch.sizes)
    own_features = ours.features(batch.tensor)
    own_proposals, _ = ours.rpn(batch, own_features)
    own = ours.predict_batch(batch)
    return {
        "features": worst(list(own_features.values()), list(features.values())),
        "proposals": worst(own_proposals, proposals),
        "boxes": worst([d.boxes for d in own], [d["boxes"] for d in detections]),
        "scores": worst([d.scores for d in own], [d["scores"] for d in detections]),
        "labels": worst([d.labels for d in own], [d["labels"] - 1 for d in detections]),
        **_shapes(own, detections),
        "detections an image": sum(len(d) for d in own) / len(own),
        "proposals an image": sum(len(p) for p in own_proposals) / len(own),
    }


@contextlib.contextmanager
def _double_keypoints() -> Iterator[None]:
    """torchvision computes keypoints' places in float32, where 1e-5 pixels are lost; here in float64."""
    zeros, cast = torch.zeros, Tensor.float

    def wide(*size: Any, dtype: Any = None, **options: Any) -> Tensor:
        return zeros(*size, dtype=torch.float64 if dtype == torch.float32 else dtype, **options)

    torch.zeros, Tensor.float = wide, Tensor.double  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        torch.zeros, Tensor.float = zeros, cast  # type: ignore[method-assign]


def _shapes(own: Sequence[Detections], theirs: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """Worst differences of masks and keypoints, where there are any."""
    found = {}
    if "masks" in theirs[0]:
        masks = [d.mask_probs for d in own if d.mask_probs is not None]
        found["masks"] = worst(masks, [d["masks"][:, 0] for d in theirs])
    if "keypoints" in theirs[0]:
        points = [d.keypoints for d in own if d.keypoints is not None]
        found["keypoints"] = worst([p[..., :2] for p in points], [d["keypoints"][..., :2] for d in theirs])
        found["keypoint scores"] = worst([p[..., 2] for p in points], [d["keypoints_scores"] for d in theirs])
    return found


def untied(boxes: Tensor, scores: Tensor) -> Tensor:
    """Boxes [P, 4] by falling scores [P], those of one score by their coordinates."""
    columns = (-scores, *boxes.unbind(1))
    return boxes[np.lexsort([column.numpy() for column in reversed(columns)])]


@torch.no_grad()
def compare_float32(ours: MaskRCNN, theirs: Any, batch: ImageBatch) -> dict[str, float]:
    """Each stage of ours in float32 on torchvision's input to it; differences in parts of the maximum."""
    ours, theirs = ours.float().eval(), theirs.float().eval()
    tensor, sizes, found = batch.tensor, batch.sizes, {}

    def stage(name: str, own: Sequence[Tensor], their: Sequence[Tensor]) -> None:
        found[name] = worst(own, their, relative=True)

    body = theirs.backbone.body(tensor)
    stage("backbone", list(ours.backbone(tensor).values()), list(body.values()))
    features = theirs.backbone.fpn(body)
    assert ours.neck is not None
    stage(
        "fpn",
        list(ours.neck(dict(zip(("c2", "c3", "c4", "c5"), body.values(), strict=True))).values()),
        list(features.values()),
    )
    named = dict(zip(ours.neck.strides, features.values(), strict=True))
    levels = list(named.values())
    logits, deltas = theirs.rpn.head(levels)
    logits = [x.permute(0, 2, 3, 1).flatten(1) for x in logits]
    deltas = [x.permute(0, 2, 3, 1).reshape(len(x), -1, 4) for x in deltas]
    own_logits, own_deltas = ours.rpn.head(levels)
    stage("rpn objectness", own_logits, logits)
    stage("rpn deltas", own_deltas, deltas)
    images = ImageList(tensor, sizes)
    anchors = ours.rpn.anchors(levels, batch.padded_size, tensor.dtype)
    stage("anchors", [torch.cat(anchors)], [theirs.rpn.anchor_generator(images, levels)[0]])
    proposals, _ = theirs.rpn(images, features)
    c = ours.rpn
    chosen = select_proposals(
        anchors, logits, deltas, batch.extents,
        pre_nms=c.pre_nms_test, post_nms=c.post_nms_test, nms_threshold=c.nms_threshold, min_size=c.min_size,
        rank_by=c.rank_by,
    )  # fmt: skip
    # torchvision sorts with an algorithm that leaves the order of equal scores open.
    scores = [chosen.scores_of(i) for i in range(len(chosen))]
    own, their = ([untied(*pair) for pair in zip(b, scores, strict=True)] for b in (chosen, proposals))
    stage("proposals", own, their)
    pooled = theirs.roi_heads.box_roi_pool(features, proposals, sizes)
    stage("box pooler", [ours.roi.box_pooler(named, proposals)], [pooled])
    class_logits, box_deltas = theirs.roi_heads.box_predictor(theirs.roi_heads.box_head(pooled))
    head_logits, head_deltas = ours.roi.box_head(pooled)
    background_last = torch.cat((class_logits[:, 1:], class_logits[:, :1]), dim=1)
    stage("class logits", [head_logits], [background_last])
    stage("box deltas", [head_deltas], [box_deltas[:, 4:]])
    boxes, scores, labels = theirs.roi_heads.postprocess_detections(
        class_logits, box_deltas, proposals, sizes
    )
    r = ours.roi
    probabilities = background_last.softmax(dim=1)[:, :-1]
    rows = select_detections(
        probabilities, box_deltas[:, 4:], to_rois(proposals), torch.tensor(sizes).to(boxes[0]),
        weights=r.stage_weights[0], score_threshold=r.score_threshold, nms_threshold=r.nms_threshold,
        max_detections=r.max_detections, min_size=r.min_size,
    )  # fmt: skip
    detections = FoundRoIs(len(sizes), rows, {}, {})
    stage("boxes", [d.boxes for d in detections], boxes)
    stage("scores", [d.scores for d in detections], scores)
    stage("labels", [d.labels for d in detections], [x - 1 for x in labels])
    if ours.roi.mask_head is not None:
        pooled = theirs.roi_heads.mask_roi_pool(features, boxes, sizes)
        stage("mask pooler", [ours.roi.mask_head.pooler(named, boxes)], [pooled])
        mask_logits = theirs.roi_heads.mask_predictor(theirs.roi_heads.mask_head(pooled))
        stage("mask logits", [ours.roi.mask_head(pooled)], [mask_logits[:, 1:]])
        all_labels = torch.cat(labels)
        own_masks = ours.roi.mask_head.probabilities(mask_logits[:, 1:], all_labels - 1)
        stage("masks", [own_masks], [own_class(mask_logits, all_labels).sigmoid()])
    if ours.roi.keypoint_head is not None:
        pooled = theirs.roi_heads.keypoint_roi_pool(features, boxes, sizes)
        stage("keypoint pooler", [ours.roi.keypoint_head.pooler(named, boxes)], [pooled])
        maps = theirs.roi_heads.keypoint_predictor(theirs.roi_heads.keypoint_head(pooled))
        stage("heat maps", [ours.roi.keypoint_head(pooled)], [maps])
    return found


def random_truth(sizes: Sequence[tuple[int, int]], classes: int, joints: int, seed: int) -> list[Targets]:
    """A few rectangles with polygon masks and keypoints in every image, corners at whole pixels."""
    generator = torch.Generator().manual_seed(seed)
    targets = []
    for height, width in sizes:
        low = torch.rand(5, 2, generator=generator) * torch.tensor([width, height]) * 0.5
        side = 24 + torch.rand(5, 2, generator=generator) * torch.tensor([width, height]) * 0.3
        limit = torch.tensor([width, height, width, height])
        boxes = torch.minimum(torch.cat((low, low + side), dim=1).round(), limit).float()
        polygons = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes.tolist()]
        labels = torch.randint(0, classes, (5,), generator=generator)
        masks = InstanceMasks.from_coco(polygons, height, width)
        place = (
            boxes[:, None, :2]
            + torch.rand(5, joints, 2, generator=generator) * (boxes[:, 2:] - boxes[:, :2])[:, None]
        )
        seen = torch.randint(0, 3, (5, joints, 1), generator=generator)
        targets.append(Targets(boxes, labels, masks, torch.arange(5), keypoints=torch.cat((place, seen), 2)))
    return targets


def first_sampler(
    labels: Tensor, count: int, fraction: float, keys: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A sampler without chance: the first positives and the first negatives."""
    positive, negative = (labels > 0).nonzero()[:, 0], (labels == 0).nonzero()[:, 0]
    positive = positive[: int(count * fraction)]
    return positive, negative[: count - len(positive)]


class _FirstSampler:
    """:func:`first_sampler` in the shape torchvision calls: labels of every image -> two lists of masks."""

    def __init__(self, count: int, fraction: float) -> None:
        self.count, self.fraction = count, fraction

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        masks: tuple[list[Tensor], list[Tensor]] = ([], [])
        for image in labels:
            for index, out in zip(first_sampler(image, self.count, self.fraction), masks, strict=True):
                mask = torch.zeros_like(image, dtype=torch.uint8)
                mask[index] = 1
                out.append(mask)
        return masks


LOSSES = {
    "loss_rpn_cls": "loss_objectness",
    "loss_rpn_box": "loss_rpn_box_reg",
    "loss_box_cls": "loss_classifier",
    "loss_box_reg": "loss_box_reg",
    "loss_mask": "loss_mask",
    "loss_keypoint": "loss_keypoint",
}


def compare_training(ours: MaskRCNN, theirs: Any, batch: ImageBatch, seed: int) -> dict[str, float]:
    """Losses and gradients in float64, the samplers of both replaced by one without chance.

    Gradients: norm of the difference over norm, of each parameter as our names have it; the worst of them.
    A gradient that is 0 but for rounding (a bias before a softmax over places) counts as 1e-10 of the others.
    """
    ours, theirs = ours.double().train(), theirs.double().train()
    batch = ImageBatch(batch.tensor.double(), batch.sizes)
    head = ours.roi.keypoint_head
    targets = random_truth(batch.sizes, ours.num_classes, 1 if head is None else head.num_keypoints, seed)
    assert ours.rpn is not None
    ours.rpn.sampler = ours.roi.sampler = first_sampler
    rpn, roi = ours.rpn, ours.roi
    theirs.rpn.fg_bg_sampler = _FirstSampler(rpn.samples, rpn.positive_fraction)
    theirs.roi_heads.fg_bg_sampler = _FirstSampler(roi.samples, roi.positive_fraction)
    assign = type(theirs.rpn).assign_targets_to_anchors

    def assign_double(
        anchors: list[Tensor], truth: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        labels, boxes = assign(theirs.rpn, anchors, truth)
        return [x.double() for x in labels], boxes  # theirs are float32, and so then is their whole loss

    theirs.rpn.assign_targets_to_anchors = assign_double
    their_targets = [
        {
            "boxes": t.boxes.double(),
            "labels": t.labels + 1,
            "masks": torch.as_tensor(t.masks.to_bitmaps(*size)),
            "keypoints": t.keypoints.float(),
        }
        for t, size in zip(targets, batch.sizes, strict=True)
        if t.masks is not None and t.keypoints is not None
    ]
    features = theirs.backbone(batch.tensor)
    proposals, losses = theirs.rpn(ImageList(batch.tensor, batch.sizes), features, their_targets)
    losses = losses | theirs.roi_heads(features, proposals, batch.sizes, their_targets)[1]
    own = ours.losses_of_batch(batch, targets)
    if set(own) != {name for name, their in LOSSES.items() if their in losses}:
        return {"losses": float("inf")}
    found = {name: abs(own[name].item() - losses[LOSSES[name]].item()) for name in own}
    for model, terms in ((theirs, losses), (ours, own)):
        model.zero_grad()
        sum(terms.values(), torch.zeros((), dtype=torch.float64)).backward()
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in theirs.named_parameters()}
    expected = conversion({**theirs.state_dict(), **gradients}).state
    compared = {n: p.grad for n, p in ours.named_parameters() if p.requires_grad}
    least = 1e-10 * max(expected[n].norm().item() for n in compared)
    found["gradients"] = max(
        float("inf") if g is None else ((g - expected[n]).norm() / expected[n].norm().clamp(min=least)).item()
        for n, g in compared.items()
    )
    found["parameters compared"] = len(compared)
    return found


def load_images(folder: Path, limit: int, size: int) -> list[Tensor]:
    """The first ``limit`` images as RGB [3, h, w] in 0..255, shorter side ``size``."""
    images = []
    for path in sorted(folder.glob("*.jpg"))[:limit]:
        image = torchvision.io.read_image(str(path), torchvision.io.ImageReadMode.RGB).float()
        scale = size / min(image.shape[1:])
        shape = [round(side * scale) for side in image.shape[1:]]
        images.append(nn.functional.interpolate(image[None], shape, mode="bilinear", antialias=True)[0])
    return images


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=MODELS, default="mask_v1")
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--images", type=Path, default=ROOT.parent / "shared/data/coco/val2017")
    parser.add_argument("--limit", type=int, default=2)
    parser.add_argument("--size", type=int, default=800, help="shorter side, pixels")
    parser.add_argument("--labels", type=int, help="classes, background included; default 91, keypoints 2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="append the numbers to this file, a line a model")
    args = parser.parse_args()
    labels = args.labels or (2 if args.model == "keypoint_v1" else 91)
    images = load_images(args.images, args.limit, args.size)
    if not images:
        print(f"no images in {args.images}: nothing was compared")
        return 0
    batch = image_batch(images)
    theirs = their_model(args.model, args.depth, labels, batch.tensor, args.seed)
    ours = our_model(theirs)
    what = f"{args.model}, ResNet-{args.depth}-FPN"
    print(f"{what}, {len(images)} images padded to {batch.padded_size}, seed {args.seed}")
    broken = []
    numbers: dict[str, Any] = {"model": args.model, "depth": args.depth, "images": len(images)}
    steps: list[tuple[str, Callable[[], dict[str, float]]]] = [
        ("float32", lambda: compare_float32(ours, theirs, batch)),
        ("float64", lambda: compare_float64(ours, theirs, batch)),
        ("losses", lambda: compare_training(ours, theirs, batch, args.seed)),
    ]
    for kind, compare in steps:
        print(kind)
        numbers[kind] = compare()
        for name, value in numbers[kind].items():
            informative = " " in name and name.split()[-1] in ("image", "compared")
            bound = BOUNDS["gradients" if name == "gradients" else kind]
            broken += [name] if value > bound and not informative else []
            print(f"  {name:20s} {value:.3g}" + ("" if informative else f"  (bound {bound:g})"))
    if args.json:
        with args.json.open("a") as file:
            file.write(json.dumps(numbers) + "\n")
    print("the same function" if not broken else f"DIFFERENT: {', '.join(broken)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
