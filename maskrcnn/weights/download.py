"""Bytes of a published file over the network, gone on with where they broke off.

The standard library's urllib is enough: it reads the proxy variables (http_proxy, https_proxy, no_proxy),
sends ``Range`` and times out; what a download needs besides is here (docs/adr/weights-by-name.md).
"""

from __future__ import annotations

import contextlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import maskrcnn
from maskrcnn.errors import CheckpointError, OutputError, plural
from maskrcnn.files import Appender, free_bytes, unwritten, write_text
from maskrcnn.weights.published import Published

Tell = Callable[[str], None]
MIB = 2**20
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


class _BrokenError(Exception):
    """A try that ended early and may be gone on with."""


def by_hand(entry: Published, path: Path) -> str:
    """What to do without a network."""
    return f"download {entry.url} elsewhere and put it there by hand: {path}"


def size_problem(entry: Published, size: int) -> str:
    """How a size in bytes differs from what is stated, in words; empty where it does not."""
    found = size / MIB
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


class Download:
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
                tries = tries + 1 if self._have() - before < MIB else 1
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
        return f", {self._have() / MIB:.1f} MiB are here"

    def _failure(self, error: Exception) -> CheckpointError:
        kept = f" ({self._have() / MIB:.1f} MiB are kept, and gone on with)" if self._have() else ""
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
        problem = size_problem(self.entry, total)
        if problem:
            raise CheckpointError(
                f"{self.name}: {self.entry.url} is not the file that its publisher states: {problem};"
                f" {by_hand(self.entry, self.path)}"
            )
        free = free_bytes(self.part.parent)
        if free is not None and free < total - have:
            raise OutputError(
                f"{self.part}: {(total - have) / MIB:.1f} MiB are to come and {free / MIB:.1f} MiB are"
                " free; make room there, or set MASKRCNN_HOME to another folder"
            )


class _Progress:
    """Tells how far a download is, and ends one that crawls."""

    def __init__(self, download: Download, total: int | None, have: int) -> None:
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
        of = "" if self._total is None else f" of {self._total / MIB:.1f}"
        left = "" if self._total is None else f", {(self._total - self._have) / max(rate, 1e-9):.0f} s left"
        return f"{self._download.name}: {self._have / MIB:.1f}{of} MiB, {rate / MIB:.2f} MiB/s{left}"


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
