"""Optimizers, their parameter groups, what is frozen and what has a rate of its own, gradient clipping."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import Annotated, Any, Protocol

import torch
from torch import Tensor, nn

from maskrcnn.config import Config, Range, Registry
from maskrcnn.config.ranges import NotNegative
from maskrcnn.errors import ConfigError, few
from maskrcnn.modeling.mask_rcnn import MaskRCNN

#: Images a step that SGD's default rate is meant for (FPN's release).
REFERENCE_BATCH_SIZE = 16
#: Layers whose weight and bias are a normalisation's scale and shift.
_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


class OptimizerConfig(Protocol):
    """What fills the slot ``solver.optimizer``."""

    @property
    def lr(self) -> float:
        """Base learning rate, at ``solver.reference_batch_size`` images a step."""
        ...

    def build(self, model: nn.Module, lr: float) -> torch.optim.Optimizer:
        """The optimizer of ``model``'s trainable parameters at the (already scaled) rate ``lr``."""
        ...


#: Parts of a mean that the next one keeps.
Decay = Annotated[float, Range(0, below=1)]

#: The slot ``solver.optimizer``.
OPTIMIZERS: Registry[OptimizerConfig] = Registry("optimizer")


def covers(pattern: str, name: str) -> bool:
    """Whether ``pattern`` names the part ``name`` of a model, or a part that holds it.

    Args:
        pattern: as ``backbone`` or ``roi.box_head.*``; ``*`` stands for any characters, dots too.
        name: of a module or parameter, as ``named_parameters`` has it.
    """
    return any(fnmatchcase(part, pattern) for part in accumulate(name.split("."), "{}.{}".format))


def check_patterns(model: nn.Module, key: str, patterns: Iterable[str]) -> None:
    """
    Raises:
        ConfigError: one names no part of ``model``; ``key`` is where it stands in the config.
    """
    names = [name for name, _ in (*model.named_modules(), *model.named_parameters()) if name]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=3)
            tops = (name for name, part in model.named_children() if any(True for _ in part.parameters()))
            known = map(repr, near or tops)
            meant = f"did you mean {' or '.join(known)}?" if near else f"its parts are {few(known)}"
            raise ConfigError(f"{key} names {pattern!r}, and no part of the model is called so; {meant}")


def freeze(model: MaskRCNN, patterns: Iterable[str]) -> list[str]:
    """Stop parameters from training, for good: to be done before there is an optimizer, or a strategy.

    Modules that are named, or whose own parameters are, stay in evaluation mode: normalisation keeps its
    statistics.

    Args:
        patterns: see :func:`covers`.

    Returns:
        The names of the parameters that are frozen now and were not before.

    Raises:
        ConfigError: a pattern names nothing, or nothing is left to train.
    """
    patterns = tuple(patterns)
    if not patterns:
        return []
    check_patterns(model, "solver.freeze", patterns)

    def named(name: str) -> bool:
        return any(covers(pattern, name) for pattern in patterns)

    found = {n: p.requires_grad_(False) for n, p in model.named_parameters() if p.requires_grad and named(n)}
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(
            f"solver.freeze [{few(patterns)}] leaves nothing to train; name less of the model there"
        )
    for name, module in model.named_modules():
        own = [f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)]
        if name and (named(name) or (own and all(map(named, own)))):
            model.frozen.append(module)
    return list(found)


def set_rates(optimizer: torch.optim.Optimizer, model: nn.Module, rates: Mapping[str, float]) -> None:
    """Split the groups of a new optimizer, of whatever kind, by the rates of their parameters.

    Each part of a group keeps all that the group has.  One with a factor has that beside, as ``rate``, which
    :class:`maskrcnn.engine.step.Step` multiplies the scheduled rate with, and its ``pattern``, which its name
    tells too.

    Args:
        rates: factor of the learning rate by pattern (see :func:`covers`).  Of several patterns that cover a
            parameter the longest counts, in characters; of equally long ones the last.

    Raises:
        ConfigError: a pattern names no part of ``model``.
    """
    check_patterns(model, "solver.rates", rates)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ranked = sorted(rates, key=len)  # stable: of equals the last stays last
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups if rates else ():
        parts: dict[str | None, list[Tensor]] = {}
        for parameter in group["params"]:
            name = names[id(parameter)]
            found = next((pattern for pattern in reversed(ranked) if covers(pattern, name)), None)
            parts.setdefault(found, []).append(parameter)
        for pattern, params in parts.items():
            own: dict[str, Any] = {}
            if pattern is not None:
                label = f"{group.get('name', 'parameters')} of {pattern}"
                own = {"rate": rates[pattern], "pattern": pattern, "name": label}
            groups.append({**group, "params": params, **own})
    optimizer.param_groups[:] = groups or optimizer.param_groups


