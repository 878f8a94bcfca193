"""Options of other frameworks' command lines, and what does the same here."""

from __future__ import annotations

import difflib
import re

#: Options, without dashes and underscores -> what ``--set`` takes, as an example, and a remark.
KEYS: dict[str, tuple[str, str]] = {
    "epochs": (
        "solver.steps=5000",
        "training is counted in steps: an epoch is as many as there are training images / solver.batch_size",
    ),
    "steps": ("solver.steps=5000", ""),
    "lr": ("solver.optimizer.lr=0.01", "meant for solver.reference_batch_size images a step"),
    "momentum": ("solver.optimizer.momentum=0.9", ""),
    "weightdecay": ("solver.optimizer.weight_decay=1e-4", ""),
    "optimizer": ("solver.optimizer=adamw", ""),
    "scheduler": ("solver.schedule=cosine", ""),
    "warmup": ("solver.schedule.warmup_steps=500", ""),
    "batch": ("solver.batch_size=4", "over all processes"),
    "accumulate": ("solver.accumulate=2", ""),
    "clip": ("solver.clip_grad_norm=10", ""),
    "amp": ("solver.precision=bfloat16", ""),
    "compile": ("solver.compile=true", ""),
    "deterministic": ("solver.deterministic=true", ""),
    "imgsz": ("data.train_transforms.0.min_sizes=[640]", "the shorter side, where that transform resizes"),
    "workers": ("data.workers=4", ""),
    "weights": (
        "weights=FILE",
        "or a name of maskrcnn weights list; model.backbone.weights for a classifier's",
    ),
    "freeze": ("model.backbone.freeze_at=2", ""),
    "backbone": ("model.backbone.depth=18", "or model.backbone={type: ...}"),
    "conf": ("model.roi.score_threshold=0.05", ""),
    "iou": ("model.roi.nms_threshold=0.5", "the threshold of non-maximum suppression"),
    "maxdet": ("model.roi.max_detections=300", ""),
    "seed": ("seed=1", ""),
    "device": ("device=cuda", "or cpu"),
    "saveperiod": ("train.checkpoint_every=500", ""),
    "evalperiod": ("train.eval_every=500", ""),
    "logperiod": ("train.log_every=10", ""),
}
#: The same for commands that take a trained model.
TRAINED_KEYS: dict[str, tuple[str, str]] = {
    "batch": ("eval.batch_size=4", ""),
    "imgsz": ("data.eval_transforms.0.min_sizes=[640]", "the shorter side, where that transform resizes"),
    "amp": ("eval.precision=bfloat16", ""),
}
_TRAINED = {"checkpoint": "--checkpoint C", "weights": "--checkpoint C"}
#: Options of our own, by command.
OPTIONS: dict[str, dict[str, str]] = {
    "train": {
        "output": "--output DIR",
        "config": "the first argument, CONFIG",
        "gpus": "torchrun --nproc-per-node N -m maskrcnn train CONFIG",
        "checkpoint": "--resume RUN to go on with a run, or --set weights=FILE to start from a file",
        "evalonly": "the command maskrcnn eval --checkpoint RUN",
        "folds": "the command maskrcnn cross-validate CONFIG --folds 5",
    },
    "eval": {
        **_TRAINED,
        "config": "an argument of its own, CONFIG",
        "output": "--results FILE",
    },
    "predict": {
        **_TRAINED,
        "conf": "--score 0.5",
        "source": "an argument of its own, IMAGE",
        "output": "--out DIR",
    },
    "proposals": {
        **_TRAINED,
        "config": "an argument of its own, CONFIG",
        "output": "--output FILE",
    },
    "ablate": {
        "gpus": "--nproc-per-run N",
        "seed": "--seeds 0 1 2",
        "config": "the first argument, SUITE",
    },
    "demo": {"output": "--output DIR"},
    "import": {"output": "--out DIR", "source": "--images DIR"},
    "export-data": {"output": "--out DIR"},
    "split": {"output": "--out DIR"},
    "browse": {"output": "--out FILE.html"},
}
#: Other spellings of the same.
_SAME = {
    "steps": "maxiter maxiters iters iterations maxsteps niter totalsteps",
    "epochs": "epoch maxepochs numepochs nepochs",
    "lr": "learningrate lr0 baselr",
    "weightdecay": "wd",
    "scheduler": "lrscheduler sched schedule",
    "optimizer": "optim opt",
    "warmup": "warmupsteps warmupiters warmupepochs",
    "batch": "batchsize b bs imsperbatch samplespergpu trainbatchsize",
    "accumulate": "gradaccum gradientaccumulationsteps accumiter accumsteps",
    "clip": "clipgrad clipgradnorm gradclip maxgradnorm",
    "amp": "fp16 half precision mixedprecision bf16",
    "imgsz": "img imgsize imagesize size minsize inputsize resize",
    "workers": "numworkers j nworkers dataloaderworkers",
    "weights": "pretrained loadfrom finetune init weightsbackbone",
    "checkpoint": "ckpt model modelpath checkpointfile snapshot",
    "freeze": "freezeat trainablebackbonelayers frozenstages",
    "backbone": "arch encoder depth",
    "conf": "confthres confthreshold confidence confidencethreshold scorethr scorethreshold threshold thresh "
    "boxscorethresh minscore",
    "iou": "iouthres iouthr nms nmsthresh nmsthreshold",
    "maxdet": "maxdets maxdetections detectionsperimage topk",
    "seed": "randomseed manualseed",
    "device": "gpu cuda cpu accelerator",
    "gpus": "numgpus ngpus nprocpernode nproc devices",
    "output": "o out outdir outputdir workdir savedir project name logdir dir outputpath rundir",
    "config": "cfg configfile data c yaml",
    "source": "input images image i inputs imgdir",
    "evalonly": "val testonly test evaluate",
    "saveperiod": "checkpointperiod saveevery saveinterval checkpointevery",
    "evalperiod": "evalevery evalinterval valinterval",
    "logperiod": "logevery printfreq loginterval",
}


def advice(command: str, word: str, *, takes_set: bool) -> str:
    """What does here what ``word`` does elsewhere; empty where that is not known.

    Args:
        command: as ``train``.
        word: the option as it was typed, with ``=value`` where it was typed so.
        takes_set: whether the command has ``--set``.
    """
    typed, equals, value = word.partition("=")
    if takes_set and "." in typed:  # a key of the config, as some command lines take them
        return f"write --set {typed.lstrip('-')}={value if equals else 'VALUE'}"
    plain = _plain(typed)
    names = [plain] + [name for name, others in _SAME.items() if plain in others.split()]
    for name in names:
        own = OPTIONS.get(command, {}).get(name)
        if own is not None:
            return f"here it is {own}"
    if not takes_set:
        return ""
    keys = {**KEYS, **TRAINED_KEYS} if command in ("eval", "predict", "proposals") else KEYS
    for name in names:
        if name in keys:
            example, remark = keys[name]
            return f"here it is --set {example}" + (f" ({remark})" if remark else "")
    return ""


def misspelt(command: str, word: str, *, takes_set: bool) -> str:
    """As :func:`advice`, for a name that is nearly one of those; empty where none is near."""
    names = {name for same, others in _SAME.items() for name in (same, *others.split()) if len(name) > 3}
    near = difflib.get_close_matches(
        _plain(word.partition("=")[0]), sorted(names | set(KEYS)), n=1, cutoff=0.75
    )
    return advice(command, f"--{near[0]}", takes_set=takes_set) if near else ""


def _plain(option: str) -> str:
    return re.sub(r"[-_]", "", option).lower()
