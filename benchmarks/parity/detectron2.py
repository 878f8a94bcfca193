"""Are our detectors the same functions as Detectron2's?  Seeded random weights, in float64.

    python benchmarks/parity/detectron2.py --model fpn --image photo.jpg --size 400
    python benchmarks/parity/detectron2.py --model fpn --small --write tests/modeling/reference/fpn.json

Detectron2's model is built from its own config, its weights are converted, and both run on the same image:
proposals, detections and masks, then losses and gradients with the same anchors and RoIs sampled.
``--write`` keeps Detectron2's numbers for a small model, which
tests/modeling/test_detectron2_parity.py always compares.

Detectron2 is no dependency.  It runs on a CPU without being built: put a checkout (``--checkout`` or
PYTHONPATH) and ``fvcore iopath omegaconf hydra-core yacs cloudpickle portalocker termcolor tabulate`` where
Python finds them.  Without it the script says so and ends with status 0.

Its float32 casts (``Boxes``, ``Tensor.float()``, targets of cross-entropy) are lifted while it runs, so that
float64 shows differences of meaning and not of rounding.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # this file's own folder, first on the path, would hide the real detectron2
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.parity.seeded import first, image, truth, weights
from maskrcnn.convert.detector import Conversion, convert
from maskrcnn.convert.detectron2 import SOURCE
from maskrcnn.convert.source import File
from maskrcnn.modeling import MaskRCNN
from maskrcnn.modeling.preprocess import ImageBatch

#: ``--model`` -> its config.
CONFIGS = {
    "fpn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "c4": "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
    "dc5": "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x.yaml",
    "cascade": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
}
#: The same at small widths, and few RoIs.
SMALL = [
    "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP", 8, "MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 32,
    "MODEL.ROI_MASK_HEAD.CONV_DIM", 16, "MODEL.ROI_HEADS.NUM_CLASSES", 4,
]  # fmt: skip
#: Their keys, ours, and the value: fewer RoIs, for time.
FEWER = (
    ("MODEL.RPN.POST_NMS_TOPK_TEST", ("rpn", "post_nms_test"), 60),
    ("MODEL.RPN.POST_NMS_TOPK_TRAIN", ("rpn", "post_nms_train"), 100),
    ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", ("roi", "samples"), 32),
    ("TEST.DETECTIONS_PER_IMAGE", ("roi", "max_detections"), 20),
)
SMALL_SIZE = (128, 160)
BOUNDS = {"inference": 1e-6, "losses": 1e-9, "gradients": 1e-7}

LOSSES = {
    "loss_rpn_cls": "loss_rpn_cls",
    "loss_rpn_box": "loss_rpn_loc",
    "loss_box_cls": "loss_cls",
    "loss_box_reg": "loss_box_reg",
    "loss_mask": "loss_mask",
}


@contextlib.contextmanager
def double() -> Iterator[None]:
    """Keep float64 where Detectron2 casts to float32."""
    from detectron2.structures import Boxes

    cast, init = Tensor.float, Boxes.__init__

    def keep(self: Any, tensor: Any) -> None:
        tensor = torch.as_tensor(tensor, dtype=torch.float64)
        self.tensor = tensor.reshape(-1, 4)

    def uncast(self: Tensor) -> Tensor:
        return self if self.dtype == torch.float64 else cast(self)

    Tensor.float = uncast  # type: ignore[assignment, method-assign]
    Boxes.__init__ = keep
    cross_entropy = F.binary_cross_entropy_with_logits

    def wide(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        return cross_entropy(logits, target.to(logits.dtype), **options)

    F.binary_cross_entropy_with_logits = wide
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        Tensor.float, Boxes.__init__ = cast, init  # type: ignore[method-assign]
        F.binary_cross_entropy_with_logits = cross_entropy
        torch.set_default_dtype(before)


def their_model(name: str, checkout: Path, small: bool) -> Any:
    """Detectron2's model in float64 with seeded weights."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    cfg = get_cfg()
    cfg.merge_from_file(str(checkout / "configs" / CONFIGS[name]))
    options: list[Any] = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]
    for key, _, value in FEWER:
        options += [key, value]
    cfg.merge_from_list(options + (SMALL if small else []))
    model = build_model(cfg).double().eval()
    shapes = {n: tuple(v.shape) for n, v in model.state_dict().items()}
    model.load_state_dict(weights(shapes))
    return model


def conversion(state: dict[str, Tensor]) -> Conversion:
    return convert(File(state), SOURCE)


