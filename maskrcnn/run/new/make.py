"""A config made for a data set: facts read, choices made, a step measured, the file checked and written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from maskrcnn.config.encode import escape_path, flatten
from maskrcnn.data import CocoConfig
from maskrcnn.data.file_names import shown
from maskrcnn.data.formats.data_folder import DATA_FILE
from maskrcnn.data.interfaces import ContrastConfig
from maskrcnn.data.windows import count_windows
from maskrcnn.engine.distributed import connect
from maskrcnn.engine.events import format_seconds
from maskrcnn.errors import UserError, few, plural
from maskrcnn.files import write_text
from maskrcnn.recipe import DataConfig, load_traced_recipe
from maskrcnn.run.data_argument import read_data_argument
from maskrcnn.run.new import choices as choose
from maskrcnn.run.new.choice import KeyChoice, flow, written
from maskrcnn.run.new.facts import DataFacts, read_facts, with_readable_masks
from maskrcnn.run.new.measure import Measured, measure
from maskrcnn.run.new.start import Beginning, choose_start
from maskrcnn.run.recipe_checks import check_recipe
from maskrcnn.run.split import Divided, split_data
from maskrcnn.viz.tables import Table

#: Fewer images are not divided.
_LEAST_DIVIDED = 5
#: Classes that the head of the file names.
_NAMED = 20
#: A step's passes: forward, and backward for inputs and weights; an evaluation makes the first.
_PASSES = 3
#: Highest value of 16-bit files that leaves half of the range empty.
_HALF = 2**15


@dataclass(frozen=True)
class Asked:
    """What is asked of a config.

    weights: auto, none, a name or a file.  val: share of the images for validation where there is none.
    by, seed: of that division; see :func:`maskrcnn.run.split.split_data`.
    fit_memory: share of the free memory that a training may take; None: nothing is measured.
    settings: ``key=value``, in place of what would be chosen.
    """

    weights: str = "auto"
    val: float = 0.2
    by: str = "image"
    seed: int = 0
    fit_memory: float | None = 0.8
    overwrite: bool = False
    settings: Sequence[str] = ()


@dataclass(frozen=True)
class Made:
    """choices: as they stand in the file.  notes: what else is to be known.  divided: what was split off."""

    choices: tuple[KeyChoice, ...]
    notes: tuple[str, ...]
    divided: Divided | None = None

    def table(self) -> Table:
        """Key, value and the beginning of the reason."""
        rows = [[c.key, " ".join(c.value.split()), c.reason.split(". ")[0]] for c in self.choices]
        return Table(["key", "value", "reason"], rows, left=(0, 1, 2))


@dataclass
class _Parts:
    """What a file is made of, while it is found out."""

    data: DataConfig
    facts: DataFacts
    start: Beginning
    machine: choose.Machine
    data_base: str | None
    data_choices: list[KeyChoice]
    val_sizes: list[tuple[int, int]]
    asked: Mapping[str, str]
    measured: Measured | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def val_images(self) -> int:
        return len(self.val_sizes)


def make_config(
    data: Path,
    out: Path,
    wishes: Asked,
    images: Path | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> Made:
    """Write ``out``, and beside it a division of the data where these have no validation set.

    Args:
        data, images: see :func:`maskrcnn.run.data_argument.read_data_argument`.
        tell: called with what is being done.

    Raises:
        UserError: (and its kinds) the data cannot be read, the weights not be found, a key of the settings is
            wrong, a step cannot be made, or ``out`` is there; it is then as it was.
    """
    notes = _refuse_or_tell(out, wishes.overwrite)
    asked = _settings(wishes.settings)
    given = read_data_argument(data, images)
    config = with_readable_masks(given)
    boxes_alone = config is not given
    tell("reading the data")
    divided = None
    source = data / DATA_FILE if data.is_dir() else data if data.name == DATA_FILE else None
    if config.val is None and wishes.val:
        divided, folder = _divide(config, out, wishes)
        if divided is None:
            notes.append(
                f"no validation set: fewer than {_LEAST_DIVIDED} images, or none that can be divided"
            )
        else:
            notes += divided.notes
            source = folder / DATA_FILE
            config = replace(read_data_argument(source), **_reading(config))
    facts = read_facts(config)
    if 0 <= facts.highest < _HALF and config.contrast is None:
        config = replace(config, contrast=ContrastConfig())
        highest, facts = facts.highest, replace(read_facts(config), highest=facts.highest)
        notes.append(f"files of 16 bits hold values up to {highest}: contrast by percentiles (data.contrast)")
    device = connect(_device(asked)).device
    cuda = device.type == "cuda"
    parts = _Parts(
        data=config,
        facts=facts,
        start=choose_start(facts, wishes.weights, cuda=cuda),
        machine=choose.GPU if cuda else choose.CPU,
        data_base=None if source is None else _relative(source, out),
        data_choices=list(_data_choices(config, source is None, boxes_alone and source is not None)),
        val_sizes=_val_sizes(config),
        asked=asked,
        notes=notes,
    )
    notes.append(parts.start.told)
    draft = out.with_name(f".{out.stem}.draft.yaml")
    try:
        if wishes.fit_memory is not None:
            write_text(draft, _text(parts, data, out)[0])
            load_traced_recipe(draft)
            most = max(1, min(parts.machine.batch, facts.images // 2))
            parts.measured = measure(
                draft,
                (),
                most,
                wishes.fit_memory,
                batch=_number(asked, "solver.batch_size"),
                precision=asked.get("solver.precision"),
                tell=tell,
            )
        text, choices = _text(parts, data, out)
        write_text(draft, text)
        notes += check_recipe(load_traced_recipe(draft))
    except UserError as error:
        raise type(error)(str(error).replace(str(draft), str(out))) from None
    finally:
        draft.unlink(missing_ok=True)
    write_text(out, text)
    return Made(tuple(choices), tuple(notes), divided)


def _val_sizes(config: DataConfig) -> list[tuple[int, int]]:
    if config.val is None:
        return []
    return [(int(height), int(width)) for height, width in config.build(config.val, False).sizes]


def _refuse_or_tell(out: Path, overwrite: bool) -> list[str]:
    if not os.path.lexists(out):
        return []
    if out.is_dir() or not overwrite:
        advice = "name another file" if out.is_dir() else "name another, or write over it by --overwrite"
        raise UserError(f"{shown(out)}: is there already; {advice}")
    return [f"{shown(out)}: replaced"]


def _settings(settings: Sequence[str]) -> dict[str, str]:
    found = {}
    for item in settings:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UserError(f"--set {item}: write KEY=VALUE")
        found[key] = value
    return found


def _device(asked: Mapping[str, str]) -> Any:
    device = asked.get("device", "auto")
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--set device={device}: expected auto, cpu or cuda")
    return device


def _number(asked: Mapping[str, str], key: str) -> int | None:
    value = asked.get(key)
    return int(value) if value is not None and value.isdecimal() and int(value) else None


def _divide(config: DataConfig, out: Path, wishes: Asked) -> tuple[Divided | None, Path]:
    folder = out.with_name(f"{out.stem}_split")
    # Of other kinds of data a COCO json would not hold all that their reader knows.
    if not isinstance(config.train, CocoConfig) or len(config.build(config.train, False)) < _LEAST_DIVIDED:
        return None, folder
    options: dict[str, Any] = {"by": wishes.by, "seed": wishes.seed, "overwrite": wishes.overwrite}
    return split_data(config, folder, wishes.val, **options), folder


def _reading(config: DataConfig) -> dict[str, Any]:
    """How images are read, which a division does not take over."""
    return {key: getattr(config, key) for key in ("channels", "pages", "contrast", "on_error")}


def _relative(source: Path, out: Path) -> str:
    try:
        return escape_path(Path(os.path.relpath(source.absolute(), out.absolute().parent)).as_posix())
    except ValueError:  # another drive
        return escape_path(source.absolute().as_posix())


def _data_choices(config: DataConfig, inline: bool, boxes_alone: bool) -> Iterator[KeyChoice]:
    for key in ("train", "val"):
        part = getattr(config, key)
        if part is None:
            if key == "val":
                yield KeyChoice("data.val", "null", "There is none: give one for figures (maskrcnn split).")
        elif inline:
            usual = {f.name: f.default for f in fields(part)} if isinstance(part, CocoConfig) else {}
            prefix = f"{key}."
            for name, text in flatten(config).items():
                last = name.removeprefix(prefix)
                if not name.startswith(prefix) or (last in usual and getattr(part, last) == usual[last]):
                    continue
                value = getattr(part, last, None)
                if isinstance(value, Path):
                    text = flow(escape_path(str(value.absolute())))
                yield KeyChoice(f"data.{name}", text)
        elif boxes_alone:
            yield KeyChoice(f"data.{key}.masks", "false", "No object has a mask.")
    for name in ("channels", "pages"):
        if getattr(config, name) != getattr(DataConfig, name):
            yield KeyChoice(f"data.{name}", flow(getattr(config, name)))
    if config.contrast is not None:
        values = {f.name: getattr(config.contrast, f.name) for f in fields(config.contrast)}
        yield KeyChoice("data.contrast", flow(values), "Which values of the files are black and white.")


def _text(parts: _Parts, data: Path, out: Path) -> tuple[str, list[KeyChoice]]:
    choices = _with_settings(list(_choices(parts)), parts.asked)
    bases = [_base(parts.start.base, out), *([] if parts.data_base is None else [parts.data_base])]
    return written(_head(parts, data, choices), bases, choices), choices


def _base(base: str, out: Path) -> str:
    return base if base.startswith("zoo/") else _relative(Path(base), out)


def _choices(parts: _Parts) -> Iterator[KeyChoice]:
    facts, machine, start, measured = parts.facts, parts.machine, parts.start, parts.measured
    sizes = choose.choose_sizes(facts, machine)
    pixels = facts.channels != 3
    for choice in start.choices:
        if not (pixels and choice.key.startswith("model.preprocess.")):
            yield choice
    if pixels:
        why = f"Of {facts.pixels.images} of the images, which have {plural(facts.channels, 'channel')}."
        yield KeyChoice("model.preprocess.mean", flow(list(facts.pixels.mean)), why)
        yield KeyChoice("model.preprocess.std", flow(list(facts.pixels.std)))
    yield from choose.choose_anchors(facts, sizes.short, trained=start.anchored)
    yield from choose.choose_caps(facts, sizes, machine)
    yield from parts.data_choices
    yield from sizes.choices
    yield choose.choose_augment(facts)
    yield from filter(None, [choose.choose_rare(facts)])
    guess = max(1, min(4, machine.batch, facts.images // 2))
    batch = measured.batch if measured else _number(parts.asked, "solver.batch_size") or guess
    yield from choose.choose_steps(facts, batch, tuned=start.tuned)
    told = measured.told if measured else "Not measured (--no-measure)."
    yield KeyChoice("solver.batch_size", str(batch), told)
    rate, reference = start.rate
    kind = "the rate of fine-tuning" if start.tuned else "group norm from scratch bears four times the usual"
    yield KeyChoice("solver.optimizer.type", "sgd")
    yield KeyChoice(
        "solver.optimizer.lr",
        flow(rate),
        f"For {plural(reference, 'image')} a step ({kind}); scaled to {rate * batch / reference:.3g} for"
        f" {batch}.",
    )
    yield KeyChoice("solver.reference_batch_size", str(reference), "The images a step that lr is meant for.")
    yield KeyChoice("solver.clip_grad_norm", "10.0", "The first steps on new classes have large gradients.")
    precision = measured.precision if measured else "float32"
    why = f"Measured: {measured.compared}." if measured else "Not measured (--no-measure)."
    yield KeyChoice("solver.precision", precision, why)
    steps = _number(parts.asked, "solver.steps") or int(
        next(c.value for c in choose.choose_steps(facts, batch, tuned=start.tuned) if c.key == "solver.steps")
    )
    every = _every(parts, steps, batch)
    why = (
        f"{-(-steps // every)} times in all, on {plural(parts.val_images, 'image')}: about a tenth of"
        " the time."
    )
    yield KeyChoice("train.checkpoint_every", str(every), "At each evaluation." if parts.val_images else "")
    if parts.val_images:
        yield KeyChoice("train.eval_every", str(every), why)
    kept = _number(parts.asked, "model.roi.max_detections") or choose.most_detections(facts)
    if sizes.tile:
        kept *= max((count_windows(*s, sizes.tile, sizes.overlap) for s in parts.val_sizes), default=1)
    if kept > 100 and facts.joints == 0:
        metric = f"{'bbox' if facts.masks == 'none' else 'segm'}/AP@{kept}"
        why = (
            "COCO's own AP counts 100 detections an image, and there are up to"
            f" {plural(facts.most, 'object')}."
        )
        yield KeyChoice("eval.best_metric", metric, why)


def _areas(parts: _Parts) -> tuple[float, float]:
    """Pixels of an image in an evaluation, and in training."""
    sizes = choose.choose_sizes(parts.facts, parts.machine)
    whole = choose.median_area(parts.facts, sizes.short)
    return whole, whole if sizes.window is None else min(whole, sizes.window**2)


def _every(parts: _Parts, steps: int, batch: int) -> int:
    """Steps between evaluations, which take time too."""
    whole, seen = _areas(parts)
    return choose.eval_every(steps, parts.val_images * whole / (_PASSES * batch * seen))


def _with_settings(choices: list[KeyChoice], asked: Mapping[str, str]) -> list[KeyChoice]:
    """``choices`` with those that were asked for in place of theirs.

    Raises:
        UserError: a part is asked for of what stands in one line.
    """
    for key, text in asked.items():
        above = [c.key for c in choices if key.startswith(f"{c.key}.")]
        if above:
            raise UserError(
                f"--set {key}: {above[0]} is written in one line here; set it whole, or change the"
                " file afterwards"
            )
        was = " ".join(c.reason for c in choices if c.key == key and "easured" in c.reason)
        new = KeyChoice(key, text, f"As --set asks. {was}".rstrip())
        hit = [i for i, c in enumerate(choices) if c.key == key or c.key.startswith(f"{key}.")]
        choices = [c for i, c in enumerate(choices) if i not in hit]
        choices.insert(hit[0] if hit else len(choices), new)
    return choices


def _head(parts: _Parts, data: Path, choices: Sequence[KeyChoice]) -> str:
    facts, measured = parts.facts, parts.measured
    counted = zip(facts.class_objects.tolist(), facts.classes, strict=True)
    classes = few((f"{name} ({count})" for count, name in sorted(counted, key=lambda c: -c[0])), _NAMED)
    objects = int(facts.class_objects.sum())
    made = (
        f"Made by `maskrcnn new {shown(data)}` for {plural(facts.images, 'training image')} with"
        f" {plural(objects, 'object')}, and {parts.val_images} for validation."
    )
    lines = [
        made,
        f"Classes: {classes}.",
        f"Starts: {parts.start.told}",
    ]
    if measured:
        values = {c.key: c.value for c in choices}
        steps = int(values["solver.steps"]) if values["solver.steps"].isdecimal() else 0
        lines.append(_time(parts, steps, measured))
    return "\n".join(lines)


def _time(parts: _Parts, steps: int, measured: Measured) -> str:
    whole, seen = _areas(parts)
    an_image = measured.seconds / measured.batch / _PASSES * whole / seen
    every = _every(parts, steps, measured.batch)
    judged = -(-steps // every) * parts.val_images * an_image if steps else 0.0
    training = steps * measured.seconds
    return (
        f"Expected time on this {parts.machine.name}: {format_seconds(training + judged)}:"
        f" {plural(steps, 'step')} of {measured.seconds:.2f} s, and about {format_seconds(judged)} of"
        " evaluations."
    )
