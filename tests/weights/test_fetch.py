"""Downloads from a local server: whole, checked, gone on with, and a sentence where they fail."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.errors import CheckpointError, OutputError, UserError
from maskrcnn.weights import download as module
from maskrcnn.weights.download import Patience
from maskrcnn.weights.fetch import Facts, facts_of, fetch
from maskrcnn.weights.published import Published
from tests.weights.server import Server, serving

#: 3 MB, no two pieces of which are equal.
CONTENT = b"".join(
    hashlib.sha256(bytes([i % 256, i // 256 % 256, i // 65536])).digest() for i in range(100_000)
)
QUICK = Patience(silence=0.3, window=0.2, tries=3, pause=0.0, every=0.0)


class Fetched:
    """One file's place and what was said."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "cache" / "net.pth"
        self.said: list[str] = []

    @property
    def part(self) -> Path:
        return self.path.with_name("net.pth.part")

    def get(self, entry: Published, patience: Patience = QUICK) -> Facts:
        return fetch("own/net", entry, self.path, self.said.append, patience)

    def refused(self, entry: Published, kind: type[UserError] = CheckpointError) -> str:
        """The sentence; nothing of the file's name is there."""
        with pytest.raises(kind) as error:
            self.get(entry)
        assert not self.path.exists()
        return str(error.value)


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetched:
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return Fetched(tmp_path)


def by_hand(server: Server, at: Fetched) -> str:
    return f"download {server.url} elsewhere and put it there by hand: {at.path}"


def test_a_file_is_fetched_once_and_known_then(at: Fetched) -> None:
    with serving(CONTENT) as server:
        facts = at.get(server.entry(mebibytes=round(len(CONTENT) / 2**20, 3)))
        assert at.path.read_bytes() == CONTENT
        assert facts.sha256 == hashlib.sha256(CONTENT).hexdigest() and facts.size == len(CONTENT)
        assert facts.md5 == hashlib.md5(CONTENT).hexdigest() and facts_of(at.path) == facts
        assert at.get(server.entry()) == facts
        assert server.asked == [("/models/net.pth", "")]
    assert sorted(p.name for p in at.path.parent.iterdir()) == ["lock", "net.pth", "net.pth.json"]
    assert re.search(r"own/net: [\d.]+ of 3\.1 MiB, [\d.]+ MiB/s, \d+ s left", "\n".join(at.said))


def test_what_breaks_off_is_gone_on_with(at: Fetched) -> None:
    with serving(CONTENT, ("cut", 1_500_000), ("cut", 700_000)) as server:
        at.get(server.entry())
        assert [wanted for _, wanted in server.asked] == ["", "bytes=1500000-", "bytes=2200000-"]
    assert at.path.read_bytes() == CONTENT
    assert any(
        "the connection ended after 1,500,000 of 3,200,000 bytes; going on, 1.4 MiB" in s for s in at.said
    )


def test_the_next_call_goes_on_where_the_last_one_gave_up(at: Fetched) -> None:
    with serving(CONTENT, *[("cut", 1000)] * 3) as server:
        sentence = at.refused(server.entry())
        assert "the connection ended" in sentence and "MiB are kept" in sentence
        assert by_hand(server, at) in sentence
        kept = at.part.stat().st_size
        assert kept == 3000
        at.get(server.entry())
        assert server.asked[-1] == ("/models/net.pth", f"bytes={kept}-")
    assert at.path.read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_begun_again(at: Fetched) -> None:
    with serving(CONTENT, *[("cut", 1000)] * 3) as server:
        at.refused(server.entry())
        server.content = CONTENT[::-1]
        at.get(server.entry())
    assert at.path.read_bytes() == CONTENT[::-1]


def test_joined_parts_of_two_files_are_begun_again(at: Fetched) -> None:
    """A server without ETags joins what does not belong together; the digest tells."""
    with serving(CONTENT, *[("cut", 1000)] * 3) as server:
        server.etag = False
        at.refused(server.entry())
        server.content = CONTENT[::-1]
        at.get(server.entry())
    assert at.path.read_bytes() == CONTENT[::-1]
    assert any("the parts that were joined do not fit" in s for s in at.said)


