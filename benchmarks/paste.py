"""Time to paste and encode the masks of one image: ours, torchvision's, and pycocotools' dense encoding.

    python benchmarks/paste.py [--detections 100] [--size 800 1333] [--threads 1]

Boxes are log-uniform from 12 to 660 px a side; the best of several runs is printed, in milliseconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from maskrcnn.inference.paste import encode_masks


def best(work: Callable[[], object], repeat: int) -> float:
    """Milliseconds of the fastest of ``repeat`` runs."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def case(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Smooth random probabilities [D, 28, 28] and boxes [D, 4] inside the image."""
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 1, 5, 5, generator=g)
    probs = torch.nn.functional.interpolate(coarse, size=28, mode="bicubic").clamp(0, 1)[:, 0]
    centre = torch.rand(count, 2, generator=g) * torch.tensor([width, height])
    sides = torch.exp(torch.rand(count, 2, generator=g) * 4 + 2.5)
    boxes = torch.cat((centre - sides / 2, centre + sides / 2), dim=1)
    boxes[:, 0::2].clamp_(0, width)
    boxes[:, 1::2].clamp_(0, height)
    return probs, boxes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    height, width = args.size
    probs, boxes = case(args.detections, height, width)

    def paste() -> Tensor:
        return paste_masks_in_image(probs[:, None], boxes, (height, width))[:, 0]

    dense = (paste() > 0.5).numpy().view(np.uint8)
    rows = {
        "ours, aligned: paste and encode": lambda: encode_masks(probs, boxes, height, width),
        "ours, torchvision's form: paste and encode": lambda: encode_masks(
            probs, boxes, height, width, "torchvision"
        ),
        "torchvision: paste": paste,
        "pycocotools: encode the dense masks": lambda: [
            coco_mask.encode(np.asfortranarray(m)) for m in dense
        ],
    }
    print(f"{args.detections} detections, {height} x {width}, {args.threads} thread(s)")
    for name, work in rows.items():
        print(f"{name:45s} {best(work, 5):8.1f} ms")


if __name__ == "__main__":
    main()
