"""The passes of a step's batches, forward and backward, in pieces where memory has no room for the whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maskrcnn.config.registry import Named
from maskrcnn.engine import faults
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.outcomes import NoMemoryError, Wishes
from maskrcnn.engine.strategy import Strategy
from maskrcnn.errors import plural
from maskrcnn.modeling.precision import Precision, autocast
from maskrcnn.structures import Batch, ImageInfo
from maskrcnn.structures.seeds import seed_step

#: A batch that memory has room for is passed at most in so many pieces.
MOST_PIECES = 8
#: What is needed only where memory ran out: the passes of a batch that is cut by images; a stand-in for one.
CUTS: Named[Callable[..., Any]] = Named("cut", "maskrcnn.engine", images="pieces", stand_in="pieces")
#: What weighs the losses of a batch that several ranks share; of the ranks.
SHARES: Named[Callable[[Ranks], Any]] = Named("share", "maskrcnn.engine", ranks="sharing")
#: name -> loss.
Losses = dict[str, Tensor]
#: Takes the mean losses of a step and what asks for this rank's wishes: to be summed over the ranks.
Send = Callable[[Losses, Callable[[], Wishes]], None]


class Pass(NamedTuple):
    """One forward and backward pass, of a batch or of a piece of one.

    number: of the piece.  around: context of the forward pass, which gives what its losses go through.
    """

    batch: Batch
    number: int = 0
    last: bool = True
    around: AbstractContextManager[Callable[[Losses], Losses] | None] = nullcontext()


@dataclass
class Passed:
    """What the passes of a step have done so far.

    batches: those that came, which are taken first when it is made anew.
    infos: the images that came.  losses: name -> mean.  waiting: seconds for batches.
    begun: whether the strategy's module was called; backward: whether the last backward pass has begun.
    """

    step: int
    wishes: Callable[[], Wishes]
    batches: list[Batch]
    infos: list[ImageInfo] = field(default_factory=list)
    losses: Losses = field(default_factory=dict)
    waiting: float = 0.0
    begun: bool = False
    backward: bool = False

    def pieces(self, count: int) -> int:
        """In how many pieces, of ``count`` at most, a batch is passed; all have as many images."""
        return min(count, len(self.batches[0]))

    def take(self, source: Iterator[Batch]) -> Iterator[Batch]:
        """The batches that came, and then those of ``source``."""
        yield from list(self.batches)
        for batch in source:
            self.batches.append(batch)
            yield batch


class Passes:
    """Passes ``accumulate`` batches a step; gradients are their mean.

    strategy: of the model, which is called as ``model(images, targets, seeds)``, and with ``proposals=``
        where the batch has them.
    """

    def __init__(
        self,
        strategy: Strategy,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        *,
        seed: int,
        precision: Precision,
        accumulate: int,
    ) -> None:
        self._strategy, self._ranks = strategy, strategy.ranks
        self._optimizer, self._scaler = optimizer, scaler
        self._seed, self._precision, self._accumulate = seed, precision, accumulate
        #: In how many pieces each batch is passed.
        self.pieces = 1
        #: Whether ranks share a batch, as if one process had it; else each has one of its own.
        self.shared = True
        self._shares: Any = SHARES.get("ranks")(self._ranks) if self._ranks.size > 1 else None

    def make(self, done: Passed, source: Iterator[Batch], send: Send) -> tuple[bool, Tensor | None]:
        """All passes of a step, the last of which all ranks hear.

        Returns:
            whether memory ran out here, and on how many ranks, a scalar.  It is raised instead, and the other
            is None, where nobody is to be told or none can be.
        """
        source, ran_out = done.take(source), False
        told = self._ranks.size > 1 and self._strategy.completes
        if self._shares is not None:
            self._shares.weighed = 0
        try:
            for micro in range(self._accumulate):
                began = time.perf_counter()
                try:
                    batch = next(source)
                except MemoryError as error:
                    alone = self._ranks.size == 1
                    raise NoMemoryError(done.infos, done.step, alone, loading=True) from error
                done.waiting += time.perf_counter() - began
                done.infos += batch.infos
                for one in self._cut(done, micro, batch):
                    final = one.last and micro == self._accumulate - 1
                    with nullcontext() if final else self._strategy.no_sync():
                        with self._noting() as noted, one.around as weigh:
                            with self._ready(done.step, micro, one) as (images, given):
                                done.begun = True
                                losses: Losses = self._strategy.module(*images, **given)
                            losses = losses if weigh is None else weigh(losses)
                        if noted is not None:
                            losses = self._shares.weigh(losses, noted, len(batch))
                        for name, value in losses.items():
                            so_far = done.losses.get(name, 0.0)
                            done.losses[name] = so_far + value.detach().float() / self._accumulate
                        # Before the last backward pass: the sum over the ranks goes on while that runs.
                        if final:
                            send(done.losses, done.wishes)
                        total = torch.stack([value.float() for value in losses.values()]).sum()
                        done.backward = final
                        self._scaler.scale(total / self._accumulate).backward()
        except (RuntimeError, MemoryError) as error:
            if not told or not faults.is_out_of_memory(error):
                raise
            ran_out = True
        if ran_out:
            for batch in islice(source, self._accumulate - len(done.batches)):
                done.infos += batch.infos
            self._stand_in(done, send)
        if not told:
            return False, None
        return ran_out, self._ranks.sum(torch.tensor(float(ran_out), device=self._ranks.device))

    def _noting(self) -> AbstractContextManager[Any]:
        """Context of a pass whose losses are to be weighed by what it gives; None: they are not."""
        return nullcontext() if self._shares is None or not self.shared else self._shares.noted()

    @contextmanager
    def _ready(self, step: int, micro: int, one: Pass) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Context of a forward pass, with the model's arguments: those by place, and those by name."""
        batch = one.batch.to(self._ranks.device)
        seed_step(self._seed, step, self._ranks.rank, micro + one.number * self._accumulate)
        given = {} if batch.proposals is None else {"proposals": batch.proposals}
        with autocast(self._ranks.device, self._precision):
            yield (batch.images, batch.targets, batch.seeds), given

    def _cut(self, done: Passed, micro: int, batch: Batch) -> Iterable[Pass]:
        if self.pieces == 1:
            return (Pass(batch),)
        model = self._strategy.model

        def forward(piece: Pass) -> Losses:
            with self._ready(done.step, micro, piece) as (images, given):
                losses: Losses = model(*images, **given)
            return losses

        passes: Iterable[Pass] = CUTS.get("images")(batch, self.pieces, model, forward, self.statistics)
        return passes

    def _stand_in(self, done: Passed, send: Send) -> None:
        """Do for the other ranks what they wait for, after memory ran out here; all then begin anew."""
        self.forget(keep_gradients=done.backward)
        if done.backward:
            self._strategy.complete_backward()
            return
        small = CUTS.get("stand_in")(done.batches[0]).to(self._ranks.device)
        given = {} if small.proposals is None else {"proposals": small.proposals}
        begun = self._strategy.begun_before() if done.begun else nullcontext()
        with begun, autocast(self._ranks.device, self._precision), self._noting() as noted:
            losses = self._strategy.module(small.images, small.targets, small.seeds, **given)
        while noted is not None and self._shares.weighed < self._accumulate * done.pieces(self.pieces):
            self._shares.weigh(losses, noted, 1)
        send({name: value.detach().float() for name, value in losses.items()}, done.wishes)
        (torch.stack([value.float() for value in losses.values()]).sum() * 0).backward()

    def forget(self, *, keep_gradients: bool = False) -> None:
        """Give back what a pass that failed holds."""
        if not keep_gradients:
            self._optimizer.zero_grad(set_to_none=True)
        if self._ranks.device.type == "cuda":
            torch.cuda.empty_cache()

    def cut_smaller(self, done: Passed, tell: Callable[[str], None]) -> bool:
        """Pass batches in twice as many pieces from now on, which is told; whether that can be."""
        batches = done.batches
        most = min(MOST_PIECES, max(map(len, batches), default=1))
        if self.pieces >= most:
            return False
        self.pieces *= 2
        size = -(-max(map(len, batches)) // self.pieces)
        tell(
            f"step {done.step + 1}: out of memory; it is made anew, and later ones are made, with each batch"
            f" in {min(self.pieces, most)} pieces of at most {plural(size, 'image')} (the same gradients to"
            " rounding; slower: each piece is passed twice forward)"
        )
        return True

    def statistics(self) -> list[tuple[Tensor, Tensor]]:
        """Buffers that a forward pass changes, with copies, since a step may be given up after one."""
        return [
            (buffer, buffer.clone())
            for module in self._strategy.model.modules()
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.training
            for buffer in module.buffers(recurse=False)
        ]
