"""One process at a time works in a run folder: ``run.lock`` says which.

On this machine the process id and its start time tell whether the holder lives.  Of a process on another
machine (or in another container) nothing can be asked; it shows that it lives by setting the file's time
every few seconds, which is compared with the time that the file system itself gives to a file written now, so
that the machines' clocks do not matter.  A holder that was silent for long and comes back (a suspended
machine) finds another's name in the file before it writes the next checkpoint, and stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from maskrcnn.engine.events import format_seconds
from maskrcnn.errors import OutputError, UserError
from maskrcnn.files import create, scratch, unwritten, write_text

#: Seconds between two signs of life, and how long a silence means that a process elsewhere is gone.
BEAT, SILENCE = 10.0, 120.0
#: Seconds between two looks at another's sign of life.
_LOOK = 1.0

NAME = "run.lock"


@dataclass(frozen=True)
class Holder:
    """A process that holds a run folder.

    host: its machine's name.
    place: machine since its last boot, and space of process ids; in an equal place it can be asked after.
    pid, born: the process, and when the system started it (ticks since boot).
    since: when it took the folder, for people.
    token: tells this hold from any other.
    """

    host: str
    place: str
    pid: int
    born: int
    since: str
    token: str

    @classmethod
    def read(cls, text: str) -> Holder | None:
        """What a lock file says; None where that is nothing."""
        try:
            found = cls(**json.loads(text))
        except (ValueError, TypeError, RecursionError):
            return None
        whole = all(
            type(value) is (int if name in ("pid", "born") else str) for name, value in asdict(found).items()
        )
        return found if whole else None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def here() -> Holder:
    """This process."""
    return Holder(
        platform.node() or "?",
        _place(),
        os.getpid(),
        _born(os.getpid()) or 0,
        time.strftime("%Y-%m-%d %H:%M:%S%z"),
        secrets.token_hex(8),
    )


def _place() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        return f"{boot.read_text(encoding='ascii').strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return platform.node()


def _born(pid: int) -> int | None:
    """Start time of a living process, field 22 of /proc/PID/stat; None where there is none, or no /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = text[text.rindex(")") + 2 :].split()
    return None if state in "ZX" else int(fields[18])


def _lives(holder: Holder) -> bool:
    """Whether a process of this place is there, and the same."""
    if Path("/proc/self/stat").exists():
        return _born(holder.pid) == holder.born
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


