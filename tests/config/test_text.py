"""YAML text: what values mean, and how broken text is told."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from maskrcnn.config import load, loads
from maskrcnn.config.nodes import Map, Problems, Scalar
from maskrcnn.config.text import format_plain, parse, parse_plain
from maskrcnn.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("2e+2", 200.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-3", -3),
        ("+3", 3),
        ("90_000", 90000),
        ("1_0.5", 10.5),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("0", 0),
        ("007", "007"),
        ("1__0", "1__0"),
        ("1e999", "1e999"),
        ("1" * 5000, "1" * 5000),
        ("0x10", "0x10"),
        ("1:30", "1:30"),
        ("e5", "e5"),
        (".", "."),
        ("yes", "yes"),
        ("No", "No"),
        ("on", "on"),
        ("off", "off"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_plain_values(text, value):
    assert parse_plain(text) == value
    assert type(parse_plain(text)) is type(value)


def test_quoted_values_are_strings():
    node = parse("a: '1'\nb: \"true\"\nc: |\n  1\n", "f", Problems())
    assert isinstance(node, Map)
    values = [entry.node.value for entry in node.entries.values() if isinstance(entry.node, Scalar)]
    assert values == ["1", "true", "1\n"]


@given(st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False)))
@example("-")
@example("- a")
@example("...")
@example("---")
@example("a: b")
@example("a #b")
@example("<<")
@example("=")
@example("1e-5")
@example("yes")
@example("\x85\u2028\ufeff\x7f\ud800😀")
@example("a,b]")
@example(1e-5)
@example(1e16)
def test_a_value_written_is_read_back_the_same(value):
    text = f"{format_plain(value)}: {format_plain(value)}\nlist: [{format_plain(value)}, 1]\n"
    if isinstance(value, str) and len(value) > 100:  # YAML limits the length of a key
        text = f"k: {format_plain(value)}\nlist: [{format_plain(value)}, 1]\n"
    problems = Problems()
    node = parse(text, "f", problems)
    problems.raise_if_any()
    assert isinstance(node, Map)
    key, entry = next(iter(node.entries.items()))
    if isinstance(value, str) and len(value) <= 100:
        assert key == value
    assert isinstance(entry.node, Scalar)
    assert entry.node.value == value
    assert type(entry.node.value) is type(value)
    assert node.entries["list"].node.items[0].value == value


@given(st.one_of(st.text(st.characters(blacklist_categories=["Cs"])), st.floats(allow_nan=False)))
@example("on")
@example("2024-01-01")
@example(1e-5)
@example(1e16)
def test_other_readers_of_yaml_understand_our_text(value):
    assert yaml.safe_load(f"k: {format_plain(value)}") == {"k": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n\tb: 2\n", "f:2:1: not valid YAML: a tab; YAML is indented with spaces"),
        ("a: [1,\nb: 2\n", "f:1:4: not valid YAML: the '[' that opens here is not closed"),
        ("a: {b: 1\n", "f:1:4: not valid YAML: the '{' that opens here is not closed"),
        ("a: b: c", "f:1:5: not valid YAML: a ':' that does not fit here"),
        ("a: 'b", "f:1:4: not valid YAML: the quote that opens here is never closed"),
        (
            "a: *b",
            "f:1:4: not valid YAML: found undefined alias 'b'; a text that begins with '*' must be in qu",
        ),
        ("a: @b", "f:1:4: not valid YAML: character '@' that cannot start a value; put it in quotes"),
        ("a: 1\n---\nb: 2", "f:2:1: not valid YAML: a second document starts here"),
        ("a: x\0y", "f:1:5: not valid YAML: character U+0000 is not allowed"),
        ("a: " + "[" * 3000 + "]" * 3000, "f: nested too deeply"),
        ("a: &a [*a]", "f:1:4: a.0: an alias (*name) refers to the value that contains it"),
    ],
)
def test_broken_text(text, message):
    with pytest.raises(ConfigError) as e:
        parse(text, "f", Problems())
    assert str(e.value).startswith(message)


def test_aliases_that_multiply_are_stopped():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="do aliases multiply"):
        parse("\n".join(lines), "f", Problems())


GOOD = """\
images: ${HOME}/x
model: &m
  backbone: {type: resnet, depth: 50}
  roi_op: roi_pool
