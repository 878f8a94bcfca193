"""Whether a run can learn anything, asked before its first step.

What is certain to fail is refused (``check_frozen``); what is likely a mistake is told (``solver_doubts``,
``epoch_doubts``, ``norm_doubts``), a sentence each with the key to change.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from maskrcnn.engine.optim import REFERENCE_BATCH_SIZE, SGDConfig
from maskrcnn.engine.schedules import CosineConfig
from maskrcnn.errors import ConfigError, plural
from maskrcnn.modeling.mask_rcnn import MaskRCNN, MaskRCNNConfig
from maskrcnn.recipe import SolverConfig
from maskrcnn.run.preflight import CHECKS, Start
from maskrcnn.run.setup import images_per_pass

#: Parts deep enough that they do not train where their normalisation does nothing.
_DEEP = ("backbone.", "roi.trunk.")
#: Names that a message lists.
_SHOWN = 3
#: So many times the default rate an image is told, however it was written; training from scratch with
#: normalisation bears about four times (configs/nuclei).
_HIGH = 8.0


@CHECKS.register("frozen")
def look_at_frozen(start: Start) -> None:
    """See :func:`check_frozen`."""
    assert start.model is not None
    check_frozen(start.model, start.recipe.model, start.held)


@CHECKS.register("learning")
def doubts(start: Start) -> list[str]:
    """What is likely a mistake in a training that begins, a sentence each."""
    assert start.model is not None
    solver = start.recipe.solver
    norms = norm_doubts(start.model, images_per_pass(start.recipe, start.ranks), start.ranks.size)
    return [*solver_doubts(solver), *epoch_doubts(solver, len(start.dataset)), *norms]


def check_frozen(model: MaskRCNN, config: MaskRCNNConfig, held: Collection[str] = ()) -> None:
    """Refuse layers that are not trained and that no file gave a value; for models without ``weights``.

    It is judged by the tensors themselves, so that parts of one's own are, too: a frozen parameter is random
    where it comes out otherwise when the model is built again, and a frozen normalisation does nothing where
    all its tensors are as they are made.

    Args:
        model: as built by ``config``, nothing loaded since, on any device.
        held: names of the parameters that ``solver.freeze`` froze.

    Raises:
        ConfigError: names them and the keys to set.
    """
    layers, norms = random_frozen(model, config), idle_norms(model)
    if not layers and not norms:
        return
    found = []
    if layers:
        many = plural(len(layers), "frozen parameter is", "frozen parameters are")
        found.append(f"{many} random ({_some(layers)})")
    if norms:
        many = plural(len(norms), "frozen normalisation does", "frozen normalisations do")
        found.append(f"{many} nothing ({_some(norms)})")
    raise ConfigError(
        f"the model cannot learn: no file gave it weights, and {' and '.join(found)}."
        f" {_advice(config, layers, norms, held)} If you mean it, set train.allow_frozen_random: true"
    )


def check_fresh(names: Collection[str], source: Path) -> None:
    """Refuse parameters of a model with ``weights`` that these leave to chance, and that do not train.

    Args:
        names: of parameters that ``solver.freeze`` froze and that started afresh.
        source: the file of weights.

    Raises:
        ConfigError: there are any.
    """
    if names:
        many = plural(len(names), "frozen parameter stays", "frozen parameters stay")
        raise ConfigError(
            f"{many} random ({_some(sorted(names))}), since {source} gives no value to"
            " them; take them out of solver.freeze. If you mean it, set train.allow_frozen_random: true"
        )


def random_frozen(model: MaskRCNN, config: MaskRCNNConfig) -> list[str]:
    """Names of the parameters that are not trained and that only chance decided."""
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    if not frozen:
        return []
    with _other_chance():
        other = dict(config.build(model.num_classes).named_parameters())
    return [n for n, p in frozen.items() if n in other and not torch.equal(p.detach().cpu(), other[n].cpu())]


def idle_norms(model: MaskRCNN) -> list[str]:
    """Names of the deep parts' normalisations that are fixed, and that are the identity."""
    training = model.training
    model.train()  # parts keep their frozen layers in evaluation mode
    found = [
        name
        for name, module in model.named_modules()
        if name.startswith(_DEEP) and _is_fixed_norm(module) and _is_identity(module)
    ]
    model.train(training)
    return found


def _is_fixed_norm(module: nn.Module) -> bool:
    if not all(isinstance(getattr(module, n, None), Tensor) for n in ("running_mean", "running_var")):
        return False
    if isinstance(module, _BatchNorm):
        return not module.training
    return not any(p.requires_grad for p in module.parameters(recurse=False))


def _is_identity(module: nn.Module) -> bool:
    for name, value in (("running_mean", 0), ("running_var", 1), ("weight", 1), ("bias", 0)):
        tensor = getattr(module, name, None)
        if isinstance(tensor, Tensor) and not bool((tensor == value).all()):
            return False
    return True


