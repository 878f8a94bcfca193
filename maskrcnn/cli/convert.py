"""``maskrcnn convert``: another framework's weights as a checkpoint of ours."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

HELP = "take over weights from other frameworks"

# Published version-1 detectors, by the first digits of the file's SHA-256 (which their names carry too):
# Mask, Faster and Keypoint R-CNN R50-FPN.  torchvision runs these with a batch-norm epsilon of 0.
_EPSILON_ZERO = ("bf2d0c1e", "258fb6c6", "fc266e95", "9f466800")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("--from", dest="source", choices=("torchvision",), required=True, help="their maker")
    parser.add_argument("input", metavar="IN", type=Path, help="the file with their state dict (.pth)")
    parser.add_argument("output", metavar="OUT", type=Path, help="the checkpoint to write")
    parser.add_argument(
        "--classes",
        choices=("auto", "all", "coco80"),
        default="auto",
        help="all: every class of the file; coco80: COCO's 80 of torchvision's 90; auto: coco80 where the"
        " file has 90 classes, else all",
    )
    parser.add_argument(
        "--bn-eps",
        type=float,
        help="epsilon that the file's batch normalisation was used with (default: 1e-5, and 0 for the"
        " published version-1 detectors, which are known by their checksum)",
    )
    parser.add_argument(
        "--keep-batch-counts", action="store_true", help="for a model with norm: bn instead of frozen_bn"
    )
    parser.add_argument("--verbose", action="store_true", help="list every tensor")


def run(args: argparse.Namespace) -> int:
    """Convert, write, and say what was matched.

    Raises:
        CheckpointError: the input is unreadable or does not match whole; the output cannot be written.
        ConfigError: the classes asked for are not in the file.
    """
    import torch

    from maskrcnn import __version__
    from maskrcnn.engine.checkpoint import Checkpoint, save
    from maskrcnn.errors import CheckpointError
    from maskrcnn.modeling.convert.torchvision import COCO_LABELS, convert_torchvision
    from maskrcnn.modeling.state_dict import read_state_dict

    state = read_state_dict(args.input)
    logits = state.get("roi_heads.box_predictor.cls_score.weight")
    coco = args.classes == "coco80" or (args.classes == "auto" and logits is not None and len(logits) == 91)
    bn_eps = args.bn_eps
    if bn_eps is None:
        known = hashlib.sha256(args.input.read_bytes()).hexdigest()[:8] in _EPSILON_ZERO
        bn_eps = 0.0 if known else 1e-5
    try:
        result = convert_torchvision(
            state, labels=COCO_LABELS if coco else None, bn_eps=bn_eps, batch_counts=args.keep_batch_counts
        )
    except CheckpointError as error:
        raise CheckpointError(f"{args.input}: {error}") from None
    versions = {"maskrcnn": __version__, "torch": str(torch.__version__), "converted_from": args.source}
    save(Checkpoint(model=result.state, versions=versions), args.output)
    if args.verbose:
        for theirs, ours in result.matched:
            print(f"  {theirs} -> {ours} {list(result.state[ours].shape)}")
    backbone, masks = result.model.backbone, result.model.mask_head is not None
    print(f"recognised: {'Mask' if masks else 'Faster'} R-CNN, {backbone}, {result.num_classes} classes")
    print(f"matched: {len(result.matched)} of {len(state)} tensors, every one of the model's")
    if result.dropped:
        print(f"left out: {len(result.dropped)} ({result.dropped[0][0]}, ...: {result.dropped[0][1]})")
    if coco:
        print("classes: COCO's 80, by rising category id; the file's ten unused labels were left out")
    print(f"batch-norm epsilon of the source: {bn_eps:g}")
    print(f"wrote {args.output}; its config is configs/coco/mask_rcnn_r50_fpn_torchvision.yaml or like it")
    return 0