def test_without_etag_and_digest_nothing_is_joined(at: Fetched) -> None:
    with serving(CONTENT, ("cut", 1000)) as server:
        server.etag = False
        at.get(server.entry(sha256=None))
        assert [wanted for _, wanted in server.asked] == ["", ""]
    assert at.path.read_bytes() == CONTENT


def test_a_part_that_was_whole_is_taken(at: Fetched) -> None:
    at.part.parent.mkdir(parents=True)
    at.part.write_bytes(CONTENT)
    with serving(CONTENT) as server:
        at.get(server.entry())
    assert at.path.read_bytes() == CONTENT


@pytest.mark.parametrize(("digest", "said"), [("sha256", "SHA-256 begins with"), ("md5", "MD5 begins with")])
def test_a_wrong_digest_is_refused(digest: str, said: str, at: Fetched) -> None:
    with serving(CONTENT) as server:
        sentence = at.refused(server.entry(**{digest: "00c0ffee"}))
        assert said in sentence and "stated is 00c0ffee" in sentence and by_hand(server, at) in sentence
    assert not at.part.exists()


def test_a_wrong_size_is_refused_before_it_is_fetched(at: Fetched) -> None:
    with serving(CONTENT) as server:
        sentence = at.refused(server.entry(mebibytes=177.219))
    assert "it has 3.052 MiB, stated are 177.219" in sentence and by_hand(server, at) in sentence
    assert not at.part.exists()


def test_silence_ends_a_try(at: Fetched) -> None:
    with serving(CONTENT, *[("drip", 5000)] * 3) as server:
        sentence = at.refused(server.entry())
        assert "nothing came for too long" in sentence and by_hand(server, at) in sentence
        assert len(server.asked) == 3


