"""RoI operators: ours and torchvision's, interleaved in one run, beside the memory-bandwidth floor.

    python benchmarks/roi_ops.py [--repeats 15] [--threads 1 2] [--only box_train ...] [--quick] [--out FILE]
                                 [--memory kept|found]
    python benchmarks/roi_ops.py --cuda

Prints and writes a markdown table of medians in milliseconds.  The floor is the time to touch the memory
that the operator cannot avoid touching: forward, the feature cells under the RoIs once plus the output;
backward, the whole gradient map once (it must at least be zeroed) plus the incoming gradient.  Its bandwidth
is measured in the same process with the same number of threads.

Both run with freed memory kept in the process, as our trainer keeps it (``engine.memory``): with glibc's
default every large result is unmapped when it is freed, and most of the time goes into faulting it in again.
``--memory found`` measures that.  The peer, which takes up to 30 s a call, repeats less often: until it has
taken 6 seconds of a row, at least once.

Boxes are drawn as proposals cluster: around ground-truth boxes with log-uniform sizes, assigned to levels
by Eq. 1 of the FPN paper, with a fixed seed.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from maskrcnn.engine.memory import keep_freed_memory
from maskrcnn.layers import ops, roi_align, roi_pool

IMAGE = (800, 1066)
PEER_SECONDS = 6.0  # of one row, after which the peer is not repeated any more
FPN = ((200, 267, 1 / 4), (100, 134, 1 / 8), (50, 67, 1 / 16), (25, 34, 1 / 32))


@dataclass(frozen=True)
class Shape:
    """One use of the operator."""

    name: str
    images: int
    rois: int  #: an image
    size: int
    ratio: int
    channels: int
    levels: tuple[tuple[int, int, float], ...]
    train: bool
    op: str = "align"


C4 = ((50, 68, 1 / 16),)
SHAPES = (
    Shape("box_train_s2", 2, 512, 7, 2, 256, FPN, True),
    Shape("box_train_s0", 2, 512, 7, 0, 256, FPN, True),
    Shape("mask_train_s2", 2, 64, 14, 2, 256, FPN, True),
    Shape("mask_train_s0", 2, 64, 14, 0, 256, FPN, True),
    Shape("c4_train_14", 2, 512, 14, 0, 1024, C4, True),
    Shape("c4_train_7", 2, 512, 7, 0, 1024, C4, True),
    Shape("box_infer_1000", 1, 1000, 7, 0, 256, FPN, False),
    Shape("mask_infer_100", 1, 100, 14, 0, 256, FPN, False),
    Shape("pool_train", 2, 512, 7, 0, 256, FPN, True, "pool"),
)


def make_rois(shape: Shape, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """RoIs [K, 5] and their levels [K]."""
    rows = []
    height, width = IMAGE
    for image in range(shape.images):
        truth = torch.rand(12, 4, generator=generator)
        side = torch.exp(math.log(24) + truth[:, 2] * (math.log(500) - math.log(24)))
        centre = truth[:, :2] * torch.tensor([width, height])
        pick = torch.randint(0, 12, (shape.rois,), generator=generator)
        noise = torch.rand(shape.rois, 4, generator=generator) - 0.5
        s = side[pick] * torch.exp(noise[:, 2])
        aspect = torch.exp(noise[:, 3])
        c = centre[pick] + noise[:, :2] * s[:, None]
        half = torch.stack([s * aspect, s / aspect], dim=1) / 2
        low, high = c - half, c + half
        limit = torch.tensor([float(width), float(height)])
        low, high = low.clamp(min=0).minimum(limit - 2), high.minimum(limit).maximum(torch.tensor([2.0, 2.0]))
        high = torch.maximum(high, low + 1)
        rows.append(torch.cat([torch.full((shape.rois, 1), float(image)), low, high], dim=1))
    rois = torch.cat(rows)
    if len(shape.levels) == 1:
        return rois, torch.zeros(len(rois), dtype=torch.int64)
    area = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).sqrt()
    levels = (4 + torch.log2(area / 224 + 1e-6)).floor().clamp(2, 5).long() - 2
    return rois, levels


def peer(features: Sequence[Tensor], rois: Tensor, levels: Tensor, shape: Shape) -> Tensor:
    """torchvision's operator, one call a level, results scattered together as its MultiScaleRoIAlign does."""
    function: Callable[..., Tensor]
    if shape.op == "pool":
        function = lambda x, r, s: torchvision.ops.roi_pool(x, r, shape.size, s)  # noqa: E731
    else:
        function = lambda x, r, s: torchvision.ops.roi_align(x, r, shape.size, s, shape.ratio, True)  # noqa: E731
    if len(features) == 1:
        return function(features[0], rois, shape.levels[0][2])
    result = features[0].new_zeros(len(rois), shape.channels, shape.size, shape.size)
    for level, feature in enumerate(features):
        index = torch.where(levels == level)[0]
        result[index] = function(feature, rois[index], shape.levels[level][2])
    return result


