"""A headless Chromium for tests of pages, by the DevTools protocol over a pipe: no driver is installed.

Every event of the page is kept: what its console said, exceptions, and what it asked the network for.
``MASKRCNN_CHROMIUM`` names the program; where it is set and there is none, tests fail and are not skipped.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "MASKRCNN_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
#: Codes of keys that the browser itself acts on.
KEYS = {"Enter": 13, "Escape": 27}
#: Seconds that one answer may take.
PATIENCE = 60.0


def find() -> str:
    """The program; the test is skipped where there is none, or fails where the environment promises one."""
    named = os.environ.get(VARIABLE)
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        if named:
            pytest.fail(f"{VARIABLE} is {named}, and there is no such program")
        pytest.skip(f"no Chromium here (Debian: apt-get install chromium); {VARIABLE} names one elsewhere")
    return found


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser of one tab, whose profile lies in ``folder``."""
    to_browser, from_browser = os.pipe(), os.pipe()
    options = ["--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"]
    options += ["--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}"]
    if os.geteuid() == 0:  # root has no sandbox
        options.append("--no-sandbox")
    command = ["bash", "-c", f'exec "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}', "chromium", find()]
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *options, "about:blank"],
            pass_fds=(to_browser[0], from_browser[1]),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        yield Browser(to_browser[1], from_browser[0])
    finally:
        os.close(to_browser[1])
        try:
            process.wait(5)  # a browser whose pipe is closed ends
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(from_browser[0])


class Browser:
    """One tab."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._number, self._buffer = 0, b""
        self.events: list[dict[str, Any]] = []
        self._session: str | None = None
        targets = self.call("Target.getTargets")["targetInfos"]
        (tab,) = [t["targetId"] for t in targets if t["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Have the browser do something, and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            part = os.read(self._read, 1 << 20) if ready else b""
            assert part, "the browser says nothing any more; see chromium.log"
            self._buffer += part
        first, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(first))

    def open(self, page: Path, width: int = 1280, height: int = 900, *, scripts: bool = True) -> None:
        """Show a file, in a window of a size, and wait until all of it is loaded."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._next())

    def do(self, code: str) -> Any:
        """The value of some JavaScript in the page."""
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def click(self, selector: str, number: int = 0) -> None:
        """Press the mouse on an element, as a user does: what lies over it takes the click."""
        place = f"document.querySelectorAll({json.dumps(selector)})[{number}]"
        for _ in range(2):  # what comes into view may be laid out only then
            self.do(f"{place}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
            self.do("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        box = self.do(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({place}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            where = {"x": box[0], "y": box[1], "button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, **where)

    def choose(self, selector: str, value: str) -> None:
        """Choose an entry of a list."""
        place = f"document.querySelector({json.dumps(selector)})"
        known = self.do(f"[...{place}.options].map(o => o.value)")
        assert value in known, f"{selector} has {known}"
        event = "new Event('change', {bubbles: true})"
        self.do(f"{place}.value = {json.dumps(value)}; {place}.dispatchEvent({event})")

    def press(self, key: str) -> None:
        """Press a key, by its name of the DOM."""
        code = KEYS.get(key, 0)
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """A screenshot, of what the window shows or of the whole page."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def complaints(self) -> list[str]:
        """Errors and warnings of the page so far, and what it asked for but itself and data in it."""
        self.do("0")
        found = []
        for event in self.events:
            method, told = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(json.dumps(told["exceptionDetails"])[:500])
            elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(told["args"])[:500])
            elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
                found.append(told["entry"]["text"])
            elif method == "Network.requestWillBeSent":
                url = told["request"]["url"]
                if not url.startswith("data:") and url != told.get("documentURL"):
                    found.append(f"asked for {url[:200]}")
        return found