def our_model(state: dict[str, Tensor]) -> MaskRCNN:
    """The converted model, with FEWER RoIs too, in float64."""
    result = conversion(state)
    config = result.model
    for _, (part, key), value in FEWER:
        config = replace(config, **{part: replace(getattr(config, part), **{key: value})})
    model = config.build(result.num_classes).double()
    model.load_state_dict(result.state)
    return model.eval()


def their_numbers(model: Any, batch: ImageBatch, seed: int) -> dict[str, Any]:
    """Everything that is compared, out of Detectron2's model; ``batch`` has R, G, B."""
    from detectron2.structures import Boxes, ImageList, Instances, PolygonMasks
    from detectron2.utils.events import EventStorage

    images = ImageList(batch.tensor.flip(1), batch.sizes)
    with torch.no_grad():
        features = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, features, None)
        found, _ = model.roi_heads(images, features, proposals, None)
    numbers: dict[str, Any] = {
        "proposals": proposals[0].proposal_boxes.tensor,
        "boxes": found[0].pred_boxes.tensor,
        "scores": found[0].scores,
        "labels": found[0].pred_classes,
        "masks": found[0].pred_masks[:, 0],
    }
    (height, width), classes = batch.sizes[0], model.roi_heads.num_classes
    wanted = truth(height, width, classes, seed)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(wanted.boxes)
    instances.gt_classes = wanted.labels
    assert wanted.masks is not None
    instances.gt_masks = PolygonMasks(polygons_of(height, width, classes, seed))
    model.train()
    with EventStorage(), _same_samples():
        features = model.backbone(images.tensor)
        proposals, losses = model.proposal_generator(images, features, [instances])
        _, more = model.roi_heads(images, features, proposals, [instances])
    losses = losses | more
    model.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    numbers["losses"] = {name: value.detach() for name, value in losses.items()}
    numbers["gradients"] = {
        n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()
    }
    model.eval()
    return numbers


def polygons_of(height: int, width: int, classes: int, seed: int) -> list[Any]:
    """:func:`seeded.truth`'s masks as Detectron2 takes them."""
    import numpy as np

    wanted = truth(height, width, classes, seed)
    found = []
    for x1, y1, x2, y2 in wanted.boxes.double().tolist():
        w, h = (x2 - x1) / 4, (y2 - y1) / 4
        corners = [(x1 + w, y1), (x2 - w, y1), (x2, y1 + h), (x2, y2 - h)]
        corners += [(x2 - w, y2), (x1 + w, y2), (x1, y2 - h), (x1, y1 + h)]
        found.append([np.array(corners).flatten()])
    return found


@contextlib.contextmanager
def _same_samples() -> Iterator[None]:
    """Detectron2 samples without chance, the first ones."""
    from detectron2.modeling.proposal_generator import rpn
    from detectron2.modeling.roi_heads import roi_heads

    def choose(labels: Tensor, count: int, fraction: float, background: int) -> tuple[Tensor, Tensor]:
        kind = (labels >= 0).long() * torch.where(labels == background, 0, 1) - (labels < 0).long()
        return first(kind, count, fraction)

    kept = rpn.subsample_labels
    rpn.subsample_labels = roi_heads.subsample_labels = choose
    try:
        yield
    finally:
        rpn.subsample_labels = roi_heads.subsample_labels = kept


def our_numbers(model: MaskRCNN, batch: ImageBatch, seed: int) -> dict[str, Any]:
    """The same out of ours; gradients by our names."""
    with torch.no_grad():
        assert model.rpn is not None
        proposals, _ = model.rpn(batch, model.features(batch.tensor))
        found = model.predict_batch(batch)[0]
    numbers: dict[str, Any] = {
        "proposals": proposals[0],
        "boxes": found.boxes,
        "scores": found.scores,
        "labels": found.labels,
        "masks": found.mask_probs,
    }
    model.train()
    model.rpn.sampler = model.roi.sampler = lambda labels, count, fraction, keys: first(
        labels, count, fraction
    )
    (height, width) = batch.sizes[0]
    losses = model.losses_of_batch(batch, [truth(height, width, model.num_classes, seed)])
    model.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    numbers["losses"] = {name: value.detach() for name, value in losses.items()}
    numbers["gradients"] = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    model.eval()
    return numbers


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference; inf where shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    return (ours.double() - theirs.double()).abs().max().item() if ours.numel() else 0.0


