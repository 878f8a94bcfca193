from __future__ import annotations

import os
import signal

import pytest

from maskrcnn.engine.interrupt import Interrupted, StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_wish_and_the_second_acts(number: signal.Signals) -> None:
    caught: list[int] = []
    before = signal.signal(number, lambda n, frame: caught.append(n))
    try:
        with StopRequest() as stop:
            assert stop.signal_number == 0
            signal.raise_signal(number)
            assert stop.signal_number == number
            assert caught == []
            signal.raise_signal(number)
            assert caught == [number]
        signal.raise_signal(number)
        assert len(caught) == 2
    finally:
        signal.signal(number, before)


def test_a_forked_worker_ignores_ctrl_c_and_obeys_sigterm() -> None:
    with StopRequest() as stop:
        for number, status in ((signal.SIGINT, 7), (signal.SIGTERM, 0)):
            child = os.fork()
            if child == 0:
                os.kill(os.getpid(), number)
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status
        assert stop.signal_number == 0


def test_exit_status_is_the_shells() -> None:
    assert Interrupted("", signal.SIGINT).exit_status == 130
    assert Interrupted("", signal.SIGTERM).exit_status == 143
