"""Non-maximum suppression and matching: ours, torchvision's and plain torch, interleaved in one run.

    python benchmarks/box_ops.py [--repeats 15] [--only nms ...] [--quick] [--cuda] [--out FILE]

Prints and writes a markdown table of medians in milliseconds.  On a CPU one thread runs and its processor
time is taken, so that other work on the machine does not count; on a GPU it is the time from call to result.

Boxes lie as proposals do: crowded around a few objects of log-uniform sizes.  The peer of NMS is
torchvision's ``batched_nms``, an image a call as its models call it, that of matching its ``box_iou`` and
``Matcher``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torchvision
from torch import Tensor
from torchvision.models.detection._utils import Matcher

from maskrcnn.layers import batched_nms, match, nms, ops, reference

SIZE = torch.tensor([1333.0, 800.0])
CLASSES = 80
Work = Callable[[], object]


@dataclass(frozen=True)
class Suppression:
    """Boxes of some images that are suppressed, and how many are kept."""

    name: str
    images: int
    boxes: int  #: an image
    groups: int
    threshold: float
    kept: int
    crowd: float  #: how far boxes lie from their objects, in sides


@dataclass(frozen=True)
class Matching:
    """Ground truths that meet boxes."""

    name: str
    images: int
    truths: int
    boxes: int
    shared: bool  #: the boxes are anchors, the same for all images
    low: float
    high: float
    low_quality: bool


SUPPRESSIONS = (
    Suppression("nms, RPN, training", 2, 8000 + 819, 5, 0.7, 2000, 0.4),
    Suppression("nms, RPN, inference", 1, 4000 + 819, 5, 0.7, 1000, 0.4),
    Suppression("nms, 400 pairs of 80 classes", 1, 400, CLASSES, 0.5, 100, 0.1),
    Suppression("nms, 5,000 pairs of 80 classes", 1, 5000, CLASSES, 0.5, 100, 0.2),
    Suppression("nms, 20,000 pairs of 80 classes", 1, 20_000, CLASSES, 0.5, 100, 0.2),
    Suppression("nms, RPN, training, batch 12", 12, 8000 + 819, 5, 0.7, 2000, 0.4),
)
MATCHINGS = (
    Matching("match, anchors", 2, 10, 267_069, True, 0.3, 0.7, True),
    Matching("match, anchors, 100 objects", 2, 100, 267_069, True, 0.3, 0.7, True),
    Matching("match, proposals", 2, 10, 2010, False, 0.5, 0.5, False),
)


def boxes_of(images: int, count: int, objects: int, crowd: float, generator: torch.Generator) -> Tensor:
    """Boxes [images, count, 4] around ``objects`` objects an image."""
    side = torch.exp(math.log(24) + torch.rand(images, objects, 1, generator=generator) * math.log(500 / 24))
    centre = torch.rand(images, objects, 2, generator=generator) * SIZE
    pick = torch.randint(0, objects, (images, count, 1), generator=generator)
    noise = (torch.rand(images, count, 4, generator=generator) - 0.5) * 2 * crowd
    own = side.gather(1, pick)
    middle = centre.gather(1, pick.expand(-1, -1, 2)) + noise[..., :2] * own
    half = own / 2 * torch.exp(noise[..., 2:])
    return torch.cat(((middle - half).clamp(min=0), (middle + half).minimum(SIZE).clamp(min=1)), dim=2)


def suppression(case: Suppression, device: str) -> dict[str, Work]:
    """What is timed of a case; the first is ours."""
    generator = torch.Generator().manual_seed(0)
    boxes = boxes_of(case.images, case.boxes, 20, case.crowd, generator).to(device)
    scores = torch.rand(case.images, case.boxes, generator=generator).to(device)
    groups = torch.randint(0, case.groups, (case.images, case.boxes), generator=generator).to(device)
    real = torch.ones_like(groups, dtype=torch.bool)
    images = list(zip(boxes, scores, groups, strict=True))
    return {
        "ours": lambda: nms(boxes, scores, real, case.threshold, case.kept, groups),
        "an image a call": lambda: [batched_nms(*i, case.threshold, case.kept) for i in images],
        "torchvision": lambda: [torchvision.ops.batched_nms(*i, case.threshold)[: case.kept] for i in images],
    }


def matching(case: Matching, device: str) -> dict[str, Work]:
    """What is timed of a case; the first is ours."""
    generator = torch.Generator().manual_seed(0)
    truth = boxes_of(case.images, case.truths, case.truths, 0.1, generator).to(device)
    boxes = boxes_of(1 if case.shared else case.images, case.boxes, 60, 1.0, generator).to(device)
    real = torch.ones(truth.shape[:2], dtype=torch.bool, device=device)
    boxes = boxes[0] if case.shared else boxes
    options = case.low, case.high, case.low_quality
    of_image = [boxes if case.shared else boxes[i] for i in range(case.images)]
    matcher = Matcher(case.high, case.low, allow_low_quality_matches=case.low_quality)
    return {
        "ours": lambda: match(truth, real, boxes, *options),
        "plain torch": lambda: reference.match(truth, real, boxes, *options, 0.0),
        "torchvision": lambda: [
            matcher(torchvision.ops.box_iou(t, b)) for t, b in zip(truth, of_image, strict=True)
        ],
    }


def seconds(work: Work, device: str) -> float:
    """Seconds of one call: of the processor, or until the GPU is done."""
    if device == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(works: dict[str, Work], device: str, repeats: int) -> dict[str, float]:
    """Median milliseconds of each, in turn; the first turn warms up."""
    turns = [{name: seconds(work, device) for name, work in works.items()} for _ in range(repeats + 1)]
    return {name: statistics.median(turn[name] for turn in turns[1:]) * 1e3 for name in works}


def table(rows: list[tuple[str, dict[str, float]]]) -> str:
    """Medians and how many times longer than ours each takes, as a markdown table."""
    lines = ["| case | ours | others |", "|---|---|---|"]
    for name, (first, *rest) in ((name, found.items()) for name, found in rows):
        others = ", ".join(f"{other} {ms:.2f} ({ms / first[1]:.1f}x)" for other, ms in rest)
        lines.append(f"| {name} | {first[1]:.3f} | {others} |")
    return "\n".join(lines)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", nargs="+", help="cases whose names start with one of these")
    parser.add_argument("--quick", action="store_true", help="three repeats, for direction")
    parser.add_argument("--cuda", action="store_true", help="run on the GPU, not on the CPU")
    parser.add_argument("--out", type=Path, help="write the report here too")
    args = parser.parse_args()
    device = "cuda" if args.cuda else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        print("not run: no GPU")
        return 0
    if not ops.has_kernels(device):
        print("the compiled operators are not loaded (see `maskrcnn doctor`)", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    repeats = 3 if args.quick else args.repeats
    cases = [(case.name, partial(suppression, case, device)) for case in SUPPRESSIONS]
    cases += [(case.name, partial(matching, case, device)) for case in MATCHINGS]
    chosen = [(n, make) for n, make in cases if not args.only or n.startswith(tuple(args.only))]
    where = torch.cuda.get_device_name() if args.cuda else "CPU, processor time of one thread"
    command = " ".join(["python benchmarks/box_ops.py", *sys.argv[1:]])
    text = (
        f"# Operators on boxes\n\n`{command}`\n\n{where}; torch {torch.__version__}, torchvision"
        f" {torchvision.__version__}, {time.strftime('%Y-%m-%d')}. Milliseconds, medians of {repeats}"
        " interleaved repeats.\n\n"
        + table([(name, measure(make(), device, repeats)) for name, make in chosen])
        + "\n"
    )
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
