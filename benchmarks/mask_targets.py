"""Targets of the mask head: the operator on packed masks beside pycocotools and RoIAlign, image after image.

    python benchmarks/mask_targets.py [--images 16] [--instances 8] [--rois 128] [--repeats 9] [--out FILE]

A batch of images of 800 x 1333, each with so many objects, as polygons (8 to 120 vertices) and as run-length
codes, and so many positive RoIs an image, at 28 x 28.  Milliseconds of processor time, medians of interleaved
runs; on a GPU those of the clock, its queue run empty, with the boxes there: the host's way has to wait for
them and to send the targets back.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrcnn.modeling.roi.mask_targets import align_in_boxes, draw_in_boxes, rasterise
from maskrcnn.structures import InstanceMasks, PackedMasks

HEIGHT, WIDTH, SIZE = 800, 1333, 28


def outline(rng: np.random.Generator) -> list[float]:
    """A wobbling outline of 8 to 120 vertices, 20 to 600 pixels across."""
    n = int(np.exp(rng.uniform(np.log(8), np.log(120))))
    radius = np.exp(rng.uniform(np.log(10), np.log(300), 2))
    angles = np.sort(rng.random(n)) * 2 * np.pi
    points = np.stack((np.cos(angles), np.sin(angles)), 1) * radius * rng.uniform(0.7, 1, (n, 1))
    points += radius + rng.random(2) * np.maximum([WIDTH, HEIGHT] - 2 * radius, 1)
    return [float(v) for v in points.reshape(-1)]


def batch(rng: np.random.Generator, images: int, instances: int, *, codes: bool) -> list[InstanceMasks]:
    found = []
    for _ in range(images):
        masks = InstanceMasks.from_coco([[outline(rng)] for _ in range(instances)], HEIGHT, WIDTH)
        found.append(InstanceMasks.from_coco(masks.to_rles(), HEIGHT, WIDTH) if codes else masks)
    return found


def rois(rng: np.random.Generator, masks: InstanceMasks, count: int) -> tuple[Tensor, Tensor]:
    """Boxes [R, 4] about the objects' own, and which object each is of."""
    index = torch.from_numpy(rng.integers(0, len(masks), count))
    boxes = masks.boxes()[index]
    side = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + torch.from_numpy(rng.normal(0, 0.08, (count, 4)).astype(np.float32)) * side, index


def on_host(masks: InstanceMasks, boxes: Tensor, index: Tensor, mode: str) -> Tensor:
    """One image's targets by pycocotools, or by RoIAlign of each bitmap; back where the boxes are."""
    at, corners = index.cpu().numpy(), boxes.cpu().double().numpy()
    if mode == "polygon":
        found: Any = draw_in_boxes(*masks.packed_polygons(at), corners, SIZE).astype(np.float32)
    else:
        found = np.zeros((len(at), SIZE, SIZE), dtype=np.float32)
        for i in np.unique(at).tolist():
            rows = np.flatnonzero(at == i)
            found[rows] = align_in_boxes(
                *masks.placed_bitmap(i), corners[rows], SIZE, mode == "bitmask", np.float32
            )
    return torch.from_numpy(found).to(boxes.device)


def medians(work: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Milliseconds of each, run in turn."""
    gpu = device.type == "cuda"
    clock = time.perf_counter if gpu else time.process_time
    times: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(repeats + 1):
        for name, call in work.items():
            if gpu:
                torch.cuda.synchronize()
            began = clock()
            call()
            if gpu:
                torch.cuda.synchronize()
            if repeat:  # the first run warms up
                times[name].append(clock() - began)
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def row(args: argparse.Namespace, device: torch.device, mode: Any, *, codes: bool) -> str:
    """One row of the table; the two ways must agree to the bit."""
    rng = np.random.default_rng(0)
    masks = batch(rng, args.images, args.instances, codes=codes)
    drawn = mode == "polygon"
    chosen = [tuple(t.to(device) for t in rois(rng, m, args.rois)) for m in masks]
    packed = PackedMasks.of(masks, drawn=drawn, padded=True).to(device)
    boxes = torch.cat([b for b, _ in chosen])
    rows = torch.cat([index + n * packed.per_image for n, (_, index) in enumerate(chosen)])

    def host() -> Tensor:
        return torch.cat([on_host(m, *of_image, mode) for m, of_image in zip(masks, chosen, strict=True)])

    def operator() -> Tensor:
        return rasterise(packed, boxes, rows, SIZE, mode)

    def pack() -> PackedMasks:
        return PackedMasks.of(masks, drawn=drawn, padded=True)

    assert torch.equal(host(), operator())
    t = medians({"host": host, "pack": pack, "operator": operator}, args.repeats, device)
    size = sum(v.numel() * v.element_size() for v in packed.tensors)
    if codes:
        stored = sum(len(e["counts"]) for m in masks for e in m.to_rles())
    else:
        stored = sum(m.packed_polygons(np.arange(len(m)))[0].nbytes for m in masks)
    return (
        f"| {'run-length codes' if codes else 'polygons'}, {mode} | {t['host']:.1f} | {t['pack']:.1f}"
        f" | {t['operator']:.2f} | {t['host'] / (t['pack'] + t['operator']):.1f}x"
        f" | {size / 1e3:.0f} | {stored / 1e3:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--instances", type=int, default=8, help="of each image")
    parser.add_argument("--rois", type=int, default=128, help="positive RoIs of each image")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, help="write the table there too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = "the GPU" if device.type == "cuda" else "one thread"
    print(f"{args.images} images, {args.instances} objects and {args.rois} RoIs each; ms on {where}")
    titles = (
        "masks, mode",
        "host, by image",
        "pack (in a loader)",
        "operator",
        "host / both",
        "packed kB",
        "stored kB",
    )
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for codes, mode in ((False, "polygon"), (True, "bitmask_hard"), (True, "bitmask"), (False, "bitmask")):
        lines.append(row(args, device, mode, codes=codes))
    print("\n".join(lines))
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
