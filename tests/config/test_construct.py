"""Values to typed objects: every fault by place, key path and what is allowed."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest

from maskrcnn.config import Registry, dump, load, loads
from maskrcnn.config.schema import fields_of, spec_of
from maskrcnn.errors import ConfigError


def test_values_get_their_declared_types(resolve):
    c = resolve("solver: {lr: 1, clip: 2}\nmodel: {size: [3, 4], ratio: 5}\nexpect: {segm: {ap: 37}}")
    assert (c.solver.lr, type(c.solver.lr), type(c.solver.clip)) == (1.0, float, float)
    assert c.model.size == (3, 4.0)
    assert type(c.model.size[1]) is float
    assert c.model.ratio == 5
    assert c.expect["segm"].ap == 37.0
    assert c.images == Path("x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1.5", "c.yaml:1:7: seed: expected an integer, got 1.5"),
        ("seed: 9e4", "c.yaml:1:7: seed: expected an integer, got 9e4; write 90000"),
        ("seed: true", "c.yaml:1:7: seed: expected an integer, got true"),
        ("seed: '5'", "c.yaml:1:7: seed: expected an integer, got '5'; write it without quotes"),
        ("solver:\n  lr: fast", "c.yaml:2:7: solver.lr: expected a number, got 'fast'"),
        ("solver: {lr: 1e999}", "c.yaml:1:14: solver.lr: expected a number, got '1e999'; it is too large"),
        ("solver: {lr: null}", "c.yaml:1:14: solver.lr: expected a number, got null"),
        ("solver: {lr: }", "solver.lr: expected a number, got nothing (null)"),
        ("solver: {lr: [1]}", "solver.lr: expected a number, got a list"),
        ("solver: {lr: {a: 1}}", "solver.lr: expected a number, got a mapping"),
        ("deterministic: yes", "deterministic: expected true or false, got 'yes'; write true"),
        ("deterministic: Off", "deterministic: expected true or false, got 'Off'; write false"),
        ("deterministic: 1", "deterministic: expected true or false, got 1"),
        ("name: 5", 'c.yaml:1:7: name: expected a string, got 5; write "5" in quotes'),
        ("name: null", "name: expected a string, got null"),
        ("images: 5", 'images: expected a path, got 5; write "5" in quotes'),
        ('images: "a\\0b"', "images: a path cannot hold a NUL character"),
        ("solver: {steps: 5}", "c.yaml:1:17: solver.steps: expected a list, got 5; write [5]"),
        ("solver: {steps: [1, x]}", "c.yaml:1:21: solver.steps.1: expected an integer, got 'x'"),
        ("model: {size: [1]}", "c.yaml:1:15: model.size: expected a list of 2 items, got 1"),
        (
            "model:\nseed: 1",
            "c.yaml:1:7: model: expected a mapping, got nothing (null); give its keys, or re",
        ),
        ("model: 5", "c.yaml:1:8: model: expected a mapping, got 5"),
        ("expect: [1]", "c.yaml:1:9: expect: expected a mapping, got a list"),
        ("expect: {a: {}}", "c.yaml:1:13: expect.a.ap: missing required key (a number)"),
        ("model: {ratio: always}", "model.ratio: expected one of auto, or an integer, got 'always'"),
        (
            "model: {backbone: {depth: 51}}",
            "c.yaml:1:27: model.backbone.depth: 51 is not a choice. Allowed: 18, 50, 101",
        ),
        (
            "model: {backbone: {depth: '50'}}",
            "model.backbone.depth: '50' is not a choice. Write it without quotes. Allowed: 18, 50, 101",
        ),
        (
            "model: {backbone: {norm: bnn}}",
            "model.backbone.norm: 'bnn' is not a choice. Did you mean 'bn'? Allowed: bn, gn",
        ),
        (
            "model:\n  backbone: {type: resnt}",
            "c.yaml:2:20: model.backbone: unknown backbone 'resnt'. Did you mean 'resnet'? Known: resnet, v",
        ),
        (
            "model: {backbone: [vgg]}",
            "model.backbone: a backbone is a name or a mapping with a 'type', got a li",
        ),
        (
            "model: {backbone: null}",
            "c.yaml:1:19: model.backbone: a backbone is a name or a mapping with a 't",
        ),
        ("model: {backbone: {type: }}", "model.backbone.type: expected the name of a backbone, got nothing"),
        (
            "model: {backbone: {type: [a]}}",
            "model.backbone.type: expected the name of a backbone, got a list",
        ),
        (
            "model: {neck: {depth: 50}}",
            "c.yaml:1:15: model.neck: nothing says which backbone this is; give a",
        ),
        (
            "sede: 1",
            "c.yaml:1:1: sede: unknown key. Did you mean 'seed'? Known: deterministic, expect, images,",
        ),
        ("roi_op: roi_pool", "c.yaml:1:1: roi_op: unknown key. Known:"),
        (
            "model: {roi_op: {type: roi_pool, sampling_ratio: 2}}",
            "c.yaml:1:34: model.roi_op.sampling_ratio: unknown key. Known: type. 'sampling_ratio' is an op",
        ),
        (
            "transforms: [hflip, {type: hflip, q: 1}]",
            "c.yaml:1:35: transforms.1.q: unknown key. Known: p, type",
        ),
    ],
)
def test_faults(fault, text, message):
    assert message in fault(text)


def test_a_misplaced_key_is_told_where_it_belongs(fault):
    assert fault("roi_op: roi_pool").endswith(". There is 'model.roi_op'")
    assert fault("model: {lr: 1}").endswith(". There is 'solver.lr'")


def test_a_missing_required_key(schema):
    with pytest.raises(ConfigError) as e:
        loads(schema, "seed: 1\n", "f")
    assert str(e.value) == "f:1:1: images: missing required key (a path)"


def test_a_set_into_a_mapping_does_not_move_it(fault):
    message = fault("expect:\n  a: {source: x}\n", "expect.a.source=y")
    assert message == "c.yaml:2:6: expect.a.ap: missing required key (a number)"


def test_all_faults_are_told_together_in_file_order(fault):
    message = fault(
        "sede: 1\nsolver:\n  lr: fast\n  max_iter: 9e4\nmodel: {backbone: resnt}\ndeterministic: on\n"
    )
    lines = message.splitlines()
    assert lines[0] == "5 problems in the configuration"
    assert [line.split(":")[1] for line in lines[1:]] == ["1", "3", "4", "5", "6"]


def test_a_failed_check_points_at_a_key_that_someone_set(fault):
    text = "solver:\n  lr: 1\n  max_iter: 70"
    message = "solver.max_iter: steps (60, 80) must all be below max_iter 70"
    assert fault(text) == "c.yaml:3:13: " + message
    assert fault("", "solver.max_iter=70") == "--set solver.max_iter=70: " + message
    assert fault("solver:\n  steps: [100]").startswith("c.yaml:2:10: solver.steps: steps (100,)")


def test_environment_variables_in_paths(resolve, fault, monkeypatch):
    monkeypatch.setenv("ROOT", "/r")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.setenv("EMPTY", "")
    for text, path in {
        "${ROOT}/a": "/r/a",
        "${ROOT}${ROOT}": "/r/r",
        "${NOT_SET:-q}/a": "q/a",
        "${NOT_SET:-}a": "a",
        "~/a": "/home/me/a",
        "a/~": "a/~",
        "$${ROOT}": "${ROOT}",
        "$ROOT": "$ROOT",
    }.items():
        assert resolve(f"images: '{text}'").images == Path(path), text
    message = "c.yaml:1:9: images: environment variable 'NOT_SET' is not set or empty"
    assert fault("images: ${NOT_SET}/a") == message + "; export it, or write ${NOT_SET:-fallback}"
    assert "'EMPTY' is not set or empty" in fault("images: ${EMPTY}/a")
    assert "'${a b}' is not of the form ${NAME}" in fault("images: ${a b}")
    assert "'${ROOT' is not of the form ${NAME}" in fault("images: ${ROOT")
    assert "there is no such home folder" in fault("images: ~nobody-of-this-name/a")
    assert resolve("name: ${NOT_SET}").name == "${NOT_SET}"  # a string is no path


def test_here_is_the_folder_of_the_file_that_says_so(folder, schema, monkeypatch):
    monkeypatch.setenv("HERE", "/elsewhere")
    (folder / "mine").mkdir()
    (folder / "mine" / "data.yaml").write_text("images: '${HERE}/images'\nname: '${HERE}'")
    (folder / "c.yaml").write_text("base: '${HERE}/mine/data.yaml'")
    (folder / "link").symlink_to("mine")
    want = (folder / "mine" / "images").resolve()
    for path in ("c.yaml", "mine/data.yaml", "link/data.yaml", folder / "mine" / ".." / "c.yaml"):
        assert load(schema, path).images == want
        monkeypatch.chdir(folder / "mine" if path == "c.yaml" else folder)
        assert load(schema, folder / path).images == want
        monkeypatch.chdir(folder)
    config = load(schema, "c.yaml")
    assert config.name == "${HERE}"  # a string is no path
    assert loads(schema, dump(config)) == config  # kept in a checkpoint, it means the same from anywhere
    assert load(schema, "c.yaml", ["images=${HERE:-x}"]).images == Path("x")


def test_here_where_no_file_is(folder, schema, fault):
    said = "${HERE} is the folder of a config file, and this is in none; write the folder"
    assert fault("seed: 1", "images=${HERE}/a") == f"--set images=${{HERE}}/a: images: {said}"
    with pytest.raises(ConfigError, match=r"<config>:1:9: images: \$\{HERE\} is the folder"):
        loads(schema, "images: ${HERE}/a")


@dataclass(frozen=True, kw_only=True)
class Listed:
    items: list[int]


@dataclass(frozen=True, kw_only=True)
class Derived:
    given: int = 1
    derived: list[int] = field(init=False, default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Unresolvable:
    item: Nowhere  # type: ignore[name-defined]  # noqa: F821


PARTS: Registry[Any] = Registry("part")


@PARTS.register("typed")
@dataclass(frozen=True, kw_only=True)
class Typed:
    type: int = 0


@PARTS.register("function")
class NoDataclass:
    pass


@dataclass(frozen=True, kw_only=True)
class Holder:
    part: Annotated[Any, PARTS]


@pytest.mark.parametrize(
    ("cls", "text", "words"),
    [
        (
            Listed,
            "items: [1]",
            "Listed: field 'items': type list[int] cannot be read from YAML; allowed: int, fl",
        ),
        (Unresolvable, "item: 1", "Unresolvable: annotations cannot be read: name 'Nowhere' is not defined"),
        (Holder, "part: typed", "f:1:7: part: Typed has a field 'type', which chooses between parts; rename"),
        (Holder, "part: function", "NoDataclass: is not a dataclass"),
    ],
)
def test_a_schema_that_cannot_work_says_so(cls, text, words):
    with pytest.raises(ConfigError) as e:
        loads(cls, text, "f")
    assert words in str(e.value)


def test_unions_of_mappings_are_refused():
    with pytest.raises(TypeError, match="use a slot"):
        spec_of(Holder | int)


def test_fields_without_init_are_no_keys():
    assert list(fields_of(Derived)) == ["given"]


def test_registry_lists_what_it_knows_and_refuses_a_second_owner():
    assert PARTS.names() == ["function", "typed"]
    assert PARTS.name_of(Typed) == "typed"
    with pytest.raises(KeyError, match="not a registered part"):
        PARTS.name_of(Listed)
    with pytest.raises(ValueError, match=r"part 'typed' is already .*Typed"):
        PARTS.register("typed")(Listed)


PLUGIN = """
from __future__ import annotations
from dataclasses import dataclass
import sys
BACKBONES = sys.modules[{module!r}].BACKBONES

