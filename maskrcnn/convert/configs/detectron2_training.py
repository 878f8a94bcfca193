"""Detectron2's keys of data, weights and solver in ours."""

from __future__ import annotations

from maskrcnn.convert.configs.foreign_keys import Converted, ForeignConfig
from maskrcnn.weights.published import registry


def convert_training(theirs: ForeignConfig, out: Converted) -> None:
    solver = "SOLVER"
    batch = theirs.get(f"{solver}.IMS_PER_BATCH")
    out.set("solver.batch_size", batch, f"{solver}.IMS_PER_BATCH")
    out.set("solver.reference_batch_size", batch, f"{solver}.IMS_PER_BATCH")
    out.copy(theirs, "solver.steps", f"{solver}.MAX_ITER")
    rate = theirs.get(f"{solver}.BASE_LR")
    out.set("solver.optimizer.type", "sgd", "")
    for key, name in (
        ("BASE_LR", "lr"),
        ("MOMENTUM", "momentum"),
        ("NESTEROV", "nesterov"),
        ("WEIGHT_DECAY", "weight_decay"),
        ("WEIGHT_DECAY_NORM", "weight_decay_norm"),
        ("WEIGHT_DECAY_BIAS", "weight_decay_bias"),
    ):
        out.copy(theirs, f"solver.optimizer.{name}", f"{solver}.{key}")
    names = {"WarmupMultiStepLR": "multistep", "WarmupCosineLR": "cosine"}
    kind = theirs.needs(f"{solver}.LR_SCHEDULER_NAME", names)
    out.set("solver.schedule.type", kind, f"{solver}.LR_SCHEDULER_NAME")
    steps, gamma = theirs.get(f"{solver}.STEPS"), theirs.get(f"{solver}.GAMMA")
    end = theirs.get(f"{solver}.BASE_LR_END")
    if kind == "multistep":
        out.set("solver.schedule.milestones", steps, f"{solver}.STEPS")
        out.set("solver.schedule.gamma", gamma, f"{solver}.GAMMA")
    else:
        out.set("solver.schedule.final_factor", end / rate, f"{solver}.BASE_LR_END")
    for key, name in (("WARMUP_ITERS", "warmup_steps"), ("WARMUP_FACTOR", "warmup_factor")):
        out.copy(theirs, f"solver.schedule.{name}", f"{solver}.{key}")
    clip = f"{solver}.CLIP_GRADIENTS"
    how, most = theirs.get(f"{clip}.CLIP_TYPE"), theirs.get(f"{clip}.CLIP_VALUE")
    theirs.get(f"{clip}.NORM_TYPE")
    wanted = bool(theirs.get(f"{clip}.ENABLED"))
    out.set("solver.clip_grad_norm", most if wanted and how == "norm" else None, clip)
    if wanted and how != "norm":
        out.note(
            f"{clip}.CLIP_TYPE {how}: gradients are clipped by their norm alone here (solver.clip_grad_norm)"
        )
    half = "float16" if theirs.get(f"{solver}.AMP.ENABLED") else "float32"
    out.set("solver.precision", half, f"{solver}.AMP.ENABLED")
    out.copy(theirs, "train.checkpoint_every", f"{solver}.CHECKPOINT_PERIOD")
    out.set("train.eval_every", theirs.get("TEST.EVAL_PERIOD") or None, "TEST.EVAL_PERIOD")
    if theirs.given("SEED"):
        out.set("seed", max(theirs.get("SEED"), 0), "SEED")


def convert_data(theirs: ForeignConfig, out: Converted) -> None:
    sizes = theirs.get("INPUT.MIN_SIZE_TRAIN")
    sizes = sizes if isinstance(sizes, list) else [sizes]
    sample = theirs.needs("INPUT.MIN_SIZE_TRAIN_SAMPLING", {"choice": "choice", "range": "range"})
    resize = {"type": "resize_shortest_edge", "resample": "antialias"}
    train = [resize | {"min_sizes": sizes, "max_size": theirs.get("INPUT.MAX_SIZE_TRAIN"), "sample": sample}]
    flips = {"horizontal": "hflip", "vertical": "vflip", "none": ""}
    if flip := theirs.needs("INPUT.RANDOM_FLIP", flips):
        train.append({"type": flip, "p": 0.5})
    out.set("data.train_transforms", train, "INPUT")
    test = {"min_sizes": [theirs.get("INPUT.MIN_SIZE_TEST")], "max_size": theirs.get("INPUT.MAX_SIZE_TEST")}
    out.set("data.eval_transforms", [resize | test], "INPUT.MIN_SIZE_TEST")
    names = [*theirs.get("DATASETS.TRAIN"), *theirs.get("DATASETS.TEST")]
    if others := sorted(
        {name for name in names if not str(name).removeprefix("keypoints_").startswith("coco_2017_")}
    ):
        out.note(
            f"DATASETS {', '.join(map(str, others))}: set images and annotations of data.train and data.val"
        )
    repeats = theirs.get("DATALOADER.REPEAT_THRESHOLD")
    if theirs.get("DATALOADER.SAMPLER_TRAIN") == "RepeatFactorTrainingSampler":
        out.set("data.repeat_threshold", repeats, "DATALOADER.REPEAT_THRESHOLD")
    if theirs.given("DATALOADER.FILTER_EMPTY_ANNOTATIONS"):
        key = "DATALOADER.FILTER_EMPTY_ANNOTATIONS"
        out.set("data.train.filter_empty", theirs.get(key), key)
    if sigmas := theirs.get("TEST.KEYPOINT_OKS_SIGMAS"):
        out.set("eval.sigmas", sigmas, "TEST.KEYPOINT_OKS_SIGMAS")
    _weights(theirs, out)


def _weights(theirs: ForeignConfig, out: Converted) -> None:
    file = str(theirs.get("MODEL.WEIGHTS") or "")
    out.set("model.backbone.weights", None, "MODEL.WEIGHTS")
    pretrained = "ImageNetPretrained" in file
    words = file.partition("://")[2].removesuffix(".pkl").split("/")
    name = "detectron2/" + "/".join(words[:3] if pretrained else words[:2])
    if "://" in file and name in registry():
        out.set("model.backbone.weights" if pretrained else "weights", name, "MODEL.WEIGHTS")
    elif file:
        out.note(
            f"MODEL.WEIGHTS {file}: convert it (maskrcnn convert) and set model.backbone.weights, or weights"
            " where it is a detector"
        )
