"""Several ranks hear of each other's end: which one, on which machine, and its last words.

Each rank has a small process beside it that watches it and talks to the others' (``lookout.py``).  A rank
that waits for a lost one in a library is ended, since it would wait for hours: rank 0 may rightly be alone
that long, so no time limit of the library can be short.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskrcnn.engine.distributed import TO_GO_ON, WATCHES
from maskrcnn.errors import cut

#: Seconds without a sign of life, and of being stopped (SIGSTOP), after which a rank is lost.  The first one
#: bears a network that is gone for a while.
SILENCE, STOPPED = 40.0, 20.0
#: Seconds that a rank which has heard of a loss has to come to it by itself, before it is ended.
GRACE = 10.0
#: Exit status of a rank that is ended so.
STATUS = 2
#: ``prctl(PR_SET_PDEATHSIG, ...)``, from linux/prctl.h.
_PDEATHSIG = 1

logger = logging.getLogger(__name__)


class Watch:
    """This rank's lookout, and what it told.

    Args:
        rank, size: this one among all.
        share: rank 0's value on every rank; called once on all at once.
        local: whether all ranks are on this machine.
        silence, stopped, grace: see :data:`SILENCE` and those below it.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        share: Callable[[Any], Any],
        *,
        local: bool = False,
        silence: float = SILENCE,
        stopped: float = STOPPED,
        grace: float = GRACE,
    ) -> None:
        self._rank, self._grace = rank, grace
        self._told = threading.Event()
        self._handled = self._failed = False
        #: A phrase for the first loss that was told.
        self.loss = ""
        self._send_lock = threading.Lock()
        settings = {
            "rank": rank,
            "size": size,
            "pid": os.getpid(),
            "where": socket.gethostname(),
            "silence": silence,
            "stopped": stopped,
            "elastic": "TORCHELASTIC_RUN_ID" in os.environ,
            "local": local,
        }
        place: dict[str, Any] = {}
        if rank == 0:
            place = {"token": secrets.token_hex(16), "port": 0}
            self._start({**settings, "token": place["token"]})
            place["port"] = self._read().get("port", 0)
            names = ["127.0.0.1"] if local else [os.environ.get("MASTER_ADDR", ""), socket.gethostname()]
            place["hosts"] = [name for name in names if name]
        place = share(place)
        if rank != 0:
            self._start({**settings, "token": place["token"]})
        self._send(place if rank else {**place, "hosts": ["127.0.0.1"]})
        threading.Thread(target=self._listen, name="heartbeat", daemon=True).start()
        self._hook = sys.excepthook
        sys.excepthook = self._except

    def _start(self, settings: dict[str, Any]) -> None:
        program = Path(__file__).with_name("lookout.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a signal to the rank's group is not for it
        )
        self._send(settings)

    def _send(self, item: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with self._send_lock, contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(item).encode() + b"\n")
            self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        item: dict[str, Any] = json.loads(self._process.stdout.readline() or b"{}")
        return item

    def say(self, text: str) -> None:
        """What this rank does now; the last of it is told where it is lost."""
        self._send({"say": cut(text.strip(), 300)})

    def fail(self, text: str) -> None:
        """The same for an error that ends this rank: the others then hear of its end."""
        self._failed = True
        self.say(text)

    def _except(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        self.fail(f"{kind.__name__}: {error}")
        self._hook(kind, error, trace)

    def lost(self, seconds: float) -> str:
        """What was told of a loss within so many seconds, as a phrase; empty: nothing.

        This rank is then not ended by this, but ends itself.
        """
        self._handled = True
        self._send({"handled": True})
        return self.loss if self._told.wait(seconds) else ""

    def _listen(self) -> None:
        while True:
            item = self._read()
            if not item:
                return
            if "alone" in item:
                logger.warning(
                    "rank %d cannot reach rank 0's lookout at %s, so it will not hear of ranks that are lost",
                    self._rank,
                    " or ".join(item["alone"]),
                )
            if "lost" in item and not self.loss:
                where = f" on {item['where']}" if item.get("where") else ""
                words = f", its last words: {item['words']}" if item.get("words") else ""
                self.loss = f"rank {item['lost']}{where} {item['why']}{words}"
                self._told.set()
                threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        time.sleep(self._grace)
        if self._handled:
            return
        self._send({"handled": True})
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            me = f"rank {self._rank}: " if self._rank else ""
            print(f"maskrcnn: error: {me}{sentence(self.loss)}", file=sys.stderr, flush=True)
        os._exit(STATUS)

    def leave(self) -> None:
        """This rank ends; in order, unless an error was told."""
        if not self._failed:
            self._send({"bye": True})
        if sys.excepthook == self._except:
            sys.excepthook = self._hook
        self._handled = True
        with contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.0 if self._failed else 2.0)


def sentence(loss: str) -> str:
    """What a run that lost a rank ends with."""
    return f"{loss}; {TO_GO_ON}"


@WATCHES.register("ranks")
def start_watch(rank: int, size: int, share: Callable[[Any], Any], local: bool) -> Watch:
    """Begin to watch; on all ranks at once."""
    return Watch(rank, size, share, local=local)


@WATCHES.register("parent")
def end_with_parent() -> None:
    """Have this process told to stop (SIGTERM) when its parent, torchrun, is gone; Linux alone can."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
