"""Work that threads do beside the one that asks for it, with what they hold bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

#: What :func:`next` gives behind the last item.
_END = object()


def ahead(items: Iterable[T], work: Callable[[T], R], *, threads: int, most: int) -> Iterator[R]:
    """``work`` of each item in their order, done before it is asked for.

    The items are asked for by a thread of their own, one after the other, so that their source (a decoder of
    video) works beside too; what it raises is raised behind what came before.

    Args:
        threads: that ``work`` in turns.
        most: items that are asked for before the first of them is taken.
    """
    source = iter(items)
    waiting: deque[Future[object]] = deque()
    with ThreadPoolExecutor(1) as asking, ThreadPoolExecutor(threads) as working:

        def begin() -> None:
            item = asking.submit(next, source, _END)

            def done() -> object:
                value = item.result()
                return _END if value is _END else work(value)  # type: ignore[arg-type]

            waiting.append(working.submit(done))

        try:
            for _ in range(most):
                begin()
            while (value := waiting.popleft().result()) is not _END:
                begin()
                yield value  # type: ignore[misc]
        finally:
            asking.shutdown(wait=False, cancel_futures=True)
            working.shutdown(wait=False, cancel_futures=True)


def behind(items: Iterable[T], work: Callable[[T], R], *, most: int, threads: int = 1) -> Iterator[R]:
    """``work`` of each item in their order, by other threads while this one goes on to the next items.

    Args:
        most: items that may wait for their work; 0: none does, and there is no thread.
        threads: that ``work`` in turns.
    """
    if not most:
        yield from map(work, items)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        error: BaseException | None = None
        source = iter(items)
        while True:
            try:
                waiting.append(pool.submit(work, next(source)))
            except StopIteration:
                break
            except Exception as raised:  # behind what came before it
                error = raised
                break
            while waiting and (len(waiting) > most or waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        if error is not None:
            raise error
