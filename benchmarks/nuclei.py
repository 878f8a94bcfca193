"""Ours and torchvision's Mask R-CNN on the nuclei images: the same backbone, schedule, batches and evaluator.

    python benchmarks/nuclei.py                    # every run that is not there yet, then the tables
    python benchmarks/nuclei.py --report           # the tables of the runs that are there
    python benchmarks/nuclei.py --config configs/ablations/nuclei/stride8.yaml --out runs/nuclei_stride8 \\
        --variants roi_pool torchvision_roi_pool   # cut at one level, as the ablations are

Each run is a process of its own under ``--out`` (default ``runs/nuclei_benchmark``): ours with RoIAlign,
ours with RoIPool, torchvision's (on one level with either), each with ``--seeds``.  A run that has finished
is not repeated and one that was interrupted resumes (ours from its checkpoint; torchvision's starts again,
having none).

What is the same for all: the training images and their order (our loader's batch of step t is a function of
the seed alone), augmentation, image size, backbone (ResNet-18-FPN with group norm, from scratch), anchors,
sampling, heads' widths, optimizer, learning rate at every step, detections an image, and the evaluator.
What differs is the framework.  Both keep freed memory in the allocator (``engine.memory``), which helps
torchvision more than us.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "nuclei" / "mask_rcnn_r18_fpn_gn.yaml"
VARIANTS = ("roi_align", "roi_pool", "torchvision", "torchvision_roi_pool")


def torchvision_backbone(model: Any) -> Any:
    """torchvision's R18 with group norm, and its FPN or, on one level, a 1x1 convolution."""
    from torch import nn
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.resnet import resnet18

    width = model.neck.out_channels
    body = resnet18(
        norm_layer=lambda channels: nn.GroupNorm(32, channels),
        zero_init_residual=model.backbone.zero_init_residual,
    )
    if len(model.backbone.outputs) > 1:
        return BackboneWithFPN(
            body, {f"layer{i}": str(i - 1) for i in (1, 2, 3, 4)}, [64, 128, 256, 512], width
        )

    class OneLevel(nn.Module):
        def __init__(self, level: int) -> None:
            super().__init__()
            self.body = IntermediateLayerGetter(body, {f"layer{level - 1}": "0"})
            self.reduce = nn.Conv2d(2 ** (level + 4), width, 1)
            self.out_channels = width

        def forward(self, images: Any) -> dict[str, Any]:
            return {"0": self.reduce(self.body(images)["0"])}

    return OneLevel(int(model.backbone.outputs[0][1:]))


def torchvision_pooler(model: Any, op: str, size: int) -> Any:
    """Its pooler; RoIPool on one level, which it takes only dressed as its own RoIAlign."""
    from torchvision.ops import MultiScaleRoIAlign, roi_pool

    levels = len(model.backbone.outputs)
    pooler = MultiScaleRoIAlign([str(i) for i in range(levels)], size, 2)
    if op == "roi_pool":
        if levels > 1:
            raise SystemExit("torchvision_roi_pool needs a config of one level: torchvision pools no pyramid")
        scale = 0.5 ** int(model.backbone.outputs[0][1:])
        pooler.forward = lambda features, boxes, shapes: roi_pool(features["0"], boxes, size, scale)
    return pooler


def torchvision_model(recipe: Any, num_classes: int, op: str = "roi_align") -> Any:
    """torchvision's Mask R-CNN with the sizes and thresholds of our recipe; its own losses and ops."""
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

    model = recipe.model
    width = model.neck.out_channels
    backbone = torchvision_backbone(model)
    anchors = model.rpn.anchors
    resize = recipe.data.eval_transforms[0]
    return MaskRCNN(
        backbone,
        min_size=resize.min_sizes[0],
        max_size=resize.max_size,
        rpn_anchor_generator=AnchorGenerator(anchors.sizes, (anchors.ratios,) * len(anchors.sizes)),
        rpn_pre_nms_top_n_train=model.rpn.pre_nms_train,
        rpn_pre_nms_top_n_test=model.rpn.pre_nms_test,
        rpn_post_nms_top_n_train=model.rpn.post_nms_train,
        rpn_post_nms_top_n_test=model.rpn.post_nms_test,
        box_batch_size_per_image=model.roi.samples,
        box_detections_per_img=model.roi.max_detections,
        box_roi_pool=torchvision_pooler(model, op, model.box_head.pool_size),
        mask_roi_pool=torchvision_pooler(model, op, model.mask_head.pool_size),
        box_head=TwoMLPHead(width * model.box_head.pool_size**2, model.box_head.hidden),
        box_predictor=FastRCNNPredictor(model.box_head.hidden, num_classes + 1),
        mask_head=MaskRCNNHeads(width, (model.mask_head.width,) * model.mask_head.convs, 1),
        mask_predictor=MaskRCNNPredictor(model.mask_head.width, model.mask_head.width, num_classes + 1),
    )