def test_a_server_that_crawls_is_left(at: Fetched, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that runs as if every piece took a minute."""
    ticks = iter(range(0, 10**9, 60))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(ticks)))
    with serving(CONTENT) as server:
        with pytest.raises(CheckpointError, match="slower than 1e[+]06 bytes a second for 60 s") as error:
            at.get(server.entry(), Patience(slowest=1e6, tries=1, pause=0.0))
        assert by_hand(server, at) in str(error.value)


@pytest.mark.parametrize(
    ("status", "tries", "said"),
    [(404, 1, "404 Not Found; the file may have moved"), (403, 1, "403"), (503, 3, "503")],
)
def test_a_status_is_told(status: int, tries: int, said: str, at: Fetched) -> None:
    with serving(CONTENT, *[status] * 3) as server:
        sentence = at.refused(server.entry())
        assert said in sentence and by_hand(server, at) in sentence
        assert len(server.asked) == tries


def test_a_server_that_was_busy_is_asked_again(at: Fetched) -> None:
    with serving(CONTENT, 503, 429) as server:
        at.get(server.entry())
        assert len(server.asked) == 3


def test_without_a_network_it_is_a_sentence_at_once(at: Fetched) -> None:
    with serving(CONTENT) as server:
        entry = server.entry()
    sentence = at.refused(entry, CheckpointError)
    assert "no connection (Connection refused)" in sentence and by_hand(server, at) in sentence
    assert len(at.said) == 1  # not tried again


def test_a_web_page_is_no_file(at: Fetched) -> None:
    with serving(b"<html>log in</html>") as server:
        server.kind = "text/html"
        assert "sends a web page and no weights" in at.refused(server.entry(sha256=None))


def test_a_redirect_on_the_same_host_is_followed(at: Fetched) -> None:
    with serving(CONTENT, ("to", "/other/net.pth")) as server:
        at.get(server.entry())
        assert [path for path, _ in server.asked] == ["/models/net.pth", "/other/net.pth"]


def test_another_host_only_where_it_is_listed(at: Fetched) -> None:
    with serving(CONTENT) as server:
        elsewhere = f"http://localhost:{server.port}/models/net.pth"
        server.plan = [("to", elsewhere), ("to", elsewhere)]
        sentence = at.refused(server.entry())
        assert "leads to http://localhost, which the registry does not list" in sentence
        assert by_hand(server, at) in sentence and len(server.asked) == 1
        at.get(server.entry(hosts=("localhost",)))
    assert at.path.read_bytes() == CONTENT


def test_a_file_of_this_machine_is_no_place_to_lead_to(at: Fetched) -> None:
    with serving(CONTENT, ("to", "file:///etc/hostname")) as server:
        assert "file:///etc/hostname' is not allowed" in at.refused(server.entry())


def test_the_proxy_of_the_environment_is_asked(at: Fetched, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(CONTENT) as server:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
        at.get(server.entry(url="http://weights.invalid/net.pth"))
        assert server.asked == [("http://weights.invalid/net.pth", "")]


def test_a_file_that_was_put_there_by_hand_is_checked(at: Fetched) -> None:
    at.path.parent.mkdir(parents=True)
    at.path.write_bytes(CONTENT[:-1])
    entry = Server(CONTENT, port=1).entry()
    with pytest.raises(CheckpointError, match="net.pth: is not own/net as its publisher states it"):
        at.get(entry)
    at.path.write_bytes(CONTENT)
    assert at.get(entry).size == len(CONTENT) and at.said == []


def test_the_first_fetch_fills_in_what_is_not_stated(at: Fetched) -> None:
    with serving(CONTENT) as server:
        at.get(server.entry(sha256=None))
        at.path.unlink()
        server.content = CONTENT[::-1]
        with pytest.raises(CheckpointError, match="the first that was fetched had") as error:
            at.get(server.entry(sha256=None))
    record = at.path.with_name("net.pth.json")
    assert f"where the new one is right, remove {record}" in str(error.value)
    record.unlink()
    assert at.get(server.entry(sha256=None)).sha256 == hashlib.sha256(CONTENT[::-1]).hexdigest()


def test_no_room_is_told_before_a_byte_comes(at: Fetched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda _: 2**20)
    with serving(CONTENT) as server:
        sentence = at.refused(server.entry(), OutputError)
    assert "3.1 MiB are to come and 1.0 MiB are free; make room there, or set MASKRCNN_HOME" in sentence


def test_a_disk_that_fills_up_keeps_what_has_come(at: Fetched, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.write, []

    def write(handle: int, data: Any) -> int:
        calls.append(len(data))
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, data)

    with serving(CONTENT) as server:
        with monkeypatch.context() as patch:
            patch.setattr("maskrcnn.files.os.write", write)
            assert "net.pth.part: could not be written: the disk is full" in at.refused(
                server.entry(), OutputError
            )
        kept = at.part.stat().st_size
        assert kept > 0
        at.get(server.entry())
        assert server.asked[-1][1] == f"bytes={kept}-"
    assert at.path.read_bytes() == CONTENT


def test_several_processes_share_one_download(at: Fetched) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from maskrcnn.weights.fetch import fetch; from maskrcnn.weights.published import Published\n"
        "entry = Published(kind='detector', url=sys.argv[1])\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(fetch('own/net', entry, Path(sys.argv[2]), print).sha256)\n"
    )
    with serving(CONTENT, ("drip", 1000)) as server:
        command = [sys.executable, "-c", script, server.url, str(at.path)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        children = [subprocess.Popen(command, **pipes) for _ in range(2)]
        for child in children:
            assert child.stdout.readline() == "ready\n"
        for child in children:
            child.stdin.write("\n")
            child.stdin.flush()
        lines = [child.stdout.readline() for child in children]  # one fetches, the other waits for it
        server.quit.set()
        out = [child.communicate()[0] for child in children]
        assert len(server.asked) == 2  # the one that was cut short, and its continuation
    assert sorted(line.split()[0] for line in lines) == ["fetching", "waiting"]
    assert {text.split()[-1] for text in out} == {hashlib.sha256(CONTENT).hexdigest()}
