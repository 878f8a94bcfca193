"""What lies over what: defaults, bases, the file, ``--set``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from maskrcnn.config import load, loads
from maskrcnn.errors import ConfigError


def test_file_keys_merge_into_the_default_object_not_the_class_defaults(resolve):
    c = resolve("solver: {max_iter: 100}\nmodel: {backbone: {depth: 101}}")
    assert (c.solver.lr, c.solver.max_iter) == (0.01, 100)  # 0.01 is the field's default, 0.02 the class's
    assert (c.model.backbone.depth, c.model.backbone.norm) == (101, "gn")


def test_a_changed_type_starts_from_the_new_types_defaults(resolve):
    c = resolve("model:\n  backbone: {type: vgg}\n  roi_op: roi_pool")
    assert type(c.model.backbone).__name__ == "Vgg"
    assert c.model.backbone.width == 4096
    assert type(c.model.roi_op).__name__ == "RoIPool"


def test_options_do_not_leak_through_a_type_that_changes_and_changes_back(folder, schema):
    Path("a.yaml").write_text("images: x\nmodel: {roi_op: {sampling_ratio: 4}}")
    Path("b.yaml").write_text("base: a.yaml\nmodel: {roi_op: roi_pool}")
    Path("c.yaml").write_text("base: b.yaml\nmodel: {roi_op: roi_align}")
    assert load(schema, "b.yaml").model.roi_op == type(load(schema, "b.yaml").model.roi_op)()
    assert load(schema, "c.yaml").model.roi_op.sampling_ratio == -1


@pytest.mark.parametrize("again", ["roi_align", "{type: roi_align}", "{aligned: true}"])
def test_the_same_type_again_keeps_its_options(folder, schema, again):
    Path("a.yaml").write_text("images: x\nmodel: {roi_op: {type: roi_align, sampling_ratio: 4}}")
    Path("b.yaml").write_text(f"base: a.yaml\nmodel: {{roi_op: {again}}}")
    assert load(schema, "b.yaml").model.roi_op.sampling_ratio == 4


def test_bases_apply_in_order_and_are_relative_to_the_file_that_names_them(folder, schema):
    Path("sub").mkdir()
    Path("sub/a.yaml").write_text("images: x\nseed: 1\nname: a")
    Path("sub/b.yaml").write_text("base: a.yaml\nseed: 2")
    Path("d.yaml").write_text("name: d")
    Path("c.yaml").write_text("base: [sub/b.yaml, d.yaml]\nsolver: {lr: 3}")
    c = load(schema, "c.yaml")
    assert (c.seed, c.name, c.solver.lr) == (2, "d", 3.0)


def test_a_base_may_be_reached_twice(folder, schema):
    Path("a.yaml").write_text("images: x\nseed: 1")
    Path("b.yaml").write_text("base: a.yaml")
    Path("c.yaml").write_text("base: [a.yaml, b.yaml]")
    assert load(schema, "c.yaml").seed == 1


def test_lists_replace(resolve):
    c = resolve("transforms: [{type: hflip}]\nsolver: {steps: []}")
    assert [t.p for t in c.transforms] == [0.5]
    assert c.solver.steps == ()


def test_a_files_dict_replaces_the_default_and_adds_to_its_base(folder, schema):
    Path("a.yaml").write_text("images: x\nweights: {mask: 2}")
    Path("b.yaml").write_text("base: a.yaml\nweights: {rpn: 3}")
    assert load(schema, "a.yaml").weights == {"mask": 2.0}
    assert load(schema, "b.yaml").weights == {"mask": 2.0, "rpn": 3.0}
    assert load(schema, "b.yaml", ["weights.mask=5"]).weights == {"mask": 5.0, "rpn": 3.0}


def test_set_into_a_default_dict_adds(resolve):
    assert resolve("", "weights.mask=2").weights == {"box": 1.0, "mask": 2.0}


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("solver.lr=1e-4", "solver.lr", 1e-4),
        ("model.backbone.depth=50", "model.backbone.depth", 50),  # a slot that the file never names
        ("model.backbone=vgg", "model.backbone.width", 4096),
        ("model.neck=vgg", "model.neck.width", 4096),
        ("model.neck={type: vgg, width: 8}", "model.neck.width", 8),
        ("model.roi_op={sampling_ratio: 2}", "model.roi_op.sampling_ratio", 2),
        ("transforms.1.p=0.25", "transforms.1.p", 0.25),
        ("transforms.0.min_sizes.0=640", "transforms.0.min_sizes.0", 640),
        ("transforms.0=hflip", "transforms.0.p", 0.5),
        ("model.size.0=14", "model.size.0", 14),
        ("solver.steps=[1, 2]", "solver.steps.1", 2),
        ("solver.clip=null", "solver.clip", None),
        ("name=''", "name", ""),
        ("name=a=b", "name", "a=b"),
        ("model.ratio=3", "model.ratio", 3),
        ("expect.segm={ap: 37.2}", "expect.segm.ap", 37.2),
        (" seed =5", "seed", 5),
    ],
)
def test_set(resolve, override, path, value):
    found = resolve("solver: {clip: 3}", override)
    for part in path.split("."):
        if isinstance(found, tuple):
            found = found[int(part)]
        else:
            found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_later_sets_win_and_see_earlier_ones(resolve):
    c = resolve("", "model.backbone=vgg", "model.backbone.width=3", "seed=1", "seed=2")
    assert (c.model.backbone.width, c.seed) == (3, 2)


def test_set_keeps_the_other_options_of_a_list_item(resolve):
    c = resolve("transforms: [{type: resize, min_sizes: [1, 2]}, hflip]", "transforms.1.p=1")
    assert c.transforms[0].min_sizes == (1, 2)
    assert c.transforms[1].p == 1.0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", "--set seed: expected key=value"),
        ("=3", "expected key=value"),
        ("seed=", "no value after '='"),
        ("seed=#1", "'#' begins a comment"),
        ("a..b=1", "an empty part in the key 'a..b'"),
        ("base=x.yaml", "only a file can name its base"),
        ("solver.steps=[1", "--set solver.steps=[1: not valid YAML: the '[' that opens here is not closed"),
        ("solver.lr=fast", "--set solver.lr=fast: solver.lr: expected a number, got 'fast'"),
        ("solver.lr.x=1", "there is no 'x' inside"),
        ("solver.lrr=1", "solver.lrr: unknown key. Did you mean 'lr'?"),
        ("transforms.2.p=1", "transforms.2: no such list item; there are 0 to 1"),
        ("transforms.-1.p=1", "no such list item"),
        ("transforms.x=1", "no such list item"),
        ("transforms.0.p=1", "'p' is an option of hflip"),
        ("transforms=hflip", "expected a list, got 'hflip'; write [hflip]"),
        ("model.neck.depth=50", "nothing says which backbone this is; give a 'type'. Known: resnet, vgg"),
    ],
)
def test_set_faults(fault, override, words):
    assert words in fault("", override)


def test_an_index_into_a_list_that_is_not_there(folder, schema, fault):
    assert "there is no list yet, so no item '0'" in fault("transforms: 5", "transforms.0.p=1")
    assert "there are none, the list is empty" in fault("transforms: []", "transforms.0.p=1")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"c.yaml": "base: c.yaml"}, "c.yaml:1:7: base: the files include each other: c.yaml -> c.yaml"),
        (
            {"c.yaml": "base: d.yaml", "d.yaml": "\nbase: c.yaml"},
            "d.yaml:2:7: base: the files include each other: c.yaml -> d.yaml -> c.yaml",
        ),
        (
            {"c.yaml": "base: [d.yml]", "d.yaml": ""},
            "c.yaml:1:8: base: d.yml: no such file. Did you mean 'd.y",
        ),
        ({"c.yaml": "base: 5"}, "c.yaml:1:7: base: expected a file name or a list of them, got 5"),
        ({"c.yaml": "base: {a: b}"}, "got a mapping"),
        ({"c.yaml": "base: ."}, "is a folder"),
        ({"c.yaml": "base: no/x.yaml"}, "there is no folder no"),
        ({"c.yaml": "base: ${NOT_SET_ANYWHERE}/x.yaml"}, "'NOT_SET_ANYWHERE' is not set"),
    ],
)
def test_base_faults(folder, schema, files, words):
    for name, text in files.items():
        Path(name).write_text(text)
    with pytest.raises(ConfigError) as e:
        load(schema, "c.yaml")
    assert words in str(e.value)


def test_a_wrong_key_in_a_base_is_told_there(folder, schema):
    Path("a.yaml").write_text("images: x\nsolver:\n  lrr: 3\n")
    Path("c.yaml").write_text("base: a.yaml\nsede: 1")
    with pytest.raises(ConfigError) as e:
        load(schema, "c.yaml")
    assert "a.yaml:3:3: solver.lrr: unknown key. Did you mean 'lr'?" in str(e.value)
    assert "c.yaml:2:1: sede: unknown key. Did you mean 'seed'?" in str(e.value)


@dataclass(frozen=True, kw_only=True)
class Moved:
    RENAMED: ClassVar[dict[str, str]] = {"speed": "lr"}
    lr: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Root:
    solver: Moved = field(default_factory=Moved)


def test_an_old_name_of_a_key_is_taken_with_a_warning_that_tells_the_new_one(folder, caplog):
    Path("a.yaml").write_text("solver:\n  speed: 0.2")
    assert load(Root, "a.yaml").solver.lr == 0.2
    assert "a.yaml:2:3: solver.speed: this key is now called 'lr'" in caplog.text
    Path("b.yaml").write_text("base: a.yaml\nsolver: {lr: 0.3}")
    assert load(Root, "b.yaml").solver.lr == 0.3  # over a base's old name, too
    assert load(Root, "b.yaml", ["solver.speed=0.4"]).solver.lr == 0.4
    Path("c.yaml").write_text("solver: {lr: 0.3, speed: 0.4}")
    with pytest.raises(ConfigError, match=r"c.yaml:1:19: solver.speed: is the old name of 'lr'.*leave"):
        load(Root, "c.yaml")


def test_old_names_in_a_text_that_was_kept_are_nobodys_fault(caplog):
    assert loads(Root, "solver: {speed: 0.2}", "the config in x.pt").solver.lr == 0.2
    assert not caplog.text
    assert loads(Root, "solver: {speed: 0.2}", "x.pt", ["solver.speed=0.4"]).solver.lr == 0.4
    assert "--set solver.speed=0.4" in caplog.text