def ours(
    features: Sequence[Tensor], rois: Tensor, levels: Tensor, shape: Shape, fused: bool = True
) -> Tensor:
    """Our operator: all levels in one call, or one call a level as the peer."""
    scales = [s for _, _, s in shape.levels]
    if fused:
        if shape.op == "pool":
            return roi_pool(list(features), rois, shape.size, scales, levels=levels)
        return roi_align(list(features), rois, shape.size, scales, shape.ratio, True, levels=levels)
    last = features[0].is_contiguous(memory_format=torch.channels_last)
    result = features[0].new_zeros(len(rois), shape.channels, shape.size, shape.size)
    result = result.to(memory_format=torch.channels_last if last else torch.contiguous_format)
    for level, feature in enumerate(features):
        index = torch.where(levels == level)[0]
        result[index] = roi_align(feature, rois[index], shape.size, scales[level], shape.ratio, True)
    return result


def bandwidth(device: str) -> float:
    """Bytes a second of a large copy (read + write), best of several."""
    source = torch.ones(1 << 26, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    best = math.inf
    for _ in range(7):
        best = min(best, timed(lambda: target.copy_(source), device))
    return 2 * 4 * source.numel() / best


def timed(function: Callable[[], object], device: str) -> float:
    """Seconds of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def floor_seconds(shape: Shape, rois: Tensor, levels: Tensor, item: int, rate: float) -> tuple[float, float]:
    """Forward and backward floors: bytes that must be touched over the measured bandwidth."""
    touched = 0
    whole = 0
    for level, (height, width, scale) in enumerate(shape.levels):
        whole += shape.images * height * width
        for image in range(shape.images):
            seen = torch.zeros(height, width, dtype=torch.bool)
            for roi in rois[(levels == level) & (rois[:, 0] == image)]:
                x1, y1, x2, y2 = (roi[1:] * scale).tolist()
                seen[max(int(y1), 0) : int(y2) + 2, max(int(x1), 0) : int(x2) + 2] = True
            touched += int(seen.sum())
    output = len(rois) * shape.size * shape.size
    per = shape.channels * item / rate
    return (touched + output) * per, (whole + output) * per


def measure(
    shape: Shape, dtype: torch.dtype, layout: str, device: str, repeats: int, rate: float
) -> dict[str, str]:
    """One row of the table."""
    generator = torch.Generator().manual_seed(0)
    rois, levels = make_rois(shape, generator)
    fmt = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    features = [
        torch.randn(shape.images, shape.channels, h, w, generator=generator)
        .to(device, dtype)
        .to(memory_format=fmt)
        for h, w, _ in shape.levels
    ]
    rois, levels = rois.to(device), levels.to(device)
    # torchvision has no bfloat16 on the CPU: its float32 time stands beside ours
    peer_dtype = torch.float32 if device == "cpu" and dtype is torch.bfloat16 else dtype
    peer_features = [f.to(peer_dtype) for f in features]
    peer_rois = rois.to(peer_dtype)
    for tensor in (*features, *peer_features):
        tensor.requires_grad_(shape.train)
    grad = torch.randn(len(rois), shape.channels, shape.size, shape.size, generator=generator)
    grad = grad.to(device, dtype).to(memory_format=fmt)
    peer_grad = grad.to(peer_dtype)

    times: dict[str, list[float]] = {}

    def step(name: str, run: Callable[[], Tensor], inputs: list[Tensor], g: Tensor) -> None:
        result: list[Tensor] = []
        times.setdefault(name + "_f", []).append(timed(lambda: result.append(run()), device))
        if shape.train:
            out = result.pop()
            times.setdefault(name + "_b", []).append(
                timed(lambda: torch.autograd.grad(out, inputs, g), device)
            )

    for _ in range(repeats + 1):
        step("ours", lambda: ours(features, rois, levels, shape), features, grad)
        if shape.op == "align" and len(shape.levels) > 1:
            step("each", lambda: ours(features, rois, levels, shape, fused=False), features, grad)
        if sum(sum(values) for name, values in times.items() if name[:4] == "peer") < PEER_SECONDS:
            step("peer", lambda: peer(peer_features, peer_rois, levels, shape), peer_features, peer_grad)
    # The first turn warms up; a peer so slow that it had one turn alone keeps that one.
    middle = {name: statistics.median(values[1:] or values) for name, values in times.items()}
    low_f, low_b = floor_seconds(shape, rois.cpu(), levels.cpu(), features[0].element_size(), rate)

    def cells(kind: str, low: float) -> dict[str, str]:
        if f"ours_{kind}" not in middle:
            return {kind: "", f"{kind} peer": "", f"{kind} ratio": "", f"{kind} / floor": ""}
        mine, theirs = middle[f"ours_{kind}"], middle[f"peer_{kind}"]
        return {
            kind: f"{mine * 1e3:.2f}",
            f"{kind} peer": f"{theirs * 1e3:.1f}",
            f"{kind} ratio": f"{theirs / mine:.1f}x",
            f"{kind} / floor": f"{mine / low:.1f}",
        }

    row = {"shape": shape.name, "type": str(dtype).removeprefix("torch."), "layout": layout}
    row |= cells("f", low_f) | cells("b", low_b)
    row["f a level"] = f"{middle['each_f'] * 1e3:.2f}" if "each_f" in middle else ""
    return row


def table(rows: list[dict[str, str]]) -> str:
    """Rows as a markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(row[name] for name in names) + " |" for row in rows]
    return "\n".join(lines)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", help="shapes whose names start with one of these")
    parser.add_argument("--types", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--layouts", nargs="+", default=["channels_last", "nchw"])
    parser.add_argument("--cuda", action="store_true", help="also run on the GPU")
    parser.add_argument("--quick", action="store_true", help="three repeats, for direction")
    parser.add_argument("--memory", choices=("kept", "found"), default="kept", help="see above")
    parser.add_argument("--out", type=Path, help="write the report here too")
    args = parser.parse_args()
    if not ops.compiled_devices():
        print("the compiled operators are not loaded (see `maskrcnn doctor`)", file=sys.stderr)
        return 1
    kept = args.memory == "kept" and keep_freed_memory()
    shapes = [s for s in SHAPES if not args.only or any(s.name.startswith(o) for o in args.only)]
    repeats = 3 if args.quick else args.repeats
    command = " ".join(["python benchmarks/roi_ops.py", *sys.argv[1:]])
    about = (
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, {platform.machine()},"
        f" {time.strftime('%Y-%m-%d')}, freed memory {'kept' if kept else 'as glibc has it'}. Milliseconds,"
        f" medians of {repeats} interleaved repeats (the peer: what fits {PEER_SECONDS:g} s); f forward, b"
        " backward; 'peer' is torchvision (float32 beside our bfloat16 on the CPU, where it has none); 'f a"
        " level' is ours with one call a level."
    )
    report = ["# RoI operators against torchvision", f"\n`{command}`", f"\n{about}"]

    def section(title: str, device: str) -> None:
        rate = bandwidth(device)
        report.append(f"\n## {title} (copy bandwidth {rate / 1e9:.1f} GB/s)\n")
        rows = []
        for shape in shapes:
            for dtype in args.types:
                for layout in args.layouts:
                    rows.append(measure(shape, getattr(torch, dtype), layout, device, repeats, rate))
                    print(rows[-1], flush=True)
        report.append(table(rows))

    for threads in args.threads:
        torch.set_num_threads(threads)
        section(f"CPU, {threads} thread(s)", "cpu")
    if args.cuda and torch.cuda.is_available() and ops.has_kernels("cuda"):
        args.types = ["float32", "bfloat16", "float16"]
        section(torch.cuda.get_device_name(), "cuda")
    else:
        why = "--cuda was not given" if not args.cuda else "no GPU, or the CUDA object is not loaded"
        report.append(f"\n## CUDA\n\nnot run ({why})")
    text = "\n".join(report) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
