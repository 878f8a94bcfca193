"""What `maskrcnn predict` does: images and videos through a model, and files of what was found."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from maskrcnn.data.file_names import json_name, shown
from maskrcnn.data.video import Video, frames, opened_video
from maskrcnn.engine.console import Console, Unwritten
from maskrcnn.errors import DataError, OutputError, UserError, plural
from maskrcnn.evaluation import PredictionProgress
from maskrcnn.files import clear_folders
from maskrcnn.inference.ahead import behind
from maskrcnn.picture_files import writing_video
from maskrcnn.run.evaluation import progress_lines
from maskrcnn.run.find_images import AnyImage, ImagePage, Images
from maskrcnn.run.prediction import Prediction
from maskrcnn.run.prediction_files import (
    NEED_MASKS,
    OF_ALL,
    PICTURES,
    Fault,
    Written,
    folders_of,
    write_each,
)
from maskrcnn.run.prediction_journal import JOURNAL, DoneImage, Journal
from maskrcnn.run.predictor import Predictor
from maskrcnn.run.tiled_prediction import tiled_stream
from maskrcnn.run.tiling import Tiling

R = TypeVar("R")

#: Images whose files may be in the making beside a GPU.
_WAITING = 8


@dataclass
class Counts:
    """What became of the images and frames: those done (now and before), their instances, and the doubtful.

    capped: images with as many objects as the model may find.  small: instances below 8 px at its size.
    broken: images and videos that cannot be read.
    """

    images: int = 0
    instances: int = 0
    capped: int = 0
    small: int = 0
    broken: int = 0

    def add(self, done: DoneImage) -> None:
        """Count an image."""
        self.images += 1
        self.instances += len(done.records)
        self.capped += done.capped
        self.small += done.small

    def doubts(self, most: int, *, tiled: bool = False) -> str:
        """A sentence on objects that may be missing; empty where there is no reason.

        most: objects that the model may find in an image, or a tile.  tiled: whether there were tiles.
        """
        said = []
        tiles = "take smaller --tiles" if tiled else "predict with --tiles"
        if self.capped:
            said.append(
                f"in {self.capped} of {plural(self.images, 'image')} the model found as many objects as it"
                f" may ({most}), so others may be missing: {tiles}, or raise it (--set"
                f" model.roi.max_detections={10 * most})"
            )
        if self.small:
            said.append(
                f"{self.small} of {plural(self.instances, 'instance')} were below 8 px as the network saw"
                f" them, and of such many are missed ({tiles}, or let data.eval_transforms make images"
                " larger)"
            )
        return "; ".join(said)


@dataclass
class Predicting:
    """One run of `maskrcnn predict`; :meth:`run` does it all.

    images: see :func:`maskrcnn.run.find_images.find_images`.
    out: the folder of all that is written.
    writes: names of :data:`maskrcnn.run.prediction_files.WRITES`.
    settings: what decides the results besides, which ``resume`` compares.
    resume: go on with what an interrupted run has done there.
    batch_size: images a pass; None: the recipe's.
    console: for lines on what is done.  tell: takes a sentence on what is wrong.
    style: of the overlays, arguments of :meth:`Prediction.draw`.
    tiling: predict images window by window; None: as a whole.
    """

    predictor: Predictor
    images: Images
    out: Path
    writes: Sequence[str]
    settings: Mapping[str, Any]
    resume: bool
    batch_size: int | None
    console: Console
    tell: Callable[[str], None]
    style: Mapping[str, Any] = field(default_factory=dict)
    tiling: Tiling | None = None
    counts: Counts = field(default_factory=Counts, init=False)

    def run(self) -> Counts:
        """Predict all, write all; what could not be written stands in ``unwritten``.

        Raises:
            UserError: a format needs masks, which the model has not; what is to be gone on with was begun
                with other settings.
            KeyboardInterrupt: as it came; what is done is kept for ``resume``.
            OSError: not even the journal can be begun.
        """
        lacking = [name for name in self.writes if name in NEED_MASKS]
        if lacking and self.predictor.recipe.model.mask_head is None:
            raise UserError(
                f"--write {','.join(lacking)}: label images are made of masks, and this model predicts boxes"
                " alone; leave it out"
            )
        self.unwritten = Unwritten(self.tell)
        self._journal = self._open_journal()
        self._keys: list[str] = []
        self._progress = progress_lines(self.console, "predicting")
        self._start, self._now, self._total = time.perf_counter(), 0, len(self.images.names)
        #: The id of the next video's first frame; images have theirs by their places.
        self._next = len(self.images.names) + 1
        finished = False
        try:
            self._stills()
            for video, name in self.images.videos.items():
                self._video(video, name)
            self._write_all()
            finished = not self.unwritten.missing and not self.counts.broken
        except KeyboardInterrupt:
            count = plural(self.counts.images, "image is", "images are")
            self.console.line(f"{count} done; the same command with --resume goes on from there")
            raise
        finally:
            with suppress(OSError):  # told when it first failed
                self._journal.close(finished=finished)
        return self.counts

    def _open_journal(self) -> Journal:
        path = self.out / JOURNAL
        self.out.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        if self.resume and there:
            clear_folders(folders_of(self.out))
        journal = Journal(path, {**self.settings, "--write": list(self.writes)}, resume=self.resume)
        if self.resume:
            done = plural(len(journal.done), "image is", "images are") + " done" if there else ""
            self.console.line(
                f"{shown(self.out)}: {done or 'no unfinished run there, so all images are predicted'}"
            )
        elif there:
            self.tell(f"{shown(self.out)}: begins anew; with --resume the unfinished run there goes on")
        return journal

    def _write_all(self) -> None:
        for name, (file, write) in OF_ALL.items():
            if name in self.writes:
                lines = partial(self._journal.lines, self._keys)
                work = partial(write, lines, self.predictor.categories.names, self.out)
                self.unwritten.attempt(self.out / file, work)

    def _stills(self) -> None:
        """The images, but those that are done."""
        names = self.images.names
        numbers = {image: number for number, image in enumerate(names, start=1)}
        keys = {image: _key(image, name) for image, name in names.items()}
        done = self._journal.done
        left = [image for image in names if done.get(keys[image]) != numbers[image]]
        self._take_over([keys[image] for image in names if done.get(keys[image]) == numbers[image]])

        def skip(image: AnyImage, error: DataError) -> None:
            self._broken(error)

        def finish(found: Prediction) -> tuple[DoneImage, list[Fault], int]:
            image = left[found.image_id]
            found = found.with_image_id(numbers[image])
            writes = self.writes if found.image is not None else self._without_pictures(found)
            faults = write_each(writes, Written(found, _file(image), self.out, names[image], self.style))
            return self._line(found, image, keys[image], names[image], faults), faults, found.tile

        for line, faults, tile in self._beside(self._stream(left, skip), finish):
            self._note(line, faults)
            name = line.file_name["file_name"]
            tiles = f", tiles of {tile} px" if tile else ""
            self.console.line(f"{shown(name)}: {plural(len(line.records), 'instance')}{tiles}")

    def _stream(
        self, images: Iterable[AnyImage], skip: Callable[[AnyImage, DataError], None] | None
    ) -> Iterator[Prediction]:
        """What is found in each image, in their order, without those that ``skip`` took."""
        if self.tiling is None:
            return self.predictor.stream(images, batch_size=self.batch_size, skipped=skip)
        tell = progress_lines(self.console, "predicting tiles")
        options = {"tiling": self.tiling, "batch_size": self.batch_size}
        return tiled_stream(self.predictor, images, skip, progress=tell, **options)

    def _without_pictures(self, found: Prediction) -> list[str]:
        """What is written of an image that is too large to be held."""
        if any(name in PICTURES for name in self.writes):
            height, width = found.size
            self.tell(f"{shown(found.name)}: no pictures of {width} x {height} pixels are made; all else is")
        return [name for name in self.writes if name not in PICTURES]

    def _video(self, path: Path, name: str) -> None:
        """A video; one that was not finished is begun anew."""
        key, first = _key(path, name), self._next
        whole = [f"{key}#{k}" for k in range(self._journal.videos.get(key, 0))]
        if whole and all(self._journal.done.get(key) == first + k for k, key in enumerate(whole)):
            self._total += len(whole)
            self._next += len(whole)
            self._take_over(whole)
            return
        keys: list[str] = []
        try:
            with opened_video(path) as video:
                self._total += video.count
                for found in self._frames(video, path, name):
                    frame = len(keys)
                    picture = f"{name}_{frame:06d}"
                    others = [write for write in self.writes if write != "overlays"]
                    found = found.with_image_id(first + frame)
                    faults = write_each(others, Written(found, path, self.out, picture))
                    keys.append(f"{key}#{frame}")
                    self._note(self._line(found, path, keys[-1], picture, faults, frame), faults)
        except DataError as error:
            self._broken(error)
            return
        finally:
            self._next += len(keys)
        if not keys:
            self._broken(DataError(f"{shown(path)}: not one frame can be read"))
            return
        if len(keys) < video.count:
            said = f"{plural(len(keys), 'frame')} of the {video.count} that it says it has"
            self.tell(f"{shown(path)}: {said} could be read")
        self.console.line(f"{shown(path)}: {plural(len(keys), 'frame')}")
        self._journal.mark(key, len(keys))

    def _frames(self, video: Video, path: Path, name: str) -> Iterator[Prediction]:
        """What is found in each frame, its overlay written as a video where that is wished."""
        wished = "overlays" in self.writes
        target = self.out / f"{name}.mp4"

        def draw(found: Prediction) -> tuple[Prediction, npt.NDArray[np.uint8] | None]:
            return found, found.draw(**self.style) if wished else None

        with ExitStack() as stack:
            add: Callable[[npt.NDArray[np.uint8]], object] | None = None
            stream = self._stream(frames(video.camera), None)
            for place, (found, picture) in enumerate(self._beside(stream, draw)):
                if picture is not None and place == 0:
                    try:
                        height, width = picture.shape[:2]
                        add = stack.enter_context(writing_video(target, video.rate, height, width))
                        self.tell(f"{shown(target)}: the overlay has no sound")
                    except OutputError as error:
                        self.unwritten.attempt(target, partial(_raise, error))
                if picture is not None and add is not None:
                    add(picture)
                yield found

    def _line(
        self,
        found: Prediction,
        image: Path | ImagePage,
        key: str,
        picture: str,
        faults: Sequence[Fault],
        frame: int | None = None,
    ) -> DoneImage:
        return DoneImage(
            image_id=found.image_id,
            key=key,
            file_name=json_name(str(image)),
            below=shown(self.images.below[image]),
            picture=picture,
            height=found.size[0],
            width=found.size[1],
            records=found.records,
            classes=list(found.classes),
            capped=found.capped,
            small=found.small,
            frame=frame,
            written=not faults,
        )

    def _note(self, line: DoneImage, faults: Sequence[Fault]) -> None:
        """Count an image, and tell how far all are."""
        for path, error in faults:
            self.unwritten.attempt(path, partial(_raise, error))
        self.unwritten.attempt(self._journal.path, partial(self._journal.add, line))
        self._keys.append(line.key)
        self.counts.add(line)
        self._now += 1
        rate = self._now / max(time.perf_counter() - self._start, 1e-9)
        total = max(self._total, len(self._keys))
        self._progress(PredictionProgress(len(self._keys), total, rate, (total - len(self._keys)) / rate))

    def _take_over(self, keys: Sequence[str]) -> None:
        """Count what was done before."""
        self._keys += keys
        for line in self._journal.lines(keys):
            self.counts.add(line)

    def _broken(self, error: DataError) -> None:
        self.counts.broken += 1
        self.tell(f"skipped: {error}")

    def _beside(self, found: Iterator[Prediction], work: Callable[[Prediction], R]) -> Iterator[R]:
        """``work`` of each, beside a GPU; a CPU has no hands free."""
        if self.predictor.device.type == "cpu":
            return map(work, found)
        return behind(found, work, most=_WAITING, threads=min(_WAITING, os.cpu_count() or 1))


def _file(image: Path | ImagePage) -> Path:
    return image.path if isinstance(image, ImagePage) else image


def _key(image: Path | ImagePage, name: str) -> str:
    """What says that it is the same image still; see :class:`DoneImage`."""
    try:
        state = _file(image).stat()
        version = f"{state.st_size}|{state.st_mtime_ns}"
    except (OSError, ValueError):  # which its reader will tell
        version = "?"
    return f"{image}|{name}|{version}"


def _raise(error: Exception) -> None:
    raise error
