"""A small process beside each rank: says whether the rank lives, and hears whether the others do.

Started by ``heartbeat.py`` as a program, with the standard library alone, so that nothing that happens in the
rank holds it up: neither a device, nor a computation that keeps Python's lock, nor the rank being stopped.
The one beside rank 0 is the hub that the others talk to, in lines of JSON over TCP.

    rank -> its lookout (stdin): {"say": words}, {"handled": true}, {"bye": true}; the end of file is its end
    lookout -> its rank (stdout): {"port": ...} of the hub, {"lost": rank, "where": ..., "why": ..., "words"}
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import time
from pathlib import Path
from typing import Any

#: Seconds between two looks, and between two signs of life.
LOOK, BEAT = 0.5, 5.0
#: Seconds that a connection may be gone for, or a hub not be reached.
RECONNECT = 10.0
#: Seconds that a rank has to end after it was told of a loss, and more where it said that it is about to.
END, HANDLED = 45.0, 600.0
#: Seconds between a signal to end and the last one.
ORPHAN = 30.0
#: Bytes that wait to be taken in, of anybody who connects.
MOST = 1 << 20


class Lines:
    """JSON objects, one a line, over a descriptor that never blocks."""

    def __init__(self, source: int | socket.socket) -> None:
        self.source = source
        self._received = b""
        self.ended = False
        if isinstance(source, socket.socket):
            source.setblocking(False)
        else:
            os.set_blocking(source, False)

    def read(self) -> list[dict[str, Any]]:
        """What has come; sets ``ended`` where nothing will come any more."""
        try:
            while not self.ended:
                data = (
                    self.source.recv(65536)
                    if isinstance(self.source, socket.socket)
                    else os.read(self.source, 65536)
                )
                self._received += data
                self.ended = not data or len(self._received) > MOST
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
        *whole, self._received = self._received.split(b"\n")
        found = []
        for line in whole:
            with contextlib.suppress(ValueError):
                item = json.loads(line)
                if isinstance(item, dict):
                    found.append(item)
        return found

    def send(self, item: dict[str, Any]) -> None:
        """Send, or lose what does not fit: the next sign of life says the same."""
        data = json.dumps(item).encode() + b"\n"
        with contextlib.suppress(OSError):
            if isinstance(self.source, socket.socket):
                self.source.send(data)
            else:
                os.write(self.source, data)

    def close(self) -> None:
        """Close it."""
        if isinstance(self.source, socket.socket):
            self.source.close()


def state_of(pid: int) -> tuple[str, int]:
    """The letter of a process's state (T: stopped, Z: ended; empty: unknown) and its parent."""
    try:
        with Path(f"/proc/{pid}/stat").open(encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return fields[0], int(fields[1])
    except (OSError, IndexError, ValueError):
        return "", 0


class Peer:
    """A rank as the hub knows it."""

    def __init__(self, lines: Lines, now: float) -> None:
        self.lines = lines
        self.rank: int | None = None
        self.where = ""
        self.words = ""
        self.heard = now


class Lookout:
    """See the module.

    Args:
        settings: see :class:`maskrcnn.engine.heartbeat.Watch`: rank, size, token, pid, where, silence,
            stopped, elastic (whether the rank is to end with its parent), local (whether all ranks are on
            this machine).
    """

    def __init__(self, settings: dict[str, Any], rank_in: Lines, rank_out: Lines) -> None:
        self.rank, self.size = int(settings["rank"]), int(settings["size"])
        self.token, self.pid, self.where = settings["token"], int(settings["pid"]), settings["where"]
        self.silence, self.stopped = float(settings["silence"]), float(settings["stopped"])
        self.elastic, self.local = bool(settings["elastic"]), bool(settings["local"])
        self.rank_in, self.rank_out = rank_in, rank_out
        self.words = "the start"
        self.hub: Lines | None = None
        self.server: socket.socket | None = None
        self.peers: list[Peer] = []
        self.done: set[int] = set()  # ranks that left in order, or are told as lost
        now = time.monotonic()
        self.beat = self.heard = self.seen = now
        self.asleep: float | None = None
        self.deadline: float | None = None
        self.left = False
        self.end: float | None = None
        self.parent = state_of(self.pid)[1]

    def listen(self) -> int:
        """Become the hub; returns the port."""
        backlog = min(self.size, 4096)
        if self.local:
            self.server = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        elif socket.has_dualstack_ipv6():
            self.server = socket.create_server(
                ("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog
            )
        else:
            self.server = socket.create_server(("", 0), backlog=backlog)
        self.server.setblocking(False)
        port: int = self.server.getsockname()[1]
        return port

    def connect(self, hosts: list[str], port: int) -> bool:
        """Find the hub at one of ``hosts``."""
        began = time.monotonic()
        while time.monotonic() - began < RECONNECT:
            for host in hosts:
                with contextlib.suppress(OSError):
                    self.hub = Lines(socket.create_connection((host, port), timeout=3.0))
                    self.hub.send({"token": self.token, "rank": self.rank, "where": self.where})
                    return True
            time.sleep(LOOK)
        return False

    def run(self) -> None:
        """Until the rank has ended, and what there is to tell is told."""
        self.heard = self.beat = self.seen = time.monotonic()
        while self.end is None or time.monotonic() < self.end:
            self._wait()
            now = time.monotonic()
            if now - self.seen > max(5 * LOOK, 5.0):  # this process was stopped, or the machine was
                self.heard = now
                self.asleep = None
                for peer in self.peers:
                    peer.heard = now
            self.seen = now
            self._hear_rank(now)
            self._look_at_rank(now)
            self._hear_hub(now)
            self._hear_peers(now)
            if now - self.beat >= min(BEAT, self.silence / 4):
                self.beat = now
                self._tell({"words": self.words})
                for peer in self.peers:
                    peer.lines.send({"beat": 1})

    def _wait(self) -> None:
        with selectors.DefaultSelector() as selector:
            for lines in (self.rank_in, self.hub, *(peer.lines for peer in self.peers)):
                if lines is not None and not lines.ended:
                    selector.register(lines.source, selectors.EVENT_READ)
            if self.server is not None:
                selector.register(self.server, selectors.EVENT_READ)
            if not selector.select(LOOK):
                return

    def _tell(self, item: dict[str, Any]) -> None:
        if self.hub is not None and not self.hub.ended:
            self.hub.send(item)

    def _hear_rank(self, now: float) -> None:
        for item in self.rank_in.read():
            if "say" in item:
                self.words = str(item["say"])
            if "handled" in item and self.deadline is not None:
                self.deadline = now + HANDLED
            if "bye" in item and not self.left:
                self.left = True
                self._tell({"bye": 1})
                self._close_soon(now)
        if self.rank_in.ended and not self.left and self.end is None:
            self._tell({"lost": self.rank, "why": "is gone", "words": self.words})
            self._close_soon(now)

    def _close_soon(self, now: float) -> None:
        # A hub tells the others first.
        self.end = now + (0.0 if self.server is None else 10 * LOOK)
        if self.server is not None and self.left:
            for peer in self.peers:
                peer.lines.send({"bye": 1})
            self.end = now + LOOK

    def _look_at_rank(self, now: float) -> None:
        state, parent = state_of(self.pid)
        if state != "T":
            self.asleep = None
        elif self.asleep is None:
            self.asleep = now
        elif now - self.asleep >= self.stopped and self.rank not in self.done:
            why = f"stands still: its process was stopped {now - self.asleep:.0f} s ago"
            self._tell({"lost": self.rank, "why": why, "words": self.words})
            self.done.add(self.rank)
        if self.elastic and self.deadline is None and state and parent != self.parent:
            self.deadline = now + ORPHAN  # torchrun is gone; the kernel sent the rank a signal
        if self.deadline is not None and now >= self.deadline and self.end is None:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)

    def _lost(self, item: dict[str, Any], now: float) -> None:
        """Tell the rank of a loss."""
        self.rank_out.send(item)
        if self.deadline is None:
            self.deadline = now + END

    def _hear_hub(self, now: float) -> None:
        if self.hub is None:
            return
        for item in self.hub.read():
            self.heard = now
            if "lost" in item:
                self.done.add(0)
                self._lost(item, now)
            if "bye" in item:
                self.done.add(0)
        silent = now - self.heard
        if 0 in self.done or self.end is not None:
            return
        if silent > self._borne(self.hub):
            self.done.add(0)
            why = f"gives no sign of life since {silent:.0f} s"
            self._lost({"lost": 0, "where": "", "why": why, "words": ""}, now)

    def _hear_peers(self, now: float) -> None:
        if self.server is None:
            return
        with contextlib.suppress(OSError):
            while True:
                self.peers.append(Peer(Lines(self.server.accept()[0]), now))
        for peer in list(self.peers):
            for item in peer.lines.read():
                peer.heard = now
                if peer.rank is None:
                    if item.get("token") != self.token:
                        peer.lines.close()
                        self.peers.remove(peer)
                        break
                    peer.rank, peer.where = int(item["rank"]), str(item["where"])
                peer.words = str(item.get("words", peer.words))
                if "bye" in item:
                    self.done.add(peer.rank)
                if "lost" in item:
                    self._all_lose(peer, str(item["why"]), now)
            silent = now - peer.heard
            if peer.rank is not None and silent > self._borne(peer.lines):
                self._all_lose(peer, f"gives no sign of life since {silent:.0f} s", now)

    def _borne(self, lines: Lines) -> float:
        return min(RECONNECT, self.silence) if lines.ended else self.silence

    def _all_lose(self, lost: Peer, why: str, now: float) -> None:
        assert lost.rank is not None
        if lost.rank in self.done and lost.rank != self.rank:
            return
        self.done.add(lost.rank)
        item = {"lost": lost.rank, "where": lost.where, "why": why, "words": lost.words}
        for peer in self.peers:
            peer.lines.send(item)


def main() -> None:
    """Run beside the process that started this."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.chdir("/")
    source = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 - a descriptor, to the end
    lookout = Lookout(json.loads(source.readline()), Lines(0), Lines(1))
    if lookout.rank == 0:
        lookout.rank_out.send({"port": lookout.listen()})
    os.set_blocking(0, True)
    line = source.readline()
    os.set_blocking(0, False)
    if not line:
        return
    place = json.loads(line)
    if not lookout.connect(place["hosts"], int(place["port"])):
        lookout.rank_out.send({"alone": place["hosts"]})
    lookout.run()


if __name__ == "__main__":
    main()