def rates_of(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The factors that :func:`set_rates` gave to parameters, by pattern."""
    return {g["pattern"]: g["rate"] for g in optimizer.param_groups if "pattern" in g}


def parameter_groups(
    model: nn.Module, weight_decay: float, weight_decay_norm: float, weight_decay_bias: float | None
) -> list[dict[str, object]]:
    """Trainable parameters by weight decay, each once, in the order of the model.

    Args:
        model: frozen parameters (``requires_grad`` false) are left out.
        weight_decay: for weights.
        weight_decay_norm: for scale and shift of normalisation layers.
        weight_decay_bias: for biases of all other layers; None: as ``weight_decay``.

    Returns:
        At most three groups ``{"name", "params", "weight_decay"}``; empty ones are left out.

    Raises:
        ConfigError: nothing is trainable.
    """
    names = ("weights", "norms", "biases")
    bias = weight_decay if weight_decay_bias is None else weight_decay_bias
    decays = (weight_decay, weight_decay_norm, bias)
    params: tuple[list[Tensor], ...] = ([], [], [])
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            kind = 1 if isinstance(module, _NORMS) else 2 if name.endswith("bias") else 0
            params[kind].append(parameter)
    if not seen:
        raise ConfigError(
            "every parameter of the model is frozen, so there is nothing to train; free some (requires_grad),"
            " as by model.backbone.freeze_at: 0"
        )
    groups = zip(names, params, decays, strict=True)
    return [{"name": n, "params": p, "weight_decay": d} for n, p, d in groups if p]


def _total_norm(grads: list[Tensor]) -> Tensor:
    """L2 norm of all together, a scalar; of gradients that are dealt out over ranks that of the whole."""
    norm: Any = torch.nn.utils.get_total_norm(grads)
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return whole


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale all gradients down so that their common L2 norm is at most ``max_norm`` (Pascanu et al. 2013).

    Returns:
        The norm before clipping; non-finite when a gradient is, and then nothing was scaled.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return 0.0
    norm = float(_total_norm(grads))
    if norm > max_norm and norm != float("inf"):
        torch._foreach_mul_(grads, max_norm / (norm + 1e-6))
    return norm


def clip_unread(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """:func:`clip_gradients` without waiting for the device; None: do not clip.

    Returns:
        The norm before clipping, a scalar on the gradients' device.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = _total_norm(grads)
    if grads and max_norm is not None:
        # As there in double precision, so that the bits are the same; a factor of 1 changes none.
        factor = torch.where(norm > max_norm, max_norm / (norm.double() + 1e-6), 1.0)
        torch._foreach_mul_(grads, factor.to(grads[0].dtype))
    return norm


@OPTIMIZERS.register("sgd")
@dataclass(frozen=True, kw_only=True)
class SGDConfig(Config):
    """Stochastic gradient descent with momentum: the published Mask R-CNN recipe."""

    #: Learning rate at ``solver.reference_batch_size``, >= 0.  Default 0.02 at 16 images (FPN's release).
    lr: NotNegative = 0.02
    #: Momentum, in [0, 1).  Default 0.9 (Mask R-CNN, section 3.1).
    momentum: Decay = 0.9
    #: Nesterov's form of the momentum.  Default false.
    nesterov: bool = False
    #: L2 penalty on weights, >= 0.  Default 0.0001 (Mask R-CNN, section 3.1).
    weight_decay: NotNegative = 1e-4
    #: The same for scale and shift of normalisation layers.  Default 0 (Detectron2's WEIGHT_DECAY_NORM).
    weight_decay_norm: NotNegative = 0.0
    #: The same for biases; null: as ``weight_decay``, Detectron2's WEIGHT_DECAY_BIAS.  Default null.
    weight_decay_bias: NotNegative | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov needs a momentum > 0")

    def build(self, model: nn.Module, lr: float) -> torch.optim.Optimizer:
        """See :class:`OptimizerConfig`."""
        return torch.optim.SGD(
            parameter_groups(model, self.weight_decay, self.weight_decay_norm, self.weight_decay_bias),
            lr=lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            fused=True,  # one kernel for all parameters, on the CPU and on CUDA
        )


@OPTIMIZERS.register("adamw")
@dataclass(frozen=True, kw_only=True)
class AdamWConfig(Config):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    #: Learning rate at ``solver.reference_batch_size``, >= 0.  Default 0.0001 (Swin, Mask R-CNN recipes).
    lr: NotNegative = 1e-4
    #: Decay of the means of the gradient and of its square, each in [0, 1).  Default 0.9, 0.999 (Adam).
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    #: Added to the denominator, >= 0.  Default 1e-8 (Adam, algorithm 1).
    eps: NotNegative = 1e-8
    #: Decoupled decay of weights, >= 0.  Default 0.05 (Swin, Mask R-CNN recipes).
    weight_decay: NotNegative = 0.05
    #: The same for scale and shift of normalisation layers.  Default 0.
    weight_decay_norm: NotNegative = 0.0
    #: The same for biases; null: as ``weight_decay``.  Default 0.
    weight_decay_bias: NotNegative | None = 0.0

    def build(self, model: nn.Module, lr: float) -> torch.optim.Optimizer:
        """See :class:`OptimizerConfig`."""
        return torch.optim.AdamW(
            parameter_groups(model, self.weight_decay, self.weight_decay_norm, self.weight_decay_bias),
            lr=lr,
            betas=self.betas,
            eps=self.eps,
            fused=True,
        )
