"""Batches for training and evaluation, made by worker processes, without any state of their own."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from maskrcnn.data.file_names import shown
from maskrcnn.data.interfaces import Dataset, Transform
from maskrcnn.data.schedule import Draw, TrainSchedule
from maskrcnn.data.transforms.copy_paste import CopyPasteConfig
from maskrcnn.data.transforms.moving import apply_transforms
from maskrcnn.data.workers import POLL, Mending, Places, WorkerStart, iterate
from maskrcnn.errors import DataError, UserError, plural
from maskrcnn.structures import Batch, RawSample, Sample, Targets, collate
from maskrcnn.structures.seeds import derive_seed

logger = logging.getLogger(__name__)

#: How many unreadable images in a row are passed over before training stops.
MAX_REPLACEMENTS = 100


@dataclass(frozen=True)
class _Loaded:
    """What a worker sends for one batch: samples, images passed over, or the error that ended it.

    notes: kind, image id and sentence of what is doubtful about its image files.
    """

    batch: Batch
    passed_over: tuple[tuple[int, str], ...] = ()
    error: UserError | None = None
    notes: tuple[tuple[str, int, str], ...] = ()

    def pin_memory(self) -> _Loaded:
        return replace(self, batch=self.batch.pin_memory())

    def __reduce__(self) -> Any:
        """How a worker sends it: each tensor is a file in shared memory, which small ones are not worth."""
        targets = self.batch.targets
        plain = None if targets is None else [_changed(t, torch.Tensor, torch.Tensor.numpy) for t in targets]
        return _received, (replace(self, batch=replace(self.batch, targets=None)).__dict__, plain)


def _received(fields: dict[str, Any], plain: list[Targets] | None) -> _Loaded:
    loaded = _Loaded(**fields)
    if plain is None:
        return loaded
    targets = [_changed(t, np.ndarray, torch.from_numpy) for t in plain]
    return replace(loaded, batch=replace(loaded.batch, targets=targets))


def _changed(targets: Targets, kind: type[Any], change: Callable[[Any], Any]) -> Targets:
    """The targets with ``change`` of their fields of this kind."""
    fields = ((field.name, getattr(targets, field.name)) for field in dataclasses.fields(targets))
    return replace(targets, **{name: change(value) for name, value in fields if isinstance(value, kind)})


@dataclass(eq=False)
class _Images(TorchDataset[_Loaded]):
    """Loads whole batches in a worker.  Fetched by a list of draws, so that one item is one batch.

    replace: whether the next readable image takes an unreadable one's place.
    """

    dataset: Dataset
    transforms: Sequence[Transform]
    seed: int = 0
    replace: bool = False
    copy_paste: CopyPasteConfig | None = None
    drawn_masks: bool | None = None
    places: Places = field(default_factory=lambda: Places(0))
    _notes: list[tuple[str, int, str]] = field(default_factory=list, init=False)

    def __getitem__(self, draws: Any) -> _Loaded:
        samples: list[Sample] = []
        seeds: list[int] = []
        passed_over: list[tuple[int, str]] = []
        self._notes = []
        try:
            for draw in draws:
                sample = self._sample(draw, passed_over)
                if sample is not None:
                    samples.append(sample)
                    seeds.append(derive_seed("image", self.seed, draw.epoch, draw.position))
            self.places.at_batch()
            batch = collate(samples, seeds, self.drawn_masks)
        except UserError as error:  # sent as a value: torch would bury its sentence in a traceback
            return _Loaded(collate([]), error=error, notes=tuple(self._notes))
        finally:
            self.places.at(Places.NONE)
        return _Loaded(batch, tuple(passed_over), notes=tuple(self._notes))

    def _sample(self, draw: Draw, passed_over: list[tuple[int, str]]) -> Sample | None:
        """One image, transformed, and pasted onto where that is asked for."""
        raw = self._load(draw.image, passed_over)
        if raw is None:
            return None
        place = [self.seed, draw.epoch, draw.position]
        sample = apply_transforms(self.transforms, raw, np.random.Generator(np.random.PCG64(place)))
        if self.copy_paste is not None:
            # A generator of its own: with and without pasting, the image itself is the same.
            rng = np.random.Generator(np.random.PCG64([*place, 1]))
            partner = self.copy_paste.partner(len(self.dataset), rng)
            other = None if partner is None else self._load(partner, passed_over)
            if other is not None:
                other = apply_transforms(self.transforms, other, rng)
                sample = self.copy_paste.paste(sample, other, rng)
        return sample.to_sample()

    def _load(self, image: int, passed_over: list[tuple[int, str]]) -> RawSample | None:
        """An image; in training the next readable one takes an unreadable one's place."""
        count = len(self.dataset)
        for offset in range(min(count, MAX_REPLACEMENTS)):
            index = (image + offset) % count
            self.places.at(index)
            try:
                raw = self.dataset.load(index)
                self._notes += [(note.kind, raw.info.image_id, note.sentence) for note in raw.notes]
                return raw
            except DataError as error:
                if self.dataset.on_error != "skip":
                    raise
                passed_over.append((int(self.dataset.image_ids[index]), str(error)))
                if not self.replace:
                    return None
        raise DataError(
            f"{plural(len(passed_over), 'image')} in a row cannot be read, and no more are passed over; the"
            f" last: {passed_over[-1][1]}; restore them, or take their records out of"
            f" {self.dataset.annotation_file}"
        )


