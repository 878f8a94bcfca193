"""A local HTTP server that sends one file, and behaves badly on request."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from maskrcnn.weights.published import Published


@dataclass
class Server:
    """What it sends, and what it was asked.

    plan: what it does at the first requests, one after the other; then it sends the file.
        A number: that status.  ("cut", n): so many bytes, then the connection ends.  ("drip", n): so many
        bytes, then silence until :attr:`quit`.  ("to", url): a redirect.
    """

    content: bytes
    plan: list[Any] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    etag: bool = True
    kind: str = "application/octet-stream"
    port: int = 0
    quit: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/models/net.pth"

    def entry(self, **changes: Any) -> Published:
        """Its file as a publisher would state it."""
        stated = {"kind": "detector", "url": self.url, "sha256": hashlib.sha256(self.content).hexdigest()[:8]}
        return Published(**{**stated, **changes})


@contextmanager
def serving(content: bytes, *plan: Any) -> Iterator[Server]:
    server = Server(content, list(plan))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            server.asked.append((self.path, wanted))
            action = server.plan.pop(0) if server.plan else "send"
            self.close_connection = True
            if isinstance(action, int):
                self.send_error(action)
            elif action[0] == "to":
                self.send_response(302)
                self.send_header("Location", action[1])
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self._send(wanted, None if action == "send" else action)

        def _send(self, wanted: str, action: Any) -> None:
            data, mark = server.content, f'"{hashlib.sha256(server.content).hexdigest()}"'
            found = re.fullmatch(r"bytes=(\d+)-", wanted)
            start = int(found[1]) if found and self.headers.get("If-Range", mark) == mark else 0
            if start and start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.send_header("Content-Type", server.kind)
            if server.etag:
                self.send_header("ETag", mark)
            self.end_headers()
            rest = data[start:]
            self.wfile.write(rest if action is None else rest[: action[1]])
            self.wfile.flush()
            if action is not None and action[0] == "drip":
                server.quit.wait(30)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.quit.set()
        http.shutdown()
        thread.join()
        http.server_close()
