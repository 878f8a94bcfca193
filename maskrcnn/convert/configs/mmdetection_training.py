"""mmdetection's pipelines, data and schedules in ours: epochs become steps."""

from __future__ import annotations

from typing import Any

from maskrcnn.convert.configs.foreign_keys import Converted, ForeignConfig
from maskrcnn.errors import plural

#: Images of COCO train2017 that have objects: its data set leaves the others out.
COCO_IMAGES = 117_266
#: GPUs that its configs are meant for, where they do not say for how many images their rate is.
_GPUS = 8
_COCO = ("annotations/instances_train2017.json", "annotations/instances_val2017.json")
#: Steps of a pipeline that load, pack and pad, as is done here by itself.
_PLAIN = (
    *("LoadImageFromFile", "PackDetInputs", "Pad", "DefaultFormatBundle", "Collect", "ImageToTensor"),
    *("FilterAnnotations", "DefaultFormatBundleWithMask"),
)


def convert_data(theirs: ForeignConfig, out: Converted, masks: bool) -> None:
    """Images, transforms, pixel statistics and padding."""
    new = theirs.given("train_dataloader")
    train = "train_dataloader.dataset" if new else "data.train"
    val = "val_dataloader.dataset" if new else "data.val"
    inner = train
    while theirs.given(f"{inner}.dataset"):
        inner += ".dataset"
    for part, path, split in (("train", inner, "train2017"), ("val", val, "val2017")):
        _files(theirs, out, part, path, split)
    pipeline = theirs.peek(f"{inner}.pipeline") or theirs.peek("train_pipeline") or []
    tests = theirs.peek(f"{val}.pipeline") or theirs.peek("test_pipeline") or []
    if not pipeline or not tests:
        theirs.refuse(train, "no pipeline is given for training or for evaluation")
    out.set(
        "data.train_transforms", _transforms(theirs, out, pipeline, f"{train}.pipeline"), "train_pipeline"
    )
    found = _transforms(theirs, out, tests, f"{val}.pipeline", training=False)
    out.set("data.eval_transforms", found, "test_pipeline")
    loads: dict[str, Any] = next((step for step in pipeline if step.get("type") == "LoadAnnotations"), {})
    if masks:
        drawn = loads.get("poly2mask", True)
        out.set("model.mask_target", "bitmask_hard" if drawn else "polygon", "LoadAnnotations.poly2mask")
    _pixels(theirs, out, pipeline)
    if (filtering := theirs.peek(f"{inner}.filter_cfg.filter_empty_gt")) is not None:
        out.set("data.train.filter_empty", filtering, f"{inner}.filter_cfg.filter_empty_gt")
    for key in (train, val, "data.test", "data.workers_per_gpu", "train_dataloader.num_workers"):
        theirs.get(key)
    for name in ("train_dataloader", "val_dataloader", "data"):
        for key in ("persistent_workers", "sampler", "batch_sampler", "drop_last", "num_workers"):
            theirs.get(f"{name}.{key}")
        if name != "train_dataloader":
            theirs.get(f"{name}.batch_size")


def _files(theirs: ForeignConfig, out: Converted, part: str, path: str, split: str) -> None:
    file = theirs.peek(f"{path}.ann_file")
    if not isinstance(file, str):
        out.note(f"{path}.ann_file: set images and annotations of data.{part}")
        return
    root = theirs.peek(f"{path}.data_root") or ""
    folder = theirs.peek(f"{path}.data_prefix.img") or theirs.peek(f"{path}.img_prefix") or ""
    if file.endswith(_COCO):  # as the base has it, below $COCO_ROOT
        return
    known = theirs.peek(f"{path}.type")
    if known not in (None, "CocoDataset"):
        out.note(f"{path}.type {known}: set images and annotations of data.{part}, a COCO json")
        return
    names = {"annotations": file, "images": folder}
    for key, name in names.items():
        joined = name if name.startswith((root, "/")) else f"{root.rstrip('/')}/{name}"
        out.set(f"data.{part}.{key}", joined.rstrip("/") or ".", f"{path}.{key}")


