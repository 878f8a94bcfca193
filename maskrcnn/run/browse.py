"""``maskrcnn browse DATA|CONFIG``: what a training sees of its images, with what the doctor finds of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from maskrcnn.config.registry import did_you_mean
from maskrcnn.data.doctor import Doubt
from maskrcnn.data.doctor.look import Look
from maskrcnn.data.file_names import shown
from maskrcnn.data.interfaces import Dataset, Transform
from maskrcnn.data.loader import training_sample
from maskrcnn.data.schedule import Draw, TrainSchedule, repeat_factors
from maskrcnn.errors import DataError, UserError, few, plural
from maskrcnn.recipe import Recipe
from maskrcnn.run import setup
from maskrcnn.run.examine import quietly
from maskrcnn.run.image_findings import objects_by_image, places_of, train_doubts
from maskrcnn.structures.seeds import derive_seed
from maskrcnn.viz.contact_sheet import Card, Picture, picture_of, sheet_page
from maskrcnn.viz.tables import Table

#: Images of each finding that are shown whatever else chance takes, as far as half of the sheet.
EXAMPLES = 2
#: Classes that the table lists.
MOST_CLASSES = 100
#: Longest sentence about an image that cannot be read.
_LONGEST = 300


@dataclass(frozen=True)
class SheetWishes:
    """What the sheet shows.

    images: at most so many.  epochs: how often each is drawn, from epoch 0 on.
    seed: chooses the images (what is done to them, the recipe's own seed decides).
    classes, findings: only images with an object of one of these, or with one of these; none: all.
    side: longer side of a picture in pixels, at most.
    most_bytes: of all pictures in the page; images that are over it are left out.
    """

    images: int = 60
    epochs: int = 1
    seed: int = 0
    classes: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    side: int = 480
    most_bytes: int = 64 << 20


@dataclass(frozen=True)
class Sheet:
    """The page, and in sentences what is on it."""

    html: str
    told: tuple[str, ...]


def browse(
    recipe: Recipe,
    title: str,
    wishes: SheetWishes,
    *,
    fits: bool = True,
    look: Look | None = None,
    tell: Callable[[int, int], object] = lambda done, total: None,
) -> Sheet:
    """Draw images of ``data.train`` before and after augmentation, as a training of one process makes them.

    Args:
        title: of the page.
        fits: hold the recipe's model against the data, too.
        look: opens all images for the doctor; None: findings that take that are left out.
        tell: called with the number of images that are drawn, and that there are.

    Raises:
        UserError: the data cannot be read, or nothing is as it is wished.
    """
    dataset = _read(recipe)
    transforms = setup.build_transforms(recipe, training=True)
    doubts = list(train_doubts(recipe, dataset, look, fits=fits))
    of_doubts = [places_of(doubt, dataset) for doubt in doubts]
    classes = objects_by_image(dataset)
    chosen = _choose(dataset, wishes, classes, doubts, of_doubts)
    draws = [_draws(recipe, dataset, epoch) for epoch in range(wishes.epochs)]
    artist = _Artist(recipe, dataset, transforms, wishes.side)

    cards: list[Card] = []
    used = 0
    for number, place in enumerate(chosen):
        tell(number, len(chosen))
        found = tuple(i for i, places in enumerate(of_doubts) if place in places)
        card = artist.card(place, classes.get(place, {}), found, [of_epoch.get(place) for of_epoch in draws])
        used += sum(len(picture.source) for picture in card.pictures)
        if used > wishes.most_bytes:
            break
        cards.append(card)
    told = list(_told(recipe, dataset, wishes, len(cards), len(chosen)))
    passed = ["what takes opening every image (--thorough)"] if look is None else look.skipped
    skipped = [f"not looked for: {what}" for what in passed]
    html = sheet_page(
        cards,
        title=title,
        notes=told,
        counts=_counts(dataset, classes, cards),
        names=dataset.categories.names,
        kinds=[doubt.kind for doubt in doubts],
        findings=[
            *(f"{doubt.kind}: {doubt}" for doubt in doubts),
            *(f"not looked for: {w}" for w in skipped),
        ],
        transforms=map(repr, transforms),
    )
    return Sheet(html, tuple(told))


class _Artist:
    """Makes the cards."""

    def __init__(self, recipe: Recipe, dataset: Dataset, transforms: Sequence[Transform], side: int) -> None:
        self._recipe, self._dataset, self._transforms, self._side = recipe, dataset, transforms, side
        self._drawn_from = setup.trained_on(recipe, dataset)

    def card(
        self, place: int, counts: Mapping[int, int], found: tuple[int, ...], draws: Sequence[Draw | None]
    ) -> Card:
        """An image as it is stored, then as each draw makes it."""
        image_id = int(self._dataset.image_ids[place])
        names = self._dataset.categories.names
        objects = sum(counts.values())
        told = few((f"{names[c]} {n}" for c, n in sorted(counts.items(), key=lambda e: -e[1])), 8)
        title, pictures = f"image {image_id}", []
        try:
            raw = self._dataset.load(place)
            title = f"image {image_id}: {raw.info.file_name}"
            size = f"{raw.size[1]} x {raw.size[0]}"
            pictures.append(picture_of(raw, names, self._side, f"as stored, {size}"))
            pictures += [
                self._drawn(epoch, draw, len(raw.targets)) for epoch, draw in enumerate(draws) if draw
            ]
            missed = [epoch for epoch, draw in enumerate(draws) if draw is None]
            if missed:
                told = f"{told}; not drawn in epoch {few(missed)}: it filled no batch"
        except DataError as error:
            told = f"cannot be read: {str(error)[:_LONGEST]}"
        return Card(title, told or "no objects", objects, tuple(sorted(counts)), found, tuple(pictures))

    def _drawn(self, epoch: int, draw: Draw, before: int) -> Picture:
        config = self._recipe
        sample = training_sample(
            self._drawn_from, self._transforms, draw, seed=config.seed, copy_paste=config.data.copy_paste
        )
        if sample is None or sample.targets is None:
            raise DataError("no image could be read in its place")
        channels, height, width = sample.image.shape
        left = f"{len(sample.targets)} of {plural(before, 'object')}" if len(sample.targets) < before else ""
        left = left or plural(len(sample.targets), "object")
        deep = f" x {plural(channels, 'channel')}" if channels not in (1, 3) else ""
        caption = f"epoch {epoch}, position {draw.position}: {width} x {height}{deep}, {left}"
        return picture_of(sample, self._dataset.categories.names, self._side, caption)


def _read(recipe: Recipe) -> Dataset:
    """``data.train`` as a training has it, with what is faulty passed over (findings tell it)."""
    part = recipe.data.train
    if hasattr(part, "on_error"):
        part = replace(part, on_error="skip")  # type: ignore[type-var]
    with quietly():
        return replace(recipe.data, on_error="skip").build(part, True)


def _choose(
    dataset: Dataset,
    wishes: SheetWishes,
    classes: Mapping[int, Mapping[int, int]],
    doubts: Sequence[Doubt],
    of_doubts: Sequence[frozenset[int]],
) -> list[int]:
    """Places of the images to show, rising: examples of each finding, then by chance.

    Raises:
        UserError: there is no such class or finding, or no image of it.
    """
    names = dataset.categories.names
    _refuse_unknown("--class", wishes.classes, names)
    _refuse_unknown("--finding", wishes.findings, sorted({doubt.kind for doubt in doubts}))
    allowed = set(range(len(dataset)))
    if wishes.classes:
        labels = {i for i, name in enumerate(names) if name in wishes.classes}
        allowed &= {place for place, counts in classes.items() if labels & counts.keys()}
    if wishes.findings:
        pairs = zip(doubts, of_doubts, strict=True)
        allowed &= {place for d, places in pairs if d.kind in wishes.findings for place in places}
    if not allowed:
        raise UserError(
            f"{shown(dataset.annotation_file)}: no image is of the class and finding that --class and"
            " --finding name (some findings are about no single image); leave one out"
        )
    rng = np.random.Generator(np.random.PCG64(derive_seed("browse", wishes.seed)))
    order = [place for place in np.argsort(rng.random(len(dataset))).tolist() if place in allowed]
    firsts = [[place for place in order if place in places][:EXAMPLES] for places in of_doubts]
    examples = list(dict.fromkeys(place for first in firsts for place in first))[: (wishes.images + 1) // 2]
    return sorted(list(dict.fromkeys([*examples, *order]))[: wishes.images])


def _refuse_unknown(option: str, wished: Iterable[str], known: Sequence[str]) -> None:
    for name in wished:
        if name not in known:
            raise UserError(
                f"{option} {shown(name)}: the data have none of that name"
                f" (there are: {few(map(shown, known), 20) or 'none'}).{did_you_mean(name, known)}"
            )


def _draws(recipe: Recipe, dataset: Dataset, epoch: int) -> dict[int, Draw]:
    """The first draw of each image, or of a window of it, in an epoch, by its place, as one process deals."""
    threshold = recipe.data.repeat_threshold
    repeats = None
    if threshold is not None:
        repeats = repeat_factors(dataset.ground_truth(), dataset.image_ids, threshold).images
    drawn = setup.trained_on(recipe, dataset)
    of_image = range(len(dataset)) if drawn is dataset else drawn.images.tolist()
    if drawn is not dataset and repeats is not None:
        repeats = repeats[drawn.images]
    schedule = TrainSchedule(
        np.asarray(drawn.sizes),
        images_per_rank=max(recipe.solver.batch_size // recipe.solver.accumulate, 1),
        world_size=1,
        seed=recipe.seed,
        repeats=repeats,
    )
    found: dict[int, Draw] = {}
    for draw in schedule.epoch_draws(epoch):
        found.setdefault(of_image[draw.image], draw)
    return found


def _counts(dataset: Dataset, classes: Mapping[int, Mapping[int, int]], cards: Sequence[Card]) -> Table:
    """Objects and images of each class, and images that are shown."""
    names = dataset.categories.names
    objects, images = np.zeros(len(names), dtype=np.int64), np.zeros(len(names), dtype=np.int64)
    for counts in classes.values():
        for label, count in counts.items():
            objects[label] += count
            images[label] += 1
    most = np.argsort(-objects, kind="stable")[:MOST_CLASSES].tolist()
    rows = [
        (names[i], str(objects[i]), str(images[i]), str(sum(i in card.classes for card in cards)))
        for i in most
    ]
    more = f"the {len(rows)} most frequent of {len(names)}" if len(rows) < len(names) else ""
    return Table(("class", "objects", "images", "shown here"), rows, more)


def _told(recipe: Recipe, dataset: Dataset, wishes: SheetWishes, cards: int, chosen: int) -> Iterator[str]:
    """What the page shows, and what it leaves out."""
    size = recipe.solver.batch_size
    yield (
        f"{cards} of {plural(len(dataset), 'training image')} of {dataset.annotation_file}, as stored and as"
        f" steps of the first {'epoch' if wishes.epochs == 1 else f'{wishes.epochs} epochs'} see them: seed"
        f" {recipe.seed}, batches of {size} dealt by one process"
    )
    if cards < chosen:
        yield (
            f"{chosen - cards} more are left out: with them the page would be over"
            f" {wishes.most_bytes / 2**20:.0f} MiB; lower --side, --images or --epochs, or raise --most"
        )