@contextmanager
def _other_chance() -> Iterator[None]:
    """Other random numbers than a run's, whose generators are left as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - parts of one's own may use it
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch.initial_seed() ^ 0x5EED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def _advice(
    config: MaskRCNNConfig, layers: Sequence[str], norms: Sequence[str], held: Collection[str]
) -> str:
    """The keys of this backbone that load weights, and those that free what is frozen."""
    keys = {f.name for f in fields(config.backbone)}  # type: ignore[arg-type]
    free = ["solver.freeze: []"] if held else []
    layers = [name for name in layers if name not in held]
    norms = [name for name in norms if f"{name}.weight" not in held]
    deep = [name for name in layers if name.startswith(_DEEP)]
    if deep and "freeze_at" in keys:
        free.append("model.backbone.freeze_at: 0")
    elif deep and "freeze" in keys:
        free.append("model.backbone.freeze: []")
    if norms and "norm" in keys:
        free.append("model.backbone.norm: gn")
    elif norms and "frozen_bn" in keys:
        free.append("model.backbone.frozen_bn: false")
    own = "model.backbone.weights: FILE for the backbone alone, or " if "weights" in keys else ""
    text = (
        f"Name a file of weights ({own}weights: FILE for the whole model; or a name that 'maskrcnn weights"
        " list' shows), or train from scratch: "
    )
    if free and len(deep) == len(layers):
        like = ", as configs/base/scratch.yaml does for a ResNet" if deep or norms else ""
        return f"{text}set {' and '.join(free)}{like}."
    rest = "let the parts named here train their parameters (requires_grad) and normalise"
    return text + (f"set {' and '.join(free)}, and {rest}." if free else f"{rest}.")


def solver_doubts(solver: SolverConfig) -> list[str]:
    """What of the rates looks like a mistake; needs neither data nor model."""
    return [*_rate_doubts(solver), *_schedule_doubts(solver)]


def _rate_doubts(solver: SolverConfig) -> list[str]:
    rate, batch = solver.learning_rate, solver.batch_size
    if rate == 0:
        return ["solver.optimizer.lr is 0, so nothing will be learned; set it above 0"]
    if not isinstance(solver.optimizer, SGDConfig):  # Adam's steps hardly depend on the size of the batch
        return []
    usual = SGDConfig.lr / REFERENCE_BATCH_SIZE * batch
    told = f"{rate / usual:.3g} times the usual {usual:.3g} for solver.batch_size {batch}"
    if solver.reference_batch_size is None and solver.optimizer.lr == SGDConfig.lr and rate > 2 * usual:
        doubt = (
            f"solver.optimizer.lr {rate:g} is the default, meant for {REFERENCE_BATCH_SIZE} images a step,"
            f" and {told}; set solver.reference_batch_size: {REFERENCE_BATCH_SIZE}, which scales it, or"
            " another lr"
        )
        return [doubt]
    if rate > _HIGH * usual:
        return [f"the learning rate {rate:.3g} is {told}; if training diverges, lower solver.optimizer.lr"]
    return []


def _schedule_doubts(solver: SolverConfig) -> list[str]:
    found = []
    milestones = getattr(solver.schedule, "milestones", ())
    steps, drops = solver.steps, [solver.steps * 2 // 3, solver.steps * 8 // 9]
    if milestones and min(milestones) >= steps and 0 < drops[0] < drops[1]:
        found.append(
            f"solver.schedule.milestones {list(milestones)} lie past solver.steps {steps}, so the learning"
            f" rate never falls; set solver.schedule.milestones: {drops} (2/3 and 8/9 of the steps, as in 1x)"
        )
    warm_up = getattr(solver.schedule, "warmup_steps", 0)
    if isinstance(solver.schedule, CosineConfig):
        warm_up = solver.schedule.warms_up_for(steps)
    if warm_up >= steps:
        found.append(
            f"solver.schedule.warmup_steps {warm_up} last to the end (solver.steps {steps}), so the"
            f" learning rate never reaches its full value; set solver.schedule.warmup_steps: {steps // 10}"
        )
    return found


def epoch_doubts(solver: SolverConfig, images: int) -> list[str]:
    """Whether training ends before each of ``images`` training images was seen once."""
    seen = solver.steps * solver.batch_size
    if seen >= images:
        return []
    doubt = (
        f"solver.steps {solver.steps} x {plural(solver.batch_size, 'image')} are {seen} of"
        f" {plural(images, 'training image')}, less than one epoch; one takes solver.steps:"
        f" {-(-images // solver.batch_size)}"
    )
    return [doubt]


def norm_doubts(model: nn.Module, images_per_pass: int, ranks: int) -> list[str]:
    """Whether batch normalisation is to learn statistics from single images."""
    trained = [
        name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and any(p.requires_grad for p in module.parameters(recurse=False))
        and not (isinstance(module, nn.SyncBatchNorm) and ranks > 1)
    ]
    if images_per_pass > 1 or not trained:
        return []
    doubt = (
        f"{len(trained)} batch normalisations ({_some(trained)}) take their statistics from one image at a"
        " time (solver.batch_size / processes / solver.accumulate); use norm: gn, or a larger"
        " solver.batch_size"
    )
    return [doubt]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