solver: {lr: 1e-3, steps: [1, 2], max_iter: 10}
transforms:
  - {type: hflip, p: 0.5}
  - resize
expect: {segm: {ap: 37.0, source: "a: b"}}
"""


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, len(GOOD)),
    st.integers(0, 12),
    st.sampled_from([*"\t:-[]{}&*!|>'\"%@`,?#~ \n\0\x85", "<<: ", "null", "type", "*m", "1e", "- ", "é"]),
)
def test_a_config_with_a_piece_replaced_loads_or_is_told_why(schema, start, length, piece):
    text = GOOD[:start] + piece + GOOD[start + length :]
    try:
        told = "f:" if isinstance(loads(schema, text, "f"), schema) else "no recipe"
    except ConfigError as e:
        told = str(e)
    assert told.startswith(("f:", "2 problems", "3 problems", "4 problems"))


def test_tags_run_nothing(fault, folder):
    message = fault("name: !!python/object/apply:os.mkdir [hacked]\n")
    assert message == "c.yaml:1:7: name: tags are not supported here; remove '!!python/object/apply:os.mkdir'"
    assert not Path("hacked").exists()
    assert "remove '!!str'" in fault("name: !!str 5")
    assert "remove '!mine'" in fault("name: !mine 5")


def test_anchors_and_merge_keys(resolve):
    text = "model:\n  backbone: &b {type: resnet, depth: 101}\n  neck: {<<: *b, norm: gn, depth: 18}"
    c = resolve(text)
    assert (c.model.backbone.depth, c.model.neck.depth, c.model.neck.norm) == (101, 18, "gn")


def test_merge_key_of_a_list_takes_the_first(resolve):
    text = "model: {backbone: &a {depth: 101}, neck: {<<: [{type: resnet, depth: 50}, *a]}}"
    assert resolve(text).model.neck.depth == 50


def test_merge_key_of_no_mapping(fault):
    assert "c.yaml:1:14: solver.<<: expected a mapping" in fault("solver: {<<: 5}")


def test_duplicate_keys_anywhere(fault):
    message = fault("seed: 1\nsolver: {lr: 1, lr: 2}\nseed: 2\nexpect: {a: {ap: 1}, a: {ap: 2}}")
    assert "c.yaml:2:17: solver.lr: given twice (first at c.yaml:2:10)" in message
    assert "c.yaml:3:1: seed: given twice (first at c.yaml:1:1)" in message
    assert "c.yaml:4:22: expect.a: given twice (first at c.yaml:4:10)" in message


def test_keys_must_be_words(fault):
    assert "c.yaml:1:3: a key must be a single word" in fault("? [a]\n: 1")


@pytest.mark.parametrize("text", ["- a\n", "hello\n", "5\n"])
def test_a_file_must_be_a_mapping(schema, text):
    with pytest.raises(ConfigError, match="f:1:1: expected keys and values"):
        loads(schema, text, "f")


def test_files_that_cannot_be_read(schema, folder):
    Path("latin.yaml").write_bytes("images: x\nname: caf\xe9\n".encode("latin-1"))
    Path("sub").mkdir()
    for name, words in {
        "latin.yaml": "latin.yaml:2:10: not UTF-8 text (byte 0xe9)",
        "latn.yaml": "latn.yaml: no such file. Did you mean 'latin.yaml'?",
        "sub": "sub: is a folder",
        "latin.yaml/x": "no such file",
        "a\0b": "cannot be read",
    }.items():
        with pytest.raises(ConfigError) as e:
            load(schema, name)
        assert words in str(e.value)


def test_empty_and_byte_order_mark_and_dos_lines(schema, folder):
    Path("empty.yaml").write_text("# nothing\n")
    with pytest.raises(ConfigError, match=r"empty\.yaml:1:1: images: missing required key"):
        load(schema, "empty.yaml")
    Path("dos.yaml").write_bytes(b"\xef\xbb\xbfimages: x\r\nseed: 3\r\n")
    assert load(schema, "dos.yaml").seed == 3
