"""A published file to this machine: gone on with where it broke off, checked, once for all processes.

The standard library's urllib is enough: it reads the proxy variables (http_proxy, https_proxy, no_proxy),
sends ``Range`` and times out; what a download needs besides is here (docs/adr/weights-by-name.md).
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import maskrcnn
from maskrcnn.errors import CheckpointError, OutputError, plural
from maskrcnn.files import Appender, free_bytes, locked, take_place, unwritten, write_json, write_text
from maskrcnn.weights.published import Published

Tell = Callable[[str], None]
_MIB = 2**20
#: Bytes read at a time.
_PIECE = 2**16


@dataclass(frozen=True)
class Patience:
    """When a download is given up.

    silence: seconds without a byte, and until the connection stands.
    slowest: bytes a second below which ``window`` seconds end a try.
    tries: how often it is begun or gone on with; pause: seconds before the second, doubled each time.
    every: seconds between two lines of progress.
    """

    silence: float = 30.0
    slowest: float = 1024.0
    window: float = 60.0
    tries: int = 5
    pause: float = 1.0
    every: float = 5.0


PATIENCE = Patience()


@dataclass(frozen=True)
class Facts:
    """Of a file on this machine: its digests, its size in bytes and the time of its last change."""

    sha256: str
    md5: str
    size: int
    changed: int


class _BrokenError(Exception):
    """A try that ended early and may be gone on with."""


def fetch(name: str, entry: Published, path: Path, tell: Tell, patience: Patience = PATIENCE) -> Facts:
    """Have the file of ``entry`` at ``path``, whole and checked; it is fetched unless it is there.

    Args:
        tell: takes lines: progress, and that we wait for another process.

    Raises:
        CheckpointError: it cannot be had, or is not the file that the publisher states; each sentence says
            the address, and where to put the file by hand.
        OutputError: it cannot be written; what has come so far stays, and the next call goes on with it.
    """
    with alone(path.with_name("lock"), f"another process that fetches {name}", tell):
        if not path.exists():
            part = path.with_name(f"{path.name}.part")
            download = _Download(name, entry, path, part, tell, patience)
            joined = download.run()
            if joined and (problem := _problem(entry, digests(part))):
                tell(f"{name}: the parts that were joined do not fit ({problem}); beginning again")
                part.unlink()
                download.run()
            _take(name, entry, part, path)
        return _checked(name, entry, path, "was put there by hand, or damaged")


@contextlib.contextmanager
def alone(path: Path, whom: str, tell: Tell) -> Iterator[None]:
    """Hold the lock ``path``, whose folder is made; ``whom`` says what we wait for, if need be.

    Raises:
        OutputError: it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(locked(path, wait=False))
            except BlockingIOError:
                tell(f"waiting for {whom}")
                stack.enter_context(locked(path, wait=True))
        except OSError as error:
            raise unwritten(path, error) from None
        yield


def facts_of(path: Path) -> Facts | None:
    """What was found of a file when it was checked; None where it is not there, or another since."""
    try:
        known = Facts(**json.loads(_beside(path).read_text(encoding="utf-8")))
        there = path.stat()
    except (OSError, ValueError, TypeError):
        return None
    return known if (known.size, known.changed) == (there.st_size, there.st_mtime_ns) else None


def by_hand(entry: Published, path: Path) -> str:
    """What to do without a network."""
    return f"download {entry.url} elsewhere and put it there by hand: {path}"


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _take(name: str, entry: Published, part: Path, path: Path) -> None:
    """The finished part becomes the file, where its digest is right."""
    problem = _problem(entry, digests(part))
    if problem:
        part.unlink()
        raise CheckpointError(
            f"{name}: what {entry.url} sent is not the file that its publisher states ({problem}): damaged or"
            f" exchanged on the way. It was removed; fetch it again, or {by_hand(entry, path)}"
        )
    try:
        take_place(part, path)
    except OSError as error:
        raise unwritten(path, error) from None


def _checked(name: str, entry: Published, path: Path, why: str) -> Facts:
    """The facts of the file, computed where they are not known yet.

    Raises:
        CheckpointError: it is another than the publisher states, or, where nothing is stated, than the first
            that was fetched.
    """
    known = facts_of(path)
    if known is None:
        if not path.is_file():
            raise CheckpointError(f"{path}: is no file; remove it, or {by_hand(entry, path)}")
        known = digests(path)
        problem = _problem(entry, known) or _changed(path, known)
        if problem:
            raise CheckpointError(
                f"{path}: is not {name} as its publisher states it ({problem}); it {why}. Remove it and fetch"
                f" it again, or {by_hand(entry, path)}"
            )
        write_json(_beside(path), asdict(known))
    return known


