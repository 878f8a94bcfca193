"""What of a prediction over many images is done: a line an image, from which an interrupted one goes on.

It lies in the folder of the results until these are whole.  A process may be killed at any moment: a line
that was cut is no line, and an image without one is predicted again.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maskrcnn.errors import UserError, few
from maskrcnn.files import Appender, replacing
from maskrcnn.inference.records import Result

#: The file's name.
JOURNAL = "unfinished.jsonl"


@dataclass(frozen=True)
class DoneImage:
    """An image, or a frame of a video, with what was found in it.

    image_id: that of its records.
    key: what says that it is the same image still: its name, the name of its picture, its file's size and
        date.
    file_name: its name for a json (:func:`maskrcnn.data.file_names.json_name`): one or two keys.
    below: its path below the folder that it was looked for in, as text.
    picture: the name of files that are made of it, without suffix.
    height, width: pixels.
    classes: the name of each record's class.
    frame: of a video, from 0; None for images.
    written: whether all its own files are.
    """

    image_id: int
    key: str
    file_name: dict[str, str]
    below: str
    picture: str
    height: int
    width: int
    records: list[Result]
    classes: list[str]
    capped: bool
    small: int
    frame: int | None = None
    written: bool = True


class Journal:
    """See the module.  Lines are kept in the file alone; what is held is where they begin."""

    def __init__(self, path: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        """
        Args:
            path: its folder exists.
            settings: what decides the results, by the names that a message calls it.
            resume: go on with what is there; else it begins anew.

        Raises:
            UserError: it was begun with other settings.
            OSError: it cannot be written.
        """
        self.path = path
        self._appender = Appender(path)
        #: The ids of images that are done, all files written, by their keys.
        self.done: dict[str, int] = {}
        #: Of videos that are done, how many frames they have, by their keys.
        self.videos: dict[str, int] = {}
        #: By an image's key: its id, and where its line begins.
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0
        header = json.loads(json.dumps(settings))
        with contextlib.ExitStack() as stack:
            before = self._before(header, stack) if resume else iter(())
            with replacing(path) as file:
                for line in itertools.chain([_line(header)], before):
                    self._index(self._parsed(line), len(line))
                    file.write(line)

    def _before(self, header: dict[str, Any], stack: contextlib.ExitStack) -> Iterator[bytes]:
        """The whole lines of images that are there, read as they are asked for."""
        try:
            file = stack.enter_context(self.path.open("rb"))
        except FileNotFoundError:
            return iter(())
        first = file.readline()
        if not first.endswith(b"\n"):
            return iter(())
        before = self._parsed(first)
        differ = [name for name in header.keys() | before.keys() if header.get(name) != before.get(name)]
        if differ:
            raise UserError(
                f"{self.path.parent}: was begun with other options ({few(sorted(differ))}); go on with those,"
                " or begin anew without --resume"
            )
        return (line for line in file if line.endswith(b"\n"))

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(line)
            if content.get("key"):
                DoneImage(**content)
        except (ValueError, TypeError, AttributeError):
            raise UserError(f"{self.path}: is damaged; begin anew without --resume") from None
        return content

    def add(self, done: DoneImage) -> None:
        """Note an image whose own files are written.

        Raises:
            OSError: it cannot be written.
        """
        self._append(asdict(done))

    def mark(self, video: str, count: int) -> None:
        """Note that a video, by its key, is done, with so many frames.

        Raises:
            OSError: it cannot be written.
        """
        self._append({"video": video, "frames": count})

    def _append(self, content: dict[str, Any]) -> None:
        line = _line(content)
        self._index(content, len(line))  # it will be there, too, if it has to wait
        self._appender.append(line)

    def _index(self, content: Mapping[str, Any], length: int) -> None:
        """Know a line at the end."""
        if "video" in content:
            self.videos[content["video"]] = content["frames"]
        elif "key" in content:
            key, number = content["key"], content["image_id"]
            self._places[key] = (number, self._end)
            if content["written"]:
                self.done[key] = number
            else:
                self.done.pop(key, None)
        self._end += length

    def lines(self, keys: Sequence[str] | None = None) -> Iterator[DoneImage]:
        """What is done, of these keys, in the order of the images' ids.

        Raises:
            OSError: something that waits cannot be written.
        """
        self._appender.flush()
        places = [self._places[key] for key in (self._places if keys is None else keys)]
        with self.path.open("rb") as file:
            for _, place in sorted(places):
                file.seek(place)
                yield DoneImage(**json.loads(file.readline()))

    def close(self, *, finished: bool) -> None:
        """Let go of the file; the results that are whole need it no more."""
        self._appender.close()
        if finished:
            self.path.unlink(missing_ok=True)


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"