@dataclass(eq=False)
class _Batches(Sequence[list[Draw]]):
    """The training batches of one rank from one micro-step to another, drawn when asked for."""

    schedule: TrainSchedule
    rank: int
    first: int
    last: int

    def __len__(self) -> int:
        return max(self.last - self.first, 0)

    def __getitem__(self, i: Any) -> Any:
        return self.schedule.batch(range(self.first, self.last)[i], self.rank)


@dataclass(eq=False)
class _Behind(Sequence[list[Draw]]):
    """The batches behind the first so many."""

    batches: Sequence[list[Draw]]
    first: int

    def __len__(self) -> int:
        return len(self.batches) - self.first

    def __getitem__(self, i: Any) -> Any:
        return self.batches[range(self.first, len(self.batches))[i]]


class BatchLoader:
    """Iterates over batches; ``len`` of it is their number (at most, where unreadable images are skipped).

    Every iteration starts anew.  Images that the workers passed over go to ``dataset.report``.
    Iterating raises what :func:`maskrcnn.data.workers.iterate` does; ``stopping`` and ``tell`` may be set for
    it.  In place of a process that is lost others make its batch anew: the batches are the same.
    """

    def __init__(
        self, images: _Images, batches: Sequence[list[Draw]], *, workers: int, pin_memory: bool = False
    ) -> None:
        self.dataset = images.dataset
        #: Whether the run was asked to stop: then a batch that does not come is not waited for any longer.
        self.stopping: Callable[[], bool] = lambda: False
        #: Takes a sentence on a process that is lost.
        self.tell: Callable[[str], None] = logger.warning
        self._images, self._batches = images, batches
        self._workers, self._pin_memory = workers, pin_memory
        images.places = Places(workers)
        self._start = WorkerStart()

    def _loader(self, first: int) -> DataLoader[Any]:
        """Of the batches behind the first so many."""
        workers = self._workers
        options: dict[str, Any] = {}
        if workers and sys.platform.startswith("linux"):
            # A forked worker shares the data set's arrays; any other start copies them.
            options["multiprocessing_context"] = "fork"
        return DataLoader(
            self._images,
            sampler=_Behind(self._batches, first),  # an item is a batch, its key a list of draws
            batch_size=None,
            collate_fn=_as_is,
            num_workers=workers,
            pin_memory=self._pin_memory,
            worker_init_fn=self._start,
            timeout=POLL if workers else 0,
            **options,
        )

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        mending = Mending(self._loader, lambda text: self.tell(text), self._name, self._images.places)
        with closing(iterate(self._loader(0), lambda: self.stopping(), mending)) as source:
            for loaded in source:
                for image_id, sentence in loaded.passed_over:
                    self.dataset.report.image(image_id, sentence)
                for note in loaded.notes:
                    self.dataset.report.doubt(*note)
                if loaded.error is not None:
                    raise loaded.error
                if len(loaded.batch):
                    yield loaded.batch

    def _name(self, image: int) -> str:
        path = getattr(self.dataset, "path", lambda _: "")(image)
        file = f" ({shown(path)})" if path else ""
        return f"image {int(self.dataset.image_ids[image])}{file}"


