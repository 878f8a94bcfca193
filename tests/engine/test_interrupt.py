from __future__ import annotations

import os
import signal

import pytest

from maskrcnn.engine import interrupt as module
from maskrcnn.engine.interrupt import Interrupted, StopRequest, stop_at_once


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_a_wish_and_the_second_acts(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ONE_WISH", -1.0)
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


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_on_two_ways_is_one_wish(second: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    caught: list[int] = []
    before = signal.signal(second, lambda n, frame: caught.append(n))
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGTERM)
            now[0] += 4.0
            signal.raise_signal(second)
            assert (caught, stop.signal_number) == ([], signal.SIGTERM)
            now[0] += 2.0
            signal.raise_signal(second)
            assert caught == [second]
    finally:
        signal.signal(second, before)


def test_a_hangup_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.signal_number == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_forked_worker_leaves_signals_to_its_parent(number: signal.Signals) -> None:
    with StopRequest() as stop:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), number)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert stop.signal_number == 0


def test_exit_status_is_the_shells() -> None:
    assert Interrupted("", signal.SIGINT).exit_status == 130
    assert Interrupted("", signal.SIGTERM).exit_status == 143
    assert Interrupted("", signal.SIGHUP).exit_status == 129


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_where_no_step_is_under_way_a_signal_puts_away_and_stops(number: signal.Signals) -> None:
    done: list[str] = []

    def work() -> None:
        try:
            signal.raise_signal(number)
        except Exception:  # as readers of damaged files do
            done.append("swallowed")
        finally:
            signal.raise_signal(number)  # within seconds it is the same wish
            done.append("put away")

    with (
        pytest.raises(Interrupted, match=f"^stopped by {number.name}$") as caught,
        stop_at_once(lambda name: f"stopped by {name}"),
    ):
        work()
    assert done == ["put away"]
    assert caught.value.exit_status == 128 + number
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_wish_to_stop_inside_is_a_wish_still() -> None:
    with stop_at_once(str), StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal_number == signal.SIGTERM