@BACKBONES.register({name!r})
@dataclass(frozen=True, kw_only=True)
class Tiny:
    width: int = 4
"""


def test_plugins_are_imported_from_beside_the_file_and_add_up(folder, schema, monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))
    backbones = sys.modules[schema.__module__].BACKBONES
    monkeypatch.setattr(backbones, "_entries", dict(backbones._entries))
    Path("sub").mkdir()
    Path("sub/plugin_one_of_test.py").write_text(PLUGIN.format(module=schema.__module__, name="tiny1"))
    Path("plugin_two_of_test.py").write_text(PLUGIN.format(module=schema.__module__, name="tiny2"))
    Path("sub/a.yaml").write_text("images: x\nplugins: [plugin_one_of_test]\nmodel: {backbone: tiny1}")
    Path("c.yaml").write_text(
        "base: sub/a.yaml\nplugins: [plugin_two_of_test, plugin_one_of_test]\nmodel: {neck: {type: tiny2}}"
    )
    c = load(schema, "c.yaml", ["model.neck.width=9"])
    assert (c.model.backbone.width, c.model.neck.width) == (4, 9)
    assert c.plugins == ("plugin_one_of_test", "plugin_two_of_test")


def test_text_out_of_a_checkpoint_imports_nothing_unasked(folder, schema, monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))
    Path("plugin_four_of_test.py").write_text("raise SystemExit('it ran')")
    text = "images: x\nplugins: [plugin_four_of_test]"
    with pytest.raises(ConfigError, match=r"'plugin_four_of_test', which would run code; .*--set plugins="):
        loads(schema, text, "f")
    with pytest.raises(ConfigError, match="it ran"):
        loads(schema, text, "f", ["plugins=[plugin_four_of_test]"])
    Path("plugin_four_of_test.py").write_text("")
    assert loads(schema, text, "f", ["plugins=[plugin_four_of_test]"]).plugins == ("plugin_four_of_test",)
    assert loads(schema, text, "f").plugins == ("plugin_four_of_test",)  # imported already


def test_plugins_are_imported_from_the_working_folder(folder, schema, monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))
    Path("sub").mkdir()
    Path("plugin_three_of_test.py").write_text("")
    Path("sub/c.yaml").write_text("images: x\nplugins: [plugin_three_of_test]")
    assert load(schema, "sub/c.yaml").plugins == ("plugin_three_of_test",)


@pytest.mark.parametrize(
    ("text", "plugin", "words"),
    [
        (
            "[no_such_module.x]",
            "",
            "c.yaml:1:11: plugins: no module named 'no_such_module'; looked in the wor",
        ),
        (
            "[{}]",
            "import no_such_library",
            "cannot import '{}': ModuleNotFoundError: No module named 'no_such_lib",
        ),
        ("[{}]", "\nx = = 1", "cannot import '{}': SyntaxError: invalid syntax (at {}.py:2)"),
        ("[{}]", "def f():\n  raise ValueError('boom')\nf()", "'{}': ValueError: boom (at {}.py:2)"),
        ("[{}]", "raise SystemExit(3)", "cannot import '{}': SystemExit: 3 (at {}.py:1)"),
        ("[.a]", "", "'.a' is not a module name"),
        ("one", "", "plugins: expected a list of module names, got 'one'; write [one]"),
        ("[5]", "", "plugins: expected a module name, got 5"),
        ("", "", "plugins: expected a list of module names, got nothing"),
    ],
)
def test_plugin_faults(fault, folder, monkeypatch, request, text, plugin, words):
    monkeypatch.setattr("sys.path", list(sys.path))
    name = f"broken_plugin_{abs(hash(request.node.name))}"
    Path(f"{name}.py").write_text(plugin)
    assert words.replace("{}", name) in fault(f"plugins: {text.replace('{}', name)}")
