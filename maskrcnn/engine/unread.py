"""Steps whose figures stay on the device: nothing of them is waited for before it is due.

A GPU runs behind the host that queues its work.  Reading one number back makes the host wait until the GPU
has nothing left to do, and the GPU then until the host has queued anew; a step must not do that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from maskrcnn.engine.distributed import Ranks

#: Steps after which figures are read at the latest, whatever is logged (which is 20 as well by default).
MOST_UNREAD = 20


class UnreadFigures:
    """The losses and gradient norms of the steps since the last reading.

    ranks: the processes; all of them add and read the same steps.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._steps: list[tuple[list[str], Tensor]] = []
        #: Bool scalar on the device: whether a figure of this step, or of one before that was not read yet,
        #: is not finite.  The same on all ranks.
        self.bad = torch.zeros((), dtype=torch.bool, device=ranks.device)

    def add_losses(self, losses: Mapping[str, Tensor]) -> None:
        """Those of a step, name -> scalar; summed over the ranks, where there must be as many."""
        values = self._ranks.sum(torch.stack([*losses.values()]))
        self._steps.append(([*losses], values / self._ranks.size))

    def add_norm(self, norm: Tensor, *, must_be_finite: bool) -> None:
        """The gradient's, a scalar, of the step whose losses were added last."""
        names, means = self._steps[-1]
        values = torch.cat([means, norm.to(means).view(1)])
        self._steps[-1] = names, values
        judged = values if must_be_finite else means
        self.bad = self.bad | ~judged.isfinite().all()

    def keep(self, count: int) -> None:
        """Forget all but the first ``count`` steps: the one after them was not made."""
        del self._steps[count:]

    def read(self) -> list[tuple[dict[str, float], float]]:
        """Wait for the device: (name -> mean loss over the ranks, norm) of each step; they are forgotten."""
        steps, self._steps = self._steps, []
        self.bad = torch.zeros_like(self.bad)
        if not steps:
            return []
        values = iter(torch.cat([step for _, step in steps]).tolist())
        return [({name: next(values) for name in names}, next(values)) for names, _ in steps]


def what_is_bad(losses: Mapping[str, float], norm: float | None) -> list[str]:
    """A phrase for each figure that is not finite; ``norm`` of the gradient, None where that may be so."""
    found = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
    if not found and norm is not None and not math.isfinite(norm):
        found = [f"the gradient's norm is {norm}"]
    return found


class Hearing:
    """What any rank asks for reaches all of them at the same step, one step later, and no device waits.

    Flags travel between the hosts while the next step is queued.  A process that is alone hears itself at
    once.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._sent: tuple[Tensor, Any] | None = None

    def __call__(self, flags: Sequence[bool]) -> list[bool]:
        """Send this rank's flags for this step; returns which of them any rank had set a step before."""
        if self._ranks.group is None:
            return list(flags)
        mine = torch.tensor(flags, dtype=torch.int32)
        work = dist.all_reduce(mine, op=dist.ReduceOp.MAX, group=self._ranks.group, async_op=True)
        sent, self._sent = self._sent, (mine, work)
        if sent is None:
            return [False] * len(flags)
        sent[1].wait()
        return [bool(flag) for flag in sent[0].tolist()]


def update_unless(
    bad: Tensor,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    statistics: Sequence[tuple[Tensor, Tensor]],
) -> None:
    """An optimizer step, and the scaler's update, unless ``bad``: then nothing is changed by them.

    Equal to the bit to one without ``bad`` where that is false.  Fused optimizers leave the update out
    themselves; of others (and below a scaler, which has a reason of its own to leave one out) everything on
    the device is copied before.  What an optimizer counts on the host counts on.

    Args:
        bad: bool scalar on the parameters' device.
        statistics: buffers that the forward pass has changed, with their copies from before: put back.
    """
    for buffer, copy in statistics:
        buffer.copy_(torch.where(bad, copy, buffer))
    if not scaler.is_enabled() and getattr(optimizer, "_step_supports_amp_scaling", False):
        fused: Any = optimizer
        fused.found_inf = bad.float()
        try:
            optimizer.step()
        finally:
            del fused.found_inf
        return
    before = {place: tensor.clone() for place, tensor in _changed(optimizer, scaler, bad.device)}
    scaler.step(optimizer)
    scaler.update()
    for place, tensor in _changed(optimizer, scaler, bad.device):
        old = before.get(place)  # state that this step has made is zeros, as optimizers begin
        tensor.copy_(torch.where(bad, torch.zeros_like(tensor) if old is None else old, tensor))


def _changed(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, device: torch.device
) -> Iterator[tuple[object, Tensor]]:
    """All on ``device`` that a step changes, by a key that stays."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield parameter, parameter.data
            for name, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.device == device:
                    yield (parameter, name), value
    for name in ("_scale", "_growth_tracker") if scaler.is_enabled() else ():
        yield name, getattr(scaler, name)


def start_momenta(optimizer: torch.optim.Optimizer) -> None:
    """Give fused SGD its momenta, zeros, before the first step.

    A first step that is left out would else leave them uninitialised: torch's ``_fused_sgd`` makes them by
    ``empty_like`` and takes them for filled from then on.
    """
    if not isinstance(optimizer, torch.optim.SGD) or optimizer.state:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["fused"] and group["momentum"] else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