def torchvision_batch(batch: Any) -> tuple[list[Any], list[dict[str, Any]] | None]:
    """Our batch as torchvision takes it: float images in 0..1, labels from 1, dense masks."""
    images = [image.float() / 255 for image in batch.images]
    if batch.targets is None:
        return images, None
    targets = [
        {"boxes": t.boxes, "labels": t.labels + 1, "masks": t.masks.to_bitmaps(*image.shape[-2:])}
        for t, image in zip(batch.targets, images, strict=True)
    ]
    return images, targets


def train_torchvision(config: Path, op: str, seed: int, folder: Path, overrides: list[str]) -> None:
    """Train and evaluate torchvision's model; write ``result.json`` and ``metrics.jsonl`` into ``folder``."""
    import numpy as np
    import torch
    from pycocotools import mask as mask_api

    from maskrcnn.data import eval_loader, train_loader
    from maskrcnn.engine.memory import keep_freed_memory
    from maskrcnn.evaluation.coco import evaluate_coco
    from maskrcnn.inference.records import save_results
    from maskrcnn.recipe import load_recipe
    from maskrcnn.run.setup import build_transforms

    keep_freed_memory()
    recipe = load_recipe(config, overrides)
    solver = recipe.solver
    torch.manual_seed(seed)
    train = recipe.data.train.build(True)
    val = recipe.data.val.build(False)
    model = torchvision_model(recipe, len(train.categories), op).train()
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=solver.learning_rate,
        momentum=solver.optimizer.momentum,
        weight_decay=solver.optimizer.weight_decay,
        fused=True,
    )
    loader = train_loader(
        train,
        build_transforms(recipe, training=True),
        images_per_rank=solver.batch_size,
        total_steps=solver.steps,
        seed=seed,
    )
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as log:
        for step, batch in enumerate(loader):
            for group in optimizer.param_groups:
                group["lr"] = solver.rate_at(step)
            losses = model(*torchvision_batch(batch))
            loss = sum(losses.values())
            if not torch.isfinite(loss):
                raise SystemExit(f"torchvision's loss is {loss.item()} at step {step}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), solver.clip_grad_norm or float("inf"))
            optimizer.step()
            record = {k: round(float(v.detach()), 5) for k, v in losses.items()}
            record |= {"step": step + 1, "seconds": round(time.perf_counter() - start, 2)}
            log.write(json.dumps(record) + "\n")
            log.flush()
            if (step + 1) % 20 == 0:
                print(f"torchvision, seed {seed}: {record}", flush=True)
    train_seconds = time.perf_counter() - start

    start = time.perf_counter()
    model.eval()
    results: list[dict[str, Any]] = []
    for batch in eval_loader(val, []):
        info = batch.infos[0]
        with torch.inference_mode():
            found = model(torchvision_batch(batch)[0])[0]
        x1, y1, x2, y2 = found["boxes"].double().unbind(1)
        boxes = torch.stack((x1, y1, x2 - x1, y2 - y1), dim=1).tolist()
        for i, score in enumerate(found["scores"].tolist()):
            bitmap = (found["masks"][i, 0] > 0.5).numpy().astype(np.uint8)
            code = mask_api.encode(np.asfortranarray(bitmap))
            results.append(
                {
                    "image_id": info.image_id,
                    "category_id": val.categories.ids[int(found["labels"][i]) - 1],
                    "bbox": boxes[i],
                    "score": score,
                    "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                }
            )
    save_results(folder / "results.json", results)
    evaluated = evaluate_coco(
        val.ground_truth(), results, max_detections=recipe.model.roi.max_detections, backend="pycocotools"
    )
    write_result(folder, evaluated.scalars(), train_seconds, time.perf_counter() - start)


def write_result(folder: Path, figures: dict[str, float], train_seconds: float, eval_seconds: float) -> None:
    result = {"figures": figures, "train_seconds": train_seconds, "eval_seconds": eval_seconds}
    partial = folder / "result.json.partial"
    partial.write_text(json.dumps(result, indent=1), encoding="utf-8")
    partial.replace(folder / "result.json")


def run_variant(config: Path, variant: str, seed: int, out: Path, overrides: list[str]) -> None:
    """One run in a process of its own; done already if its figures are there."""
    folder = out / f"{variant}_seed{seed}"
    if figures_of(folder) is not None:
        return
    settings = [part for item in overrides for part in ("--set", item)]
    if variant.startswith("torchvision"):
        op = "roi_pool" if variant.endswith("roi_pool") else "roi_align"
        command = [sys.executable, __file__, "--single", str(seed), op]
        command += ["--config", str(config), "--out", str(folder), *settings]
    else:
        command = [sys.executable, "-m", "maskrcnn", "train", str(config)]
        command += ["--output", str(folder), "--resume"]
        if variant == "roi_pool":
            command += ["--set", "model.roi_op=roi_pool"]
        command += ["--set", f"seed={seed}", *settings]
    print(f"\n== {variant}, seed {seed}: {' '.join(command)}", flush=True)
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT)
    with (out / "wall.jsonl").open("a", encoding="utf-8") as log:
        took = {"run": folder.name, "seconds": round(time.perf_counter() - start, 1)}
        log.write(json.dumps(took) + "\n")


def figures_of(folder: Path) -> dict[str, float] | None:
    """``segm/AP`` and its like of a finished run, None for one that is not finished."""
    for name in ("result.json", "figures.json"):
        path = folder / name
        if path.is_file():
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            named = content["figures"]
            if all(isinstance(v, dict) for v in named.values()):
                named = {f"{kind}/{key}": v for kind, figures in named.items() for key, v in figures.items()}
            return named
    return None


def report(out: Path, seeds: list[int]) -> str:
    """Markdown tables: every run, and the means with the pooled standard deviation."""
    cap = next(
        (
            key.split("@")[1]
            for variant in VARIANTS
            for seed in seeds
            for key in figures_of(out / f"{variant}_seed{seed}") or {}
            if key.startswith("segm/AP@")
        ),
        "100",
    )
    at = "" if cap == "100" else f"@{cap}"
    columns = [f"{kind}/{name}{at}" for kind in ("segm", "bbox") for name in ("AP", "AP50", "AP75")]
    wall_log = out / "wall.jsonl"
    wall: dict[str, float] = {}
    if wall_log.is_file():
        for line in wall_log.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            wall[entry["run"]] = wall.get(entry["run"], 0.0) + entry["seconds"]
    lines = [
        f"| run | {' | '.join(columns)} | wall, min |",
        "|---|" + "---|" * (len(columns) + 1),
    ]
    found: dict[str, list[dict[str, float]]] = {}
    for variant in VARIANTS:
        for seed in seeds:
            name = f"{variant}_seed{seed}"
            figures = figures_of(out / name)
            if figures is None:
                lines.append(f"| {name} | {'not run | ' * len(columns)} |")
                continue
            found.setdefault(variant, []).append(figures)
            minutes = f"{wall[name] / 60:.1f}" if name in wall else ""
            lines.append(f"| {name} | {' | '.join(f'{figures[c]:.3f}' for c in columns)} | {minutes} |")
    for variant, runs in found.items():
        means = [statistics.fmean(r[c] for r in runs) for c in columns]
        lines.append(f"| **{variant}, mean of {len(runs)}** | {' | '.join(f'{m:.3f}' for m in means)} | |")
    ours, theirs = found.get("roi_align", []), found.get("torchvision", [])
    if len(ours) > 1 and len(theirs) > 1:
        lines.append("")
        for column in (columns[0], columns[3]):
            a, b = [r[column] for r in ours], [r[column] for r in theirs]
            squares = (len(a) - 1) * statistics.variance(a) + (len(b) - 1) * statistics.variance(b)
            pooled = (squares / (len(a) + len(b) - 2)) ** 0.5
            gap = statistics.fmean(a) - statistics.fmean(b)
            verdict = "met" if gap >= -2 * pooled else "not met"
            lines.append(
                f"{column}: ours - torchvision = {gap:+.4f}; pooled standard deviation {pooled:.4f};"
                f" not worse by more than two of them: {verdict}."
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="a recipe of R18 with group norm")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "nuclei_benchmark")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS[:3]))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--report", action="store_true", help="only print the tables")
    parser.add_argument("--single", nargs=2, metavar=("SEED", "OP"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.single is not None:
        train_torchvision(args.config, args.single[1], int(args.single[0]), args.out, args.overrides)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.report:
        for seed in args.seeds:
            for variant in args.variants:
                run_variant(args.config.resolve(), variant, seed, args.out, args.overrides)
    print("\n" + report(args.out, args.seeds))


if __name__ == "__main__":
    main()