def _changed(path: Path, now: Facts) -> str:
    """How the file differs from the one that was here first, where the publisher states no digest."""
    try:
        first = Facts(**json.loads(_beside(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return ""
    if first.sha256 == now.sha256:
        return ""
    return (
        f"SHA-256 {now.sha256[:16]}..., the first that was fetched had {first.sha256[:16]}...; where the new"
        f" one is right, remove {_beside(path)}"
    )


def digests(path: Path) -> Facts:
    """Both digests of a file, reading it once."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(_MIB):
            sha256.update(piece)
            md5.update(piece)
    there = path.stat()
    return Facts(sha256.hexdigest(), md5.hexdigest(), there.st_size, there.st_mtime_ns)


def _problem(entry: Published, facts: Facts) -> str:
    """How a file differs from what is stated, in words; empty where it does not."""
    for kind, stated, found in (("SHA-256", entry.sha256, facts.sha256), ("MD5", entry.md5, facts.md5)):
        if stated is not None and not found.startswith(stated):
            return f"its {kind} begins with {found[: len(stated)]}, stated is {stated}"
    return _size_problem(entry, facts.size)


def _size_problem(entry: Published, size: int) -> str:
    found = size / _MIB
    if entry.mebibytes is None or abs(found - entry.mebibytes) <= 0.001:
        return ""
    return f"it has {found:.3f} MiB, stated are {entry.mebibytes:.3f}"


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows redirects within the address's host and those that the registry lists."""

    def __init__(self, entry: Published, path: Path) -> None:
        self.entry = entry
        self.path = path

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The request to go on with.

        Raises:
            CheckpointError: another host, or no more encrypted.
        """
        first, then = urlsplit(self.entry.url), urlsplit(newurl)
        secure = then.scheme == "https" or first.scheme == "http" == then.scheme
        if not secure or then.hostname not in (first.hostname, *self.entry.hosts):
            raise CheckpointError(
                f"{self.entry.url} leads to {then.scheme}://{then.hostname}, which the registry does not list"
                f" for it, so it was not followed; if you trust that host, {by_hand(self.entry, self.path)}"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Download:
    """One file, through as many connections as it takes."""

    def __init__(
        self, name: str, entry: Published, path: Path, part: Path, tell: Tell, patience: Patience
    ) -> None:
        self.name, self.entry, self.path, self.part = name, entry, path, part
        self.tell, self.patience = tell, patience
        self.opener = urllib.request.build_opener(_SameHost(entry, path))
        #: Where the server says which version of the file the part is of.
        self.mark = part.with_name(f"{part.name}.etag")

    def run(self) -> bool:
        """Fetch the part to its end; whether it was joined from several connections."""
        began = self._have()
        tries, joined = 0, began > 0
        self.tell(f"fetching {self.name} from {self.entry.url}" + (self._so_far() if began else ""))
        while True:
            before = self._have()
            try:
                self._receive()
                self.mark.unlink(missing_ok=True)
                return joined
            except (_BrokenError, http.client.HTTPException, OSError) as error:
                if isinstance(error, urllib.error.HTTPError) or not self._may_go_on(error):
                    raise self._failure(error) from None
                tries = tries + 1 if self._have() - before < _MIB else 1
                if tries >= self.patience.tries:
                    raise self._failure(error) from None
                joined = joined or self._have() > 0
                self.tell(f"{self.name}: {_reason(error)}; going on{self._so_far()}")
                time.sleep(self.patience.pause * 2 ** (tries - 1))

    def _may_go_on(self, error: Exception) -> bool:
        """Whether it may be better in a moment: not where nobody answered, or the disk is full."""
        if isinstance(error, urllib.error.URLError):
            return isinstance(error.reason, TimeoutError) or self._have() > 0
        return True

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _so_far(self) -> str:
        return f", {self._have() / _MIB:.1f} MiB are here"

    def _failure(self, error: Exception) -> CheckpointError:
        kept = f" ({self._have() / _MIB:.1f} MiB are kept, and gone on with)" if self._have() else ""
        return CheckpointError(
            f"{self.name}: could not be fetched from {self.entry.url}: {_reason(error)}{kept}. Try again"
            f" later, or {by_hand(self.entry, self.path)}"
        )

    def _receive(self) -> None:
        """One connection, to the end of the file."""
        have = self._have()
        mark = self.mark.read_text(encoding="utf-8") if self.mark.is_file() else ""
        if have and not (mark or self.entry.sha256 or self.entry.md5):
            have = self._restart()  # nothing would say whether the rest belongs to the same file
        headers = {"Accept-Encoding": "identity", "User-Agent": f"maskrcnn/{maskrcnn.__version__}"}
        if have:
            headers |= {"Range": f"bytes={have}-"} | ({"If-Range": mark} if mark else {})
        request = urllib.request.Request(self.entry.url, headers=headers)
        try:
            response = self.opener.open(request, timeout=self.patience.silence)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and have:
                if error.headers.get("Content-Range", "").endswith(f"/{have}"):
                    return  # it was whole
                self._restart()
                raise _BrokenError("the server has another file now") from None
            if error.code in (408, 425, 429, 500, 502, 503, 504):
                raise _BrokenError(_reason(error)) from None
            raise
        with response:
            self._read(response, have)

    def _restart(self) -> int:
        self.part.unlink(missing_ok=True)
        self.mark.unlink(missing_ok=True)
        return 0

    def _read(self, response: Any, have: int) -> None:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        if response.status == 206 and span and int(span[1]) == have:
            total = int(span[2])
        else:
            have = self._restart()
        if response.headers.get_content_type() == "text/html":
            raise CheckpointError(
                f"{self.name}: {self.entry.url} sends a web page and no weights (a login page of this"
                f" network?); {by_hand(self.entry, self.path)}"
            )
        self._check_total(total, have)
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        if validator and not validator.startswith("W/"):
            write_text(self.mark, validator)
        progress = _Progress(self, total, have)
        part = Appender(self.part)
        try:
            while piece := response.read1(_PIECE):
                try:
                    part.append(piece)
                except OSError as error:
                    raise unwritten(self.part, error) from None
                progress.add(len(piece))
        finally:
            with contextlib.suppress(OSError):
                part.close()
        if total is not None and self._have() < total:
            raise _BrokenError(
                f"the connection ended after {self._have():,} of {plural(total, 'byte', spec=',')}"
            )

    def _check_total(self, total: int | None, have: int) -> None:
        """Refuse a file that cannot be the one, or for which there is no room."""
        if total is None:
            return
        problem = _size_problem(self.entry, total)
        if problem:
            raise CheckpointError(
                f"{self.name}: {self.entry.url} is not the file that its publisher states: {problem};"
                f" {by_hand(self.entry, self.path)}"
            )
        free = free_bytes(self.part.parent)
        if free is not None and free < total - have:
            raise OutputError(
                f"{self.part}: {(total - have) / _MIB:.1f} MiB are to come and {free / _MIB:.1f} MiB are"
                " free; make room there, or set MASKRCNN_HOME to another folder"
            )


class _Progress:
    """Tells how far a download is, and ends one that crawls."""

    def __init__(self, download: _Download, total: int | None, have: int) -> None:
        self._download, self._total, self._have = download, total, have
        self._told = self._began = self._since = time.monotonic()
        self._new = self._lately = 0

    def add(self, count: int) -> None:
        """So many bytes have come.

        Raises:
            _BrokenError: too few, for too long.
        """
        self._have += count
        self._new += count
        self._lately += count
        now, patience = time.monotonic(), self._download.patience
        if now - self._since >= patience.window:
            if self._lately < patience.slowest * (now - self._since):
                raise _BrokenError(
                    f"slower than {patience.slowest:g} bytes a second for {patience.window:g} s"
                )
            self._since, self._lately = now, 0
        if now - self._told >= patience.every:
            self._told = now
            self._download.tell(self._line(self._new / max(now - self._began, 1e-9)))

    def _line(self, rate: float) -> str:
        of = "" if self._total is None else f" of {self._total / _MIB:.1f}"
        left = "" if self._total is None else f", {(self._total - self._have) / max(rate, 1e-9):.0f} s left"
        return f"{self._download.name}: {self._have / _MIB:.1f}{of} MiB, {rate / _MIB:.2f} MiB/s{left}"


def _reason(error: Exception) -> str:
    """Why a try ended, in words."""
    if isinstance(error, urllib.error.HTTPError):
        moved = "; the file may have moved" if error.code in (404, 410) else ""
        return f"the server answers {error.code} {error.reason}{moved}"
    if isinstance(error, urllib.error.URLError):
        inner = error.reason
        if isinstance(inner, TimeoutError):
            return "no answer in time"
        what = inner.strerror if isinstance(inner, OSError) and inner.strerror else str(inner)
        return f"no connection ({what}); a proxy would be named in https_proxy"
    if isinstance(error, TimeoutError):
        return "nothing came for too long"
    if isinstance(error, OSError) and error.strerror:
        return f"the connection broke ({error.strerror})"
    return str(error) or type(error).__name__