def _transforms(
    theirs: ForeignConfig, out: Converted, steps: list[Any], path: str, *, training: bool = True
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for i, step in enumerate(steps):
        kind = step.get("type") if isinstance(step, dict) else None
        if kind == "MultiScaleFlipAug":
            inner = [
                {**s, "scale": step.get("img_scale")} if s.get("type") == "Resize" else s
                for s in step.get("transforms", [])
            ]
            if step.get("flip") or not _is_pair(step.get("img_scale")):
                out.note(f"{path}.{i}: views of several sizes or mirrored ones are eval.tta here")
            found += _transforms(theirs, out, inner, path, training=training)
        elif kind in ("Resize", "RandomResize", "RandomChoiceResize"):
            found.append(_resize(theirs, step, path, steps[i + 1 :]))
        elif kind == "RandomFlip":
            if training:
                p = step.get("prob", step.get("flip_ratio"))
                ways = {"horizontal": "hflip", "vertical": "vflip"}
                way = step.get("direction", "horizontal")
                if not isinstance(p, (int, float)) or not isinstance(way, str) or way not in ways:
                    out.note(f"{path}.{i} RandomFlip: its directions or probabilities have no counterpart")
                else:
                    found.append({"type": ways[way], "p": float(p)})
        elif (
            (kind == "RandomCrop" and found and found[-1]["type"] == "large_scale_jitter")
            or kind == "LoadAnnotations"
            or kind == "Normalize"
            or kind in _PLAIN
        ):
            continue
        else:
            out.note(f"{path}.{i} {kind}: has no counterpart and is left out")
    return found


def _is_pair(scale: Any) -> bool:
    return isinstance(scale, list) and len(scale) == 2 and all(isinstance(n, (int, float)) for n in scale)


def _resize(theirs: ForeignConfig, step: dict[str, Any], path: str, later: list[Any]) -> dict[str, Any]:
    kind = step["type"]
    scale: Any = step.get("scale", step.get("img_scale", step.get("scales")))
    ratios = step.get("ratio_range")
    if ratios and _is_pair(scale):
        crops = [s for s in later if isinstance(s, dict) and s.get("type") == "RandomCrop"]
        if not crops or crops[0].get("crop_size") != scale:
            theirs.refuse(
                path, "a ratio_range is known with a RandomCrop of the same size (large-scale jitter)"
            )
        jitter = {"type": "large_scale_jitter", "size": scale[::-1], "min_scale": ratios[0]}
        return jitter | {"max_scale": ratios[1]}
    if step.get("keep_ratio", True) is not True and kind == "Resize":
        theirs.refuse(path, "Resize with keep_ratio=False distorts images; write keep_ratio=True")
    sizes = [scale] if _is_pair(scale) else scale
    if not isinstance(sizes, list) or not sizes or not all(map(_is_pair, sizes)):
        theirs.refuse(path, f"the sizes {scale!r} of {kind} are not known")
    drawn = kind == "RandomResize" or step.get("multiscale_mode", "range") == "range"
    sample = "range" if len(sizes) == 2 and drawn and kind != "RandomChoiceResize" else "choice"
    shorter, longer = [min(pair) for pair in sizes], {max(pair) for pair in sizes}
    return {
        "type": "resize_shortest_edge",
        "min_sizes": sorted(shorter),
        "max_size": max(longer),
        "sample": sample,
        "resample": "linear",
    }


def _pixels(theirs: ForeignConfig, out: Converted, pipeline: list[Any]) -> None:
    """``data_preprocessor`` of version 3, ``Normalize`` and ``Pad`` of version 2."""
    version3, where = theirs.peek("model.data_preprocessor"), "model.data_preprocessor"
    found = version3 or next((s for s in pipeline if s.get("type") == "Normalize"), None)
    if found is None or not isinstance(found.get("mean"), list):
        theirs.refuse(
            where,
            "mean and std of the pixels are given nowhere; add data_preprocessor=dict("
            "type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],"
            " bgr_to_rgb=True, pad_size_divisor=32) to model, as its own configs have it",
        )
    if not isinstance(found.get("std"), list):
        theirs.must(f"{where}.std")
    mean, std = found["mean"], found["std"]
    turned = found.get("bgr_to_rgb", False) if version3 else found.get("to_rgb", True)
    if not turned:
        mean, std = mean[::-1], std[::-1]
        out.note(
            "images are read as B, G, R there, and as R, G, B here: the statistics are turned, and so are"
            " weights by maskrcnn convert"
        )
    out.set(
        "model.preprocess.mean", mean, f"{where}.mean, R, G, B" if version3 else "Normalize.mean, R, G, B"
    )
    out.set("model.preprocess.std", std, f"{where}.std, R, G, B" if version3 else "Normalize.std, R, G, B")
    pad: dict[str, Any] = next((s for s in pipeline if s.get("type") == "Pad"), {})
    divisor = found.get("pad_size_divisor", 1) if version3 else pad.get("size_divisor", 1)
    out.set("model.preprocess.size_divisor", divisor or 1, "pad_size_divisor")
    for key in ("mean", "std", "bgr_to_rgb", "pad_size_divisor", "rgb_to_bgr"):
        theirs.get(f"{where}.{key}")


def convert_schedule(theirs: ForeignConfig, out: Converted, images: int | None) -> None:
    """Optimizer, batch, and the schedule in steps."""
    new = theirs.given("optim_wrapper") or theirs.given("train_dataloader")
    optimizer = "optim_wrapper.optimizer" if new else "optimizer"
    kinds = {"SGD": "sgd", "AdamW": "adamw"}
    kind = theirs.needs(f"{optimizer}.type", kinds)
    out.set("solver.optimizer.type", kind, f"{optimizer}.type")
    for key, name in (("lr", "lr"), ("weight_decay", "weight_decay")):
        out.copy(theirs, f"solver.optimizer.{name}", f"{optimizer}.{key}", 0.0)
    if kind == "sgd":
        out.copy(theirs, "solver.optimizer.momentum", f"{optimizer}.momentum", 0.0)
        # Its weight decay is that of norms too, where no paramwise_cfg says otherwise.
        decay = out.settings["solver.optimizer.weight_decay"]
        spared = theirs.get(f"{optimizer.rpartition('.')[0] or optimizer}.paramwise_cfg.norm_decay_mult", 1.0)
        out.set("solver.optimizer.weight_decay_norm", decay * spared, f"{optimizer}.weight_decay")
    half = theirs.peek("optim_wrapper.type") == "AmpOptimWrapper" or theirs.peek("fp16") is not None
    out.set("solver.precision", "float16" if half else "float32", "optim_wrapper.type" if new else "fp16")
    for key in ("optim_wrapper.type", "optim_wrapper.loss_scale", "fp16", "optimizer_config.type"):
        theirs.get(key)
    clip = "optim_wrapper.clip_grad" if new else "optimizer_config.grad_clip"
    out.set("solver.clip_grad_norm", (theirs.get(clip) or {}).get("max_norm"), clip)
    batch = _batch(theirs, out)
    per_epoch = _steps_of_epoch(theirs, out, batch, images)
    _schedule(theirs, out, per_epoch, new)


def _batch(theirs: ForeignConfig, out: Converted) -> int:
    key = "train_dataloader.batch_size" if theirs.given("train_dataloader") else "data.samples_per_gpu"
    each, total = theirs.get(key), theirs.get("auto_scale_lr.base_batch_size")
    theirs.get("auto_scale_lr.enable")
    theirs.get("auto_scale_lr")
    if not isinstance(total, int):
        if not isinstance(each, int):
            theirs.refuse(key, "the images of a step are given nowhere")
        total = _GPUS * each
        out.note(f"{key} {each}: taken as {plural(total, 'image')} a step, on the 8 GPUs of its configs")
    out.set("solver.batch_size", total, "auto_scale_lr.base_batch_size")
    out.set("solver.reference_batch_size", total, "auto_scale_lr.base_batch_size")
    return int(total)


def _steps_of_epoch(theirs: ForeignConfig, out: Converted, batch: int, images: int | None) -> float:
    inner, times = "train_dataloader.dataset" if theirs.given("train_dataloader") else "data.train", 1
    while theirs.given(f"{inner}.dataset"):
        times *= theirs.peek(f"{inner}.times") or 1
        inner += ".dataset"
    file = str(theirs.peek(f"{inner}.ann_file") or "")
    if images is None and not file.endswith(_COCO[0]):
        theirs.refuse(
            f"{inner}.ann_file",
            "its schedule counts epochs, of as many images as is not said here; say it: --train-images N",
        )
    count = images or COCO_IMAGES
    steps = count * times / batch
    epoch = f"one of {plural(count * times, 'image')} is {plural(round(steps), 'step')}"
    out.note(f"epochs are turned into steps: {epoch}")
    return steps


def _schedule(theirs: ForeignConfig, out: Converted, epoch: float, new: bool) -> None:
    loop = "train_cfg" if new else "runner"
    steps = theirs.get(f"{loop}.max_iters")
    epochs = theirs.get(f"{loop}.max_epochs") or theirs.get("total_epochs")
    if steps is None and epochs is None:
        theirs.refuse(loop, "neither max_epochs nor max_iters is given")
    total = steps if steps is not None else round(epochs * epoch)
    out.set("solver.steps", total, f"{loop}.max_epochs {epochs}" if steps is None else f"{loop}.max_iters")
    interval = theirs.get(f"{loop}.val_interval") or theirs.peek("evaluation.interval") or 1
    every = interval if steps is not None else round(interval * epoch)
    out.set("train.eval_every", min(every, total), f"{loop}.val_interval")
    theirs.get(loop)
    warm: tuple[int, float] = (0, 1.0)
    if new:
        parts = theirs.get("param_scheduler") or []
        parts = parts if isinstance(parts, list) else [parts]
        main: dict[str, Any] = {}
        for part in parts:
            if part.get("type") == "LinearLR":
                end = part.get("end", 0) * (1 if part.get("by_epoch") is False else epoch)
                warm = round(end), float(part.get("start_factor", 1 / 3))
            else:
                main = part
        by_epoch = main.get("by_epoch", True)
        kind, at = main.get("type"), main.get("milestones", [])
        gamma, least = main.get("gamma", 0.1), main.get("eta_min", 0.0)
        key = "param_scheduler"
    else:
        main = theirs.get("lr_config") or {}
        by_epoch = steps is None and main.get("by_epoch", True)
        kind = {"step": "MultiStepLR", "CosineAnnealing": "CosineAnnealingLR"}.get(main.get("policy", ""))
        at, gamma, least = main.get("step", []), main.get("gamma", 0.1), main.get("min_lr", 0.0)
        if main.get("warmup") is not None:
            warm = int(main.get("warmup_iters", 0)), float(main.get("warmup_ratio", 0.1))
        key = "lr_config"
    if kind == "MultiStepLR":
        marks = [round(m * epoch) if by_epoch else m for m in at]
        out.set("solver.schedule.type", "multistep", key)
        out.set("solver.schedule.milestones", marks, f"{key}: {at}")
        out.set("solver.schedule.gamma", gamma, key)
    elif kind == "CosineAnnealingLR":
        out.set("solver.schedule.type", "cosine", key)
        out.set("solver.schedule.final_factor", least / out.settings["solver.optimizer.lr"], key)
    else:
        theirs.refuse(key, "is a schedule that is not known here; known are steps and a cosine")
    out.set("solver.schedule.warmup_steps", warm[0], key)
    out.set("solver.schedule.warmup_factor", warm[1], key)
