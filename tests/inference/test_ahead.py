"""Work beside the one who asks: in order, bounded, with errors at their places."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from maskrcnn.inference.ahead import ahead, behind


def test_order_is_kept_whatever_takes_how_long() -> None:
    def work(item: int) -> int:
        time.sleep(0.02 if item % 3 == 0 else 0)
        return item * 10

    assert list(ahead(range(20), work, threads=4, most=6)) == [10 * k for k in range(20)]
    for threads in (1, 4):
        assert list(behind(range(20), work, most=3, threads=threads)) == [10 * k for k in range(20)]
    assert list(behind(range(3), work, most=0)) == [0, 10, 20]
    assert list(ahead([], work, threads=2, most=2)) == []


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_is_asked_for_than_may_wait(most: int) -> None:
    asked: list[int] = []

    def source() -> Iterator[int]:
        for k in range(50):
            asked.append(k)
            yield k

    found = ahead(source(), lambda k: k, threads=4, most=most)
    for taken in range(1, 6):
        next(found)
        time.sleep(0.05)
        assert len(asked) <= taken + most
    found.close()
    before = len(asked)
    time.sleep(0.05)
    assert len(asked) == before <= 5 + most  # closed: nothing more is asked for


def test_the_source_is_asked_by_one_thread_and_beside_this_one() -> None:
    threads: set[int] = set()

    def source() -> Iterator[int]:
        for k in range(10):
            threads.add(threading.get_ident())
            yield k

    assert list(ahead(source(), lambda k: k, threads=4, most=4)) == list(range(10))
    assert len(threads) == 1 and threading.get_ident() not in threads


def failing() -> Iterator[int]:
    yield from (1, 2)
    raise ValueError("the third")


@pytest.mark.parametrize("which", ["ahead", "behind"])
def test_an_error_comes_behind_what_was_before_it(which: str) -> None:
    def double(k: int) -> int:
        if k == 5:
            raise ValueError("the work")
        return 2 * k

    def through(items: Iterator[int]) -> Iterator[int]:
        return ahead(items, double, threads=2, most=4) if which == "ahead" else behind(items, double, most=4)

    for items, said, before in ((failing(), "the third", [2, 4]), (iter([1, 5, 6]), "the work", [2])):
        found = through(items)
        assert [next(found) for _ in before] == before
        with pytest.raises(ValueError, match=said):
            next(found)


def test_a_result_is_given_as_soon_as_it_is_there() -> None:
    """A camera's frame does not wait for the next ones."""
    shutter = threading.Semaphore(0)

    def camera() -> Iterator[int]:
        for k in range(3):
            shutter.acquire()
            yield k

    found = ahead(camera(), lambda k: k, threads=2, most=3)
    for k in range(3):
        shutter.release()
        assert next(found) == k


def test_what_is_done_behind_is_given_with_the_next_item() -> None:
    asked: list[int] = []
    done = threading.Semaphore(0)

    def source() -> Iterator[int]:
        for k in range(6):
            if k:
                done.acquire()
                time.sleep(0.05)  # until the thread has handed it over
            asked.append(k)
            yield k

    def work(item: int) -> int:
        done.release()
        return item

    assert next(behind(source(), work, most=4)) == 0
    assert len(asked) <= 2  # not the five that may wait