def compare(ours: dict[str, Any], theirs: dict[str, Any], state: dict[str, Tensor]) -> dict[str, float]:
    """Worst differences; ``state``: their model's, for the names of gradients."""
    found = {
        key: distance(ours[key], theirs[key]) for key in ("proposals", "boxes", "scores", "labels", "masks")
    }
    for name, value in ours["losses"].items():
        found[name] = distance(value, theirs["losses"][their_loss(name)])
    if len(ours["losses"]) != len(theirs["losses"]):
        found["losses"] = float("inf")
    expected = conversion({**state, **theirs["gradients"]}).state
    found["gradients"] = max(
        ((g - expected[n]).norm() / expected[n].norm().clamp(min=1e-30)).item()
        for n, g in ours["gradients"].items()
    )
    return found


def their_loss(name: str) -> str:
    """Detectron2's name of our loss; a cascade's ends on its stage, from 0 there and from 1 here."""
    base, stage, number = name.partition("_stage")
    return LOSSES[base] + (f"{stage}{int(number) - 1}" if stage else "")


def stored(theirs: dict[str, Any], state: dict[str, Tensor], command: str, version: str) -> dict[str, Any]:
    """Their numbers as a small JSON: masks and gradients by sums, which any change would move."""
    expected = conversion({**state, **theirs["gradients"]}).state
    return {
        "command": command,
        "detectron2": version,
        "shapes": {name: list(value.shape) for name, value in state.items()},
        "size": SMALL_SIZE,
        "fewer": [[*ours, value] for _, ours, value in FEWER],
        **{key: theirs[key].tolist() for key in ("proposals", "boxes", "scores", "labels")},
        "masks": [[m.sum().item(), m.square().sum().item(), m[3, 5].item()] for m in theirs["masks"]],
        "losses": {name: value.item() for name, value in theirs["losses"].items()},
        "gradients": {
            name: [expected[name].norm().item(), expected[name].sum().item()]
            for name in (
                "backbone.layer3.0.conv1.weight",
                "rpn.head.deltas.weight",
                "roi.mask_head.logits.weight",
            )
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=CONFIGS, default="fpn")
    parser.add_argument("--checkout", type=Path, help="a checkout of Detectron2, where it is not installed")
    parser.add_argument("--image", type=Path, help="a photograph; default: smooth noise")
    parser.add_argument("--size", type=int, default=400, help="its shorter side, pixels")
    parser.add_argument("--small", action="store_true", help="small widths and a small seeded image")
    parser.add_argument("--write", type=Path, help="keep Detectron2's numbers (with --small)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.checkout is not None:
        sys.path.insert(0, str(args.checkout))
    try:
        import detectron2
    except ImportError as error:
        print(f"skipped: Detectron2 is not importable ({error}); see the head of this file")
        return 0
    checkout = args.checkout or Path(detectron2.__file__).parents[1]
    if not (checkout / "configs").is_dir():
        print(f"skipped: {checkout} has no configs; give --checkout")
        return 0
    with double():
        theirs = their_model(args.model, checkout, args.small)
        state = theirs.state_dict()
        ours = our_model(state)
        picture = image(*SMALL_SIZE, seed=args.seed)
        if args.image is not None and not args.small:
            picture = photograph(args.image, args.size)
        batch = ours.preprocess([picture])
        their, own = their_numbers(theirs, batch, args.seed), our_numbers(ours, batch, args.seed)
        found = compare(own, their, state)
        counts = ", ".join(f"{len(own[key])} {key}" for key in ("proposals", "boxes", "gradients"))
        print(f"{args.model}, {tuple(batch.tensor.shape)}, seed {args.seed}: {counts}")
        broken = []
        for name, value in found.items():
            bound = BOUNDS.get("losses" if name.startswith("loss") else name, BOUNDS["inference"])
            broken += [name] if not value <= bound else []
            print(f"  {name:12s} {value:.3g}  (bound {bound:g})")
        if args.write is not None:
            command = (
                f"python benchmarks/parity/detectron2.py --model {args.model} --small --write {args.write}"
            )
            args.write.write_text(json.dumps(stored(their, state, command, detectron2.__version__), indent=1))
    print("the same function" if not broken else f"DIFFERENT: {', '.join(broken)}")
    return 1 if broken else 0


def photograph(path: Path, size: int) -> Tensor:
    """An image file as float64 [3, h, w] in 0..255, its shorter side ``size``."""
    from maskrcnn.data.images import read_image

    pixels = torch.from_numpy(read_image(path)).permute(2, 0, 1).double()
    scale = size / min(pixels.shape[1:])
    shape = [round(side * scale) for side in pixels.shape[1:]]
    return torch.nn.functional.interpolate(pixels[None], shape, mode="bilinear", antialias=True)[0]


if __name__ == "__main__":
    sys.exit(main())