class RunLock:
    """Holds a run folder from :meth:`take` to :meth:`release`."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: the run's; made where it is not there.
        """
        self.folder = folder
        self.path = folder / NAME
        self._me: Holder | None = None
        self._made: list[Path] = []
        self._end = threading.Event()

    def take(self, tell: Callable[[str], None]) -> None:
        """Hold the folder, if need be after the time that shows whether another machine's process lives.

        Args:
            tell: takes lines: that a dead process's lock is taken over, or that we wait.

        Raises:
            UserError: another process holds it.
            OutputError: the folder cannot be written.
        """
        me = here()
        try:
            self._made = [p for p in (self.folder, *self.folder.parents) if not p.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            while not create(self.path, json.dumps(asdict(me)) + "\n"):
                self._pass(me, tell)
        except BaseException as error:
            self._remove_folders()
            if isinstance(error, OSError):
                raise unwritten(self.path, error) from None
            raise
        self._me = me
        threading.Thread(target=self._beat, daemon=True).start()

    def _pass(self, me: Holder, tell: Callable[[str], None]) -> None:
        """Remove a dead process's lock.

        Raises:
            UserError: its process lives.
        """
        first = self._look()
        if first is None:  # released this moment
            return
        holder = first[0]
        who, gone = str(holder or "another process"), "gives no sign of life any more"
        if holder is not None and holder.place == me.place:
            gone = "runs no more"
            if _lives(holder):
                raise self._refusal(who)
        else:
            began, told = time.monotonic(), False  # a file's time may also lie in the future
            while self._now() - first[1] <= SILENCE and time.monotonic() - began <= SILENCE + _LOOK:
                if not told:
                    told = True
                    tell(
                        f"{self.path}: {who}, holds this run; waiting up to {format_seconds(SILENCE)} for a"
                        " sign that it lives (if it surely does not, delete that file)"
                    )
                time.sleep(_LOOK)
                found = self._look()
                if found is None:
                    return
                if found != first:
                    sign = ", and its last sign of life is seconds old"
                    raise self._refusal(str(found[0] or "another process") + sign)
        with self._alone():
            if self._look() == first:
                self.path.unlink(missing_ok=True)
                tell(f"taking over the run folder from {who}: that process {gone}")

    def _refusal(self, who: str) -> UserError:
        return UserError(
            f"{self.folder}: this run is being trained already, by {who}; wait for it, stop it, or choose"
            f" another folder by --output. If it surely runs no more, delete {self.path}"
        )

    def _look(self) -> tuple[Holder | None, float] | None:
        """Who holds the folder (None: unreadable) and its last sign of life; None where nobody does."""
        try:
            with self.path.open(encoding="utf-8") as file:  # opened anew: a network's cache is then asked
                text = file.read()
                beat = os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None
        except ValueError:
            text, beat = "", self.path.stat().st_mtime
        return Holder.read(text), beat

    def seen(self) -> tuple[Holder | None, bool] | None:
        """Who holds the folder (None: unreadable) and whether that process lives, as far as looking alone can
        tell: one elsewhere, by the age of its last sign of life and this machine's clock.  None: nobody.
        """
        found = self._look()
        if found is None:
            return None
        holder, beat = found
        if holder is not None and holder.place == _place():
            return holder, _lives(holder)
        return holder, time.time() - beat <= SILENCE

    def _now(self) -> float:
        """The file system's time."""
        with scratch(self.path) as file:
            return os.fstat(file.fileno()).st_mtime

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes of this machine from taking over at the same moment, where the system can."""
        handle = None
        with contextlib.suppress(OSError, ImportError):
            import fcntl

            handle = os.open(self.folder, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if handle is not None:
                os.close(handle)

    def _beat(self) -> None:
        while not self._end.wait(BEAT):
            with contextlib.suppress(OSError):
                if self._is_mine():
                    os.utime(self.path)

    def _is_mine(self) -> bool:
        found = self._look()
        return self._me is not None and found is not None and found[0] == self._me

    def check(self) -> None:
        """Whether the folder is still ours; a lock file that was removed alone is put back.

        Raises:
            UserError: the folder was removed or renamed, or another process took it over.
        """
        if self._me is None:
            return
        found: tuple[Holder | None, float] | None = None
        with contextlib.suppress(OSError):
            found = self._look()
        if found is not None:
            if found[0] != self._me and found[0] is not None:
                raise UserError(
                    f"{self.folder}: {found[0]}, took this run over, since this process gave no sign of life"
                    f" or {NAME} was deleted; the run goes on there and stops here"
                )
            return
        if not self.folder.is_dir():
            raise OutputError(
                f"{self.folder}: the run folder was removed or renamed while the run was writing in it, so"
                " nothing more can be saved there, and the run stops; if it was renamed, go on with"
                " maskrcnn train --resume and its new name"
            )
        with contextlib.suppress(OSError, OutputError):
            write_text(self.path, json.dumps(asdict(self._me)) + "\n")

    def release(self) -> None:
        """Give the folder back; folders that :meth:`take` made go where nothing was written in them."""
        self._end.set()
        with contextlib.suppress(OSError):
            if self._is_mine():
                self.path.unlink()
        self._me = None
        self._remove_folders()

    def _remove_folders(self) -> None:
        for folder in self._made:
            with contextlib.suppress(OSError):  # something is in it
                folder.rmdir()
