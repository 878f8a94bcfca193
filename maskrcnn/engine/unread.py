"""Steps whose figures stay on the device: nothing of them is waited for before it is due.

A GPU runs behind the host that queues its work.  Reading one number back makes the host wait until the GPU
has nothing left to do, and the GPU then until the host has queued anew; a step must not do that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.judging import JUDGES, Figures, Judge, start_momenta
from maskrcnn.engine.optim import clip_unread
from maskrcnn.engine.outcomes import Wishes
from maskrcnn.engine.passes import Passed

#: Steps after which figures are read at the latest, whatever is logged (which is 20 as well by default).
MOST_UNREAD = 20


@JUDGES.register("later")
class LateJudge(Judge):
    """Queues each step's update before its figures are known, and changes nothing by it where they are bad.

    Beyond ``max_skipped`` bad steps in a row no step after them changes anything either, until :meth:`read`.
    """

    most_unread = MOST_UNREAD

    def __init__(self, ranks: Ranks, *args: Any, clip_grad_norm: float | None, max_skipped: int) -> None:
        super().__init__(ranks, *args, clip_grad_norm=clip_grad_norm, max_skipped=max_skipped)
        self._unread = UnreadFigures(ranks, max_skipped)
        self._hearing = Hearing(ranks)

    def send(self, losses: Mapping[str, Tensor], wishes: Callable[[], Wishes]) -> None:
        """See :class:`Judge`; wishes travel by themselves, between the hosts."""
        self._unread.add_losses(losses)

    def judge(self, done: Passed, ran_out: bool, lost: Tensor | None, heard: Wishes | None = None) -> Wishes:
        """See :class:`Judge`; on the device, and what one rank asks for is heard a step later."""
        if lost is not None:
            self._unread.add_lost(lost)
        if heard is None:
            stop, save, self.lost = self._hearing([*done.wishes(), ran_out])
            heard = Wishes(stop, save)
        self._scaler.unscale_(self._optimizer)
        norm = clip_unread(self._parameters, self._clip)
        self._unread.add_norm(norm, must_be_finite=not self._scaler.is_enabled())
        start_momenta(self._optimizer)
        return heard

    def update(self, statistics: Sequence[tuple[Tensor, Tensor]], also: Callable[..., object]) -> None:
        """See :class:`Judge`."""
        update_unless(self._unread.bad, self._optimizer, self._scaler, statistics)
        also(self._unread.bad)

    def read(self) -> list[Figures]:
        """See :class:`Judge`; waits for the device."""
        self.lost = False
        return self._unread.read()

    def keep(self, count: int) -> None:
        """See :class:`Judge`."""
        self._unread.keep(count)

    def begin(self) -> None:
        """See :class:`Judge`."""
        self._unread.begin(self.row)


class UnreadFigures:
    """The losses and gradient norms of the steps since the last reading.

    ranks: the processes; all of them add and read the same steps.
    max_skipped: so many steps in a row that are not finite are left out; one more, and all that follow are.
    """

    def __init__(self, ranks: Ranks, max_skipped: int = 0) -> None:
        self._ranks = ranks
        self._most = max_skipped
        self._steps: list[tuple[list[str], Tensor]] = []
        self._lost: Tensor | None = None
        self.begin(0)

    def begin(self, in_a_row: int) -> None:
        """Steps count; the last ``in_a_row`` were left out."""
        #: Bool scalar on the device: whether this step is left out, since a figure of it is not finite, or
        #: since all are until the next reading.  The same on all ranks.
        self.bad = torch.zeros((), dtype=torch.bool, device=self._ranks.device)
        self._held = self.bad
        self._row = torch.full((), in_a_row, dtype=torch.int64, device=self._ranks.device)

    def add_losses(self, losses: Mapping[str, Tensor]) -> None:
        """Those of a step, name -> scalar; summed over the ranks, where there must be as many."""
        values = self._ranks.sum(torch.stack([*losses.values()]))
        self._steps.append(([*losses], values / self._ranks.size))

    def add_lost(self, ranks: Tensor) -> None:
        """On how many ranks memory ran out in the step whose losses were added last, a scalar."""
        self._lost = ranks

    def add_norm(self, norm: Tensor, *, must_be_finite: bool) -> None:
        """The gradient's, a scalar, of the step whose losses were added last."""
        names, means = self._steps[-1]
        lost = means.new_zeros(1) if self._lost is None else self._lost.to(means).view(1)
        values = torch.cat([means, norm.to(means).view(1)])
        judged = values if must_be_finite else means
        wrong = ~judged.isfinite().all()
        self._row = torch.where(wrong, self._row + 1, 0)
        self._held = self._held | (self._row > self._most)
        if self._lost is not None:
            self._held, self._lost = self._held | (lost[0] > 0), None
        self.bad = wrong | self._held
        self._steps[-1] = names, torch.cat([values, lost])

    def keep(self, count: int) -> None:
        """Forget all but the first ``count`` steps: the one after them was not made."""
        del self._steps[count:]

    def read(self) -> list[Figures]:
        """Wait for the device: what it computed of each step; they are forgotten."""
        steps, self._steps = self._steps, []
        self.bad = self._held = torch.zeros_like(self.bad)
        if not steps:
            return []
        values = iter(torch.cat([step for _, step in steps]).tolist())
        return [
            Figures({name: next(values) for name in names}, next(values), next(values) > 0)
            for names, _ in steps
        ]


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
