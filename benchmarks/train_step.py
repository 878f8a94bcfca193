"""A training step and an inference of ours beside torchvision's Mask R-CNN, interleaved in one run.

    python benchmarks/train_step.py [--repeats 7] [--threads 2]

The model, images and sampling are those of ``configs/nuclei`` (R18-FPN, group norm, 4 images of 256 px) with
generated instances, so that no data are needed.  Medians over the repeats, after one warm-up of each.
torchvision runs twice: as a user finds it, and with the allocator told to keep freed memory as ours does
(``maskrcnn.engine.memory``); the second kind of run is a process of its own, since that cannot be undone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))


def measure(repeats: int, threads: int, keep: bool, precision: str) -> dict[str, list[float]]:
    """Seconds of every repeat, by what was timed."""
    import torch
    from nuclei import CONFIG, torchvision_batch, torchvision_model

    from maskrcnn.engine.memory import keep_freed_memory
    from maskrcnn.recipe import load_recipe
    from maskrcnn.structures import Batch, ImageInfo, InstanceMasks, Targets

    torch.set_num_threads(threads)
    if keep:
        keep_freed_memory()
    recipe = load_recipe(CONFIG)
    generator = torch.Generator().manual_seed(0)

    def instances() -> Targets:
        corners = torch.rand(31, 2, generator=generator) * 210
        sides = torch.rand(31, 2, generator=generator) * 25 + 10
        boxes = torch.cat((corners, corners + sides), dim=1)
        polygons = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes.tolist()]
        masks = InstanceMasks.from_coco(polygons, 256, 256)
        return Targets(boxes, torch.zeros(31, dtype=torch.int64), masks, torch.arange(31))

    images = [torch.randint(0, 255, (3, 256, 256), dtype=torch.uint8, generator=generator) for _ in range(4)]
    infos = [ImageInfo(i, "", 256, 256) for i in range(4)]
    batch = Batch(images, infos, [instances() for _ in range(4)])
    torch.manual_seed(0)
    ours = recipe.model.build(1).train()
    torch.manual_seed(0)
    theirs = torchvision_model(recipe, 1).train()
    models = {"ours": ours, "torchvision": theirs}
    optimizers = {
        name: torch.optim.SGD(m.parameters(), lr=1e-4, momentum=0.9, fused=True) for name, m in models.items()
    }
    times: dict[str, list[float]] = {}

    def step(name: str) -> None:
        half = name == "ours" and precision == "bfloat16"
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            if name == "ours":
                losses: dict[str, Any] = ours(batch.images, batch.targets, torch.Generator().manual_seed(0))
            else:
                losses = theirs(*torchvision_batch(batch))
        optimizers[name].zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        optimizers[name].step()

    def infer(name: str) -> None:
        half = name == "ours" and precision == "bfloat16"
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            if name == "ours":
                ours.predict(batch.images[:1])
            else:
                theirs.eval()(torchvision_batch(batch)[0][:1])
                theirs.train()

    for repeat in range(repeats + 1):
        for what, call in (("training step, 4 images", step), ("inference, 1 image", infer)):
            for name in models:
                start = time.perf_counter()
                call(name)
                if repeat:
                    times.setdefault(f"{what}|{name}", []).append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--single", choices=["found", "kept", "bfloat16"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.single:
        precision = "bfloat16" if args.single == "bfloat16" else "float32"
        times = measure(args.repeats, args.threads, args.single != "found", precision)
        print("TIMES " + json.dumps(times))
        return
    print("| process | what | ours, s | torchvision, s | ratio |\n|---|---|---|---|---|")
    titles = {
        "found": "allocator as found",
        "kept": "freed memory kept",
        "bfloat16": "kept; ours in bfloat16, torchvision in float32 (its CPU operators have no bfloat16)",
    }
    for kind, title in titles.items():
        command = [sys.executable, __file__, "--single", kind, "--repeats", str(args.repeats)]
        command += ["--threads", str(args.threads)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
        line = next(text for text in output.splitlines() if text.startswith("TIMES "))
        times: dict[str, list[float]] = json.loads(line.removeprefix("TIMES "))
        for what in dict.fromkeys(key.split("|")[0] for key in times):
            a, b = (statistics.median(times[f"{what}|{name}"]) for name in ("ours", "torchvision"))
            print(f"| {title} | {what} | {a:.3f} | {b:.3f} | {b / a:.2f} |", flush=True)


if __name__ == "__main__":
    main()
