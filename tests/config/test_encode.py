"""Objects back to text: round trips, fingerprints, and where each value was set."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import maskrcnn
from maskrcnn.config import Registry, dump, fingerprint, flatten, load, load_traced, loads

ITEMS: Registry[Any] = Registry("item")


@ITEMS.register("plain")
@dataclass(frozen=True, kw_only=True)
class PlainItem:
    pass


@ITEMS.register("rich")
@dataclass(frozen=True, kw_only=True)
class RichItem:
    text: str = "a"
    number: float | None = 1.0
    flags: tuple[bool, ...] = (True,)


@dataclass(frozen=True, kw_only=True)
class Inner:
    where: Path = Path("x")
    choice: Literal["on", "1", 1, True] = "on"
    pair: tuple[int, str] = (1, "b")
    grid: tuple[tuple[float, ...], ...] = ((1.0,),)


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=lambda: Inner(pair=(2, "c")))
    maybe: Inner | None = None
    slot: Annotated[Any, ITEMS] = field(default_factory=RichItem)
    maybe_slot: Annotated[Any, ITEMS] | None = field(default_factory=RichItem)
    slots: tuple[Annotated[Any, ITEMS], ...] = (RichItem(), PlainItem())
    table: dict[str, int] = field(default_factory=lambda: {"a": 1})
    parts: dict[str, Annotated[Any, ITEMS]] = field(default_factory=dict)
    size: Literal["auto"] | int | tuple[int, int] = "auto"


FLOATS = st.floats(allow_nan=False)
PATHS = st.text(st.characters(blacklist_characters="\0"), min_size=1).map(Path)
ITEM = st.one_of(
    st.just(PlainItem()),
    st.builds(RichItem, text=st.text(), number=st.none() | FLOATS, flags=st.lists(st.booleans()).map(tuple)),
)
INNER = st.builds(
    Inner,
    where=PATHS | st.sampled_from([Path("~/a"), Path("${HOME}"), Path("$${x"), Path("~")]),
    choice=st.sampled_from(["on", "1", 1, True]),
    pair=st.tuples(st.integers(), st.text()),
    grid=st.lists(st.lists(FLOATS, max_size=3).map(tuple), max_size=3).map(tuple),
)
OUTER = st.builds(
    Outer,
    inner=INNER,
    maybe=st.none() | INNER,
    slot=ITEM,
    maybe_slot=st.none() | ITEM,
    slots=st.lists(ITEM, max_size=3).map(tuple),
    table=st.dictionaries(st.text(max_size=20), st.integers(), max_size=3),
    parts=st.dictionaries(st.text(max_size=20), ITEM, max_size=2),
    size=st.sampled_from(["auto", 3, (4, 5)]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OUTER)
def test_what_is_dumped_loads_again_as_an_equal_object(obj):
    text = dump(obj)
    again = loads(Outer, text)
    assert again == obj
    assert dump(again) == text
    assert fingerprint(again) == fingerprint(obj)


def test_shown_with_origins_is_still_the_same_config(folder):
    Path("c.yaml").write_text("slots: [plain, {type: rich, flags: []}]\ntable: {b: 2}\nsize: [1, 2]")
    loaded = load_traced(Outer, "c.yaml", ["inner.where=a b", "parts.q=rich"])
    Path("shown.yaml").write_text(loaded.render())
    assert load(Outer, "shown.yaml") == loaded.value


def test_origins(folder, schema):
    Path("a.yaml").write_text(
        "images: x\nmodel:\n  roi_op: {type: roi_align, sampling_ratio: 4}\n  neck: vgg\n"
    )
    Path("c.yaml").write_text("base: a.yaml\nmodel:\n  roi_op:\n    aligned: false\ntransforms:\n- hflip\n")
    loaded = load_traced(schema, "c.yaml", ["solver.lr=3"])
    found = {
        key: str(loaded.origin(key))
        for key in (
            "images",
            "model.roi_op.type",
            "model.roi_op.sampling_ratio",
            "model.roi_op.aligned",
            "model.neck.type",
            "model.neck.width",
            "model.backbone.depth",
            "solver.lr",
            "transforms.0.type",
            "transforms.0.p",
            "no.such.key",
        )
    }
    assert found == {
        "images": "a.yaml:1:9",
        "model.roi_op.type": "a.yaml:3:18",
        "model.roi_op.sampling_ratio": "a.yaml:3:45",
        "model.roi_op.aligned": "c.yaml:4:14",
        "model.neck.type": "a.yaml:4:9",
        "model.neck.width": "default",
        "model.backbone.depth": "default",
        "solver.lr": "--set solver.lr=3",
        "transforms.0.type": "c.yaml:6:3",
        "transforms.0.p": "default",
        "no.such.key": "default",
    }
    lines = {line.split(":")[0].strip(): line for line in loaded.render().splitlines()}
    assert lines["aligned"].endswith("# c.yaml:4")
    assert lines["lr"].endswith("# --set solver.lr=3")
    assert lines["depth"].endswith("# default")
    assert [file.name for file in loaded.files] == ["a.yaml", "c.yaml"]


def test_the_text_is_pinned(resolve):
    text = dump(resolve("name: 'yes'\nsolver: {lr: 1e-5}\nexpect: {a: {ap: 1}}\nmodel: {roi_op: roi_pool}"))
    assert text == (
        "images: x\n"
        "model:\n"
        "  backbone:\n"
        "    type: resnet\n"
        "    depth: 18\n"
        "    norm: gn\n"
        "  roi_op:\n"
        "    type: roi_pool\n"
        "  neck: null\n"
        "  size: [7, 0.5]\n"
        "  ratio: auto\n"
        "solver:\n"
        "  lr: 1.0e-05\n"
        "  steps: [60, 80]\n"
        "  max_iter: 90\n"
        "  clip: null\n"
        "transforms:\n"
        "  - type: resize\n"
        "    min_sizes: [800]\n"
        "  - type: hflip\n"
        "    p: 0.5\n"
        "plugins: []\n"
        'name: "yes"\n'
        "seed: null\n"
        "deterministic: false\n"
        "expect:\n"
        "  a:\n"
        "    ap: 1.0\n"
        '    source: ""\n'
        "weights:\n"
        "  box: 1.0\n"
    )


def test_fingerprint_follows_the_values_alone(resolve):
    plain = fingerprint(resolve(""))
    assert plain == fingerprint(resolve("# a comment\nseed: null\nsolver: {max_iter: 90, lr: 1e-2}"))
    assert plain != fingerprint(resolve("seed: 0"))
    assert plain != fingerprint(resolve("model: {roi_op: roi_pool}"))
    a, b = resolve("weights: {a: 1, b: 2}"), resolve("weights: {b: 2, a: 1}")
    assert a == b
    assert fingerprint(a) == fingerprint(b)


def test_fingerprint_ignores_what_it_is_told_to(resolve):
    a, b = resolve("name: a\nsolver: {lr: 1}"), resolve("name: b\nsolver: {lr: 2}")
    assert fingerprint(a, ["name", "solver"]) == fingerprint(b, ["name", "solver"])
    assert fingerprint(a, ["name"]) != fingerprint(b, ["name"])
    assert fingerprint(a, ["nam", "solver"]) != fingerprint(b, ["nam", "solver"])


def test_fingerprint_is_the_same_in_another_process(resolve):
    code = (
        "from maskrcnn.config import fingerprint; from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass C:\n    a: int = 1\n    b: str = 'x'\n"
        "print(fingerprint(C()))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(maskrcnn.__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert run.stdout.strip() == "88540bacd3a8"


def test_an_integer_in_a_number_field_is_that_number(resolve):
    c = resolve("solver: {lr: 1}")
    assert fingerprint(replace(c, solver=replace(c.solver, lr=1))) == fingerprint(c)


def test_flatten_names_every_value(resolve):
    flat = flatten(resolve("model: {roi_op: roi_pool}\ntransforms: []"))
    assert flat["model.roi_op.type"] == "roi_pool"
    assert flat["transforms"] == "[]"
    assert flat["solver.steps"] == "[60, 80]"


def test_an_object_that_breaks_its_annotations_is_refused(resolve):
    c = resolve("")
    with pytest.raises(TypeError, match="seed: expected an integer, got 'x'"):
        dump(replace(c, seed="x"))
    with pytest.raises(TypeError, match=r"inner\.choice: expected one of on, 1, 1, True, got 1\.0"):
        dump(Outer(inner=Inner(choice=1.0)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"model\.roi_op: .* is not a registered RoI op"):
        dump(replace(c, model=replace(c.model, roi_op=c.solver)))
