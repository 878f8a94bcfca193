"""Checkpoints that are written while training goes on: the state is copied, and a thread writes the copy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Copies:
    """Copies of nested containers with tensors, in host memory that the next copy uses again.

    So a copy is valid until the next one is made.  Fresh memory is slower by the pages that the system has to
    find for it, the more where it is pinned, as it is for a GPU's tensors.
    """

    def __init__(self) -> None:
        self._memory: dict[tuple[object, ...], Tensor] = {}
        self._used: set[tuple[object, ...]] = set()

    def of(self, content: T) -> tuple[T, Callable[[], None]]:
        """A copy of ``content``, tensors on the host in the strides that they have.

        A GPU's tensors are copied in the order of its stream: what is queued later cannot change the copy.

        Returns:
            the copy, and what waits until it is whole, to be called on any thread before the copy is read.
        """
        self._used = set()
        result = self._copy(content, ())
        for place in self._memory.keys() - self._used:
            del self._memory[place]
        events = []
        for device in {t.device for t in tensors_in(content) if t.device.type == "cuda"}:
            events.append(torch.cuda.Event())
            events[-1].record(torch.cuda.current_stream(device))

        def wait() -> None:
            for event in events:
                event.synchronize()

        return result, wait

    def _copy(self, item: Any, place: tuple[object, ...]) -> Any:
        if isinstance(item, Tensor):
            self._used.add(place)
            kept = self._memory.get(place)
            if kept is None or _form(kept) != _form(item):
                pinned = item.device.type == "cuda"
                kept = torch.empty_like(item, device="cpu", pin_memory=pinned, requires_grad=False)
                self._memory[place] = kept
            return kept.copy_(item.detach(), non_blocking=True)
        if isinstance(item, dict):
            made = copy(item)  # with what an OrderedDict carries besides
            for key, value in item.items():
                made[key] = self._copy(value, (*place, key))
            return made
        if isinstance(item, (list, tuple)):
            return type(item)(self._copy(value, (*place, i)) for i, value in enumerate(item))
        return item


def _form(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.dtype, tensor.stride()


def tensors_in(item: Any) -> list[Tensor]:
    """All tensors in nested containers."""
    if isinstance(item, Tensor):
        return [item]
    values = item.values() if isinstance(item, dict) else item if isinstance(item, (list, tuple)) else ()
    return [tensor for value in values for tensor in tensors_in(value)]


class BackgroundWriter:
    """Does one piece of work at a time beside the caller, on copies of what it is given."""

    def __init__(self) -> None:
        # Python waits for its thread before it ends, so that nothing is cut short by a return.
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._copies = Copies()
        self._last: Future[Any] | None = None

    def start(self, content: T, work: Callable[[T], Any]) -> Future[Any]:
        """Begin ``work`` with a copy of ``content``, once the work before is done; back when that is copied.

        Raises:
            RuntimeError, MemoryError: there is no memory for the copy; ``work`` was not begun.
        """
        if self._last is not None:
            self._last.exception()  # the copy's memory is in use until then
        try:
            copied, whole = self._copies.of(content)
        except BaseException:
            self._copies = Copies()  # what there was is better free
            raise

        def run() -> Any:
            whole()
            return work(copied)

        self._last = self._pool.submit(run)
        return self._last
