"""Lookouts beside processes that stand for ranks; whole trainings are in tests/test_lost_ranks.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.engine import heartbeat, lookout
from maskrcnn.engine.heartbeat import Watch, sentence
from maskrcnn.engine.lookout import state_of
from tests.stops import kill

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and POSIX signals")
PROGRAM = Path(lookout.__file__)


class Rank:
    """A process that does nothing, and its lookout, whose rank this test plays."""

    port = 0

    def __init__(self, rank: int, size: int, token: str = "t") -> None:
        self.idle = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(1000)"])
        self.lookout = subprocess.Popen(
            [sys.executable, "-I", "-S", str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        settings = {"rank": rank, "size": size, "token": token, "pid": self.idle.pid, "where": f"host{rank}"}
        times = {"silence": 2.0, "stopped": 1.0, "elastic": False, "local": True}
        self.send(**settings, **times)

    def send(self, **item: Any) -> None:
        assert self.lookout.stdin is not None
        self.lookout.stdin.write(json.dumps(item).encode() + b"\n")
        self.lookout.stdin.flush()

    def read(self) -> dict[str, Any]:
        assert self.lookout.stdout is not None
        item: dict[str, Any] = json.loads(self.lookout.stdout.readline() or b"{}")
        return item

    def end(self) -> None:
        for process in (self.idle, self.lookout):
            kill(process.pid)
            process.wait()


@pytest.fixture
def ranks() -> Iterator[list[Rank]]:
    """Three that have met."""
    found = [Rank(i, 3) for i in range(3)]
    try:
        port = found[0].read()["port"]
        for rank in found:
            rank.port = port
            rank.send(hosts=["127.0.0.1"], port=port)
        for i, rank in enumerate(found):
            rank.send(say=f"made step {40 + i}")
        time.sleep(1.5)
        yield found
    finally:
        for rank in found:
            rank.end()


def test_a_rank_that_is_gone_is_told_to_all_with_its_machine_and_last_words(ranks: list[Rank]) -> None:
    ranks[1].send(say="DataError: no such file")
    assert ranks[1].lookout.stdin is not None
    ranks[1].lookout.stdin.close()  # as at the end of its process
    for rank in (ranks[0], ranks[2]):
        told = rank.read()
        assert told == {"lost": 1, "where": "host1", "why": "is gone", "words": "DataError: no such file"}
    assert ranks[1].lookout.wait(5.0) == 0


def test_a_rank_that_was_stopped_is_told_to_all_and_to_itself(ranks: list[Rank]) -> None:
    os.kill(ranks[2].idle.pid, signal.SIGSTOP)
    for rank in ranks:
        told = rank.read()
        assert (told["lost"], told["words"]) == (2, "made step 42")
        assert told["why"].startswith("stands still: its process was stopped")


def test_the_first_rank_that_was_stopped_is_told_too(ranks: list[Rank]) -> None:
    os.kill(ranks[0].idle.pid, signal.SIGSTOP)
    assert [rank.read()["lost"] for rank in ranks] == [0, 0, 0]


def test_a_short_stop_is_no_loss_and_long_work_neither(ranks: list[Rank]) -> None:
    os.kill(ranks[2].idle.pid, signal.SIGSTOP)
    time.sleep(0.3)
    os.kill(ranks[2].idle.pid, signal.SIGCONT)
    time.sleep(3.0)  # more than the silence that is borne: the rank itself says nothing
    ranks[1].lookout.kill()
    assert ranks[0].read()["lost"] == 1  # and nothing before


def test_a_machine_that_is_silent_is_lost(ranks: list[Rank]) -> None:
    os.kill(ranks[1].lookout.pid, signal.SIGSTOP)
    told = ranks[0].read()
    assert told["lost"] == 1
    assert told["why"].startswith("gives no sign of life since")


def test_so_is_that_of_the_first_rank(ranks: list[Rank]) -> None:
    os.kill(ranks[0].lookout.pid, signal.SIGSTOP)
    assert [rank.read()["lost"] for rank in ranks[1:]] == [0, 0]


def test_ranks_that_leave_in_order_are_no_loss(ranks: list[Rank]) -> None:
    ranks[2].send(bye=True)
    assert ranks[2].lookout.wait(5.0) == 0
    ranks[0].send(bye=True)
    assert ranks[0].lookout.wait(5.0) == 0
    time.sleep(3.0)
    ranks[1].send(bye=True)
    assert ranks[1].read() == {}
    assert ranks[1].lookout.wait(5.0) == 0


def test_strangers_are_not_heard(ranks: list[Rank]) -> None:
    stranger = Rank(1, 3, token="other")
    try:
        stranger.send(hosts=["127.0.0.1"], port=ranks[0].port)
        stranger.send(say="nonsense")
        time.sleep(1.0)
    finally:
        stranger.end()
    os.kill(ranks[2].idle.pid, signal.SIGSTOP)
    assert ranks[1].read()["lost"] == 2  # and not the stranger, which called itself 1


def alone(**times: Any) -> Watch:
    return Watch(0, 1, lambda item: item, local=True, **times)


def test_a_rank_hears_of_its_own_stop_and_is_ended_unless_it_deals_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(heartbeat.os, "_exit", lambda status: ended.set())
    watch = alone(grace=0.1)
    watch.say("made step 7")
    try:
        for dealt in (True, False):
            watch.loss, watch._handled = "", dealt
            watch._told.clear()
            said = {"lost": 0, "where": "b", "why": "is gone"}  # as its lookout tells it
            monkeypatch.setattr(watch, "_read", iter([said, {}]).__next__)
            watch._listen()
            assert watch.loss == "rank 0 on b is gone"
            assert ended.wait(1.0) == (not dealt)
    finally:
        watch.leave()
    assert f"maskrcnn: error: {sentence('rank 0 on b is gone')}" in capsys.readouterr().err


def test_a_watch_says_and_leaves_and_its_lookout_ends() -> None:
    watch = alone()
    assert sys.excepthook == watch._except
    watch.say("made step 1")
    assert watch.lost(0.1) == ""
    watch.leave()
    assert watch._process.poll() == 0
    assert sys.excepthook != watch._except


def test_the_state_of_processes() -> None:
    assert state_of(os.getpid())[0] in "RS"
    assert state_of(os.getpid())[1] == os.getppid()
    assert state_of(2**22 + 1) == ("", 0)