def train_loader(
    dataset: Dataset,
    transforms: Sequence[Transform],
    *,
    images_per_rank: int,
    accumulate: int = 1,
    start_step: int = 0,
    total_steps: int,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
    group: bool = True,
    copy_paste: CopyPasteConfig | None = None,
    repeats: npt.NDArray[np.float64] | None = None,
    drawn_masks: bool | None = None,
    shared: bool = True,
) -> BatchLoader:
    """The training batches of one rank, ``accumulate`` for each optimizer step.

    The batches of step t are a pure function of (seed, t, rank, world size), whatever ``start_step`` and
    ``workers`` are; see :class:`maskrcnn.data.schedule.TrainSchedule`.

    images_per_rank: images of one micro-step on one rank.
    start_step, total_steps: optimizer steps [start_step, total_steps) are made.
    group: keep wide and tall images in batches of their own.
    repeats: how often each image comes an epoch on average (``schedule.repeat_factors``); None: once.
    copy_paste: paste objects of a second image, drawn from the whole data set, onto each image.
    drawn_masks: how the masks of a batch are packed for the model (``structures.collate``); None: not at all.
    shared: whether the ranks' batches are parts of one that a single process would have.

    Raises (while iterating):
        DataError: an image cannot be read, unless the data set's ``on_error`` is ``skip``: then the next
            readable image takes its place, which is counted and logged.
    """
    schedule = TrainSchedule(
        np.asarray(dataset.sizes),
        images_per_rank=images_per_rank,
        world_size=world_size,
        seed=seed,
        group=group,
        repeats=repeats,
        shared=shared,
    )
    batches = _Batches(schedule, rank, start_step * accumulate, total_steps * accumulate)
    images = _Images(dataset, transforms, seed, True, copy_paste, drawn_masks)
    return BatchLoader(images, batches, workers=workers, pin_memory=pin_memory)


def training_sample(
    dataset: Dataset,
    transforms: Sequence[Transform],
    draw: Draw,
    *,
    seed: int,
    copy_paste: CopyPasteConfig | None = None,
) -> Sample | None:
    """What :func:`train_loader` makes of one image of a batch; None where no image can be read in its place.

    Raises:
        DataError: the image, or one to paste from it, cannot be read.
    """
    return _Images(dataset, transforms, seed, True, copy_paste)._sample(draw, [])


def eval_loader(
    dataset: Dataset,
    transforms: Sequence[Transform],
    *,
    batch_size: int = 1,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    limit: int | None = None,
    places: Sequence[int] | None = None,
    drawn_masks: bool | None = None,
) -> BatchLoader:
    """All images once over all ranks, in the data set's order: rank r takes images r, r + world size, ...

    limit: only the first so many images.
    places: only these, in this order.
    drawn_masks: as for :func:`train_loader`, where the model's losses are wanted.

    Raises (while iterating):
        DataError: an image cannot be read, unless the data set's ``on_error`` is ``skip``: then it is left
            out, counted and logged.
    """
    chosen = range(min(len(dataset), limit or len(dataset))) if places is None else places
    mine = [Draw(0, i, i) for i in chosen[rank::world_size]]
    batches = [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]
    return BatchLoader(_Images(dataset, transforms, drawn_masks=drawn_masks), batches, workers=workers)


def _as_is(item: Any) -> Any:
    return item
