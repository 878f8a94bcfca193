"""The recipe's own checks; its language is tested in tests/config."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskrcnn.config import dump, fingerprint
from maskrcnn.errors import ConfigError
from maskrcnn.recipe import NEUTRAL_KEYS, load_recipe, parse_recipe
from maskrcnn.run.changes import changed_keys
from tests.engine.tiny import write_recipe


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"))


def test_a_recipe_survives_being_kept_as_text(path: Path) -> None:
    recipe = load_recipe(path, ["expect=[{metric: segm/AP, value: 0.3}]"])
    assert parse_recipe(dump(recipe), "kept") == recipe


def test_the_rate_is_scaled_by_the_batch_and_follows_the_schedule(path: Path) -> None:
    solver = load_recipe(path, ["solver.batch_size=4", "solver.reference_batch_size=16"]).solver
    assert solver.learning_rate == pytest.approx(0.01 * 4 / 16)
    assert [solver.rate_at(t) / solver.learning_rate for t in (1, 4, 5)] == pytest.approx([0.5005, 1.0, 0.1])
    assert load_recipe(path, ["solver.batch_size=4"]).solver.learning_rate == 0.01


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("solver.accumulate=3", "batch_size 2 cannot be cut into accumulate = 3"),
        ("solver.steps=0", "steps must be > 0"),
        ("solver.clip_grad_norm=-1.0", "clip_grad_norm must be > 0"),
        ("solver.precision=float8", "float8"),
        ("data.workers=-1", "workers must be >= 0"),
        ("train.keep=0", "keep must be > 0"),
        ("eval.iou_types=[]", "iou_types"),
        ("solver.schedule.gama=0.1", "Did you mean 'gamma'"),
    ],
)
def test_wrong_values_are_named(path: Path, setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_recipe(path, [setting])


def test_padded_sizes_are_multiples(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has \[100, 64\].*multiples of 32.*take \[128, 64\]"):
        load_recipe(path, ["data.pad_sizes=[[64, 64], [100, 64]]"])
    recipe = load_recipe(path, ["data.pad_sizes=[[64, 64], [128, 64]]"])
    assert recipe.data.pad_sizes == ((64, 64), (128, 64))
    load_recipe(path, ["data.pad_sizes=[[100, 64]]", "model.preprocess.size_divisor=4"])
    with pytest.raises(ConfigError, match="pad_sizes"):
        load_recipe(path, ["data.pad_sizes=[[0, 64]]"])


def test_neutral_keys_do_not_make_another_run(path: Path) -> None:
    def mark(*settings: str) -> str:
        return fingerprint(load_recipe(path, settings), NEUTRAL_KEYS)

    assert mark("output=elsewhere", "data.workers=3", "train.log_every=7", "train.pictures=9") == mark()
    for setting in ("seed=1", "solver.steps=7", "model.roi_op=roi_pool", "eval.batch_size=2"):
        assert mark(setting) != mark()


def test_a_run_begun_under_old_names_of_keys_resumes_as_the_same_run(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = load_recipe(path, ["data.train_transforms.0.resample=area"])
    kept = dump(recipe).replace("resample:", "interpolation:")
    assert kept.count("interpolation: area") == 1
    assert changed_keys(recipe, kept, "kept") == []
    assert len(changed_keys(load_recipe(path), kept, "kept")) == 1
    assert not caplog.text
    without = "\n".join(line for line in dump(recipe).splitlines() if "allow_outside" not in line)
    assert changed_keys(load_recipe(path, ["data.train_transforms.0.resample=area"]), without, "kept") == []
    # Which file a name stands for does not depend on it, so an old run may be given it.
    assert (
        changed_keys(load_recipe(path, ["data.val.allow_outside=true"]), dump(load_recipe(path)), "kept")
        == []
    )


def test_a_stride_without_effect_is_refused_but_not_in_what_was_written_before(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    backbone = "{type: resnet, depth: 18, width: 8, stride_in_1x1: true}"
    config.write_text(
        f"model: {{backbone: {backbone}}}\ndata: {{train: {{type: synthetic, root: {tmp_path}}}}}\n"
    )
    asked = load_recipe(config)
    with pytest.raises(ConfigError, match="leave it out, or set model.backbone.depth to 50"):
        asked.model.build(2)
    kept = parse_recipe(dump(asked), "kept")
    kept.model.build(2)
    # What the sentence advises works, and is the same run.
    followed = load_recipe(config, ["model.backbone.stride_in_1x1=false"])
    followed.model.build(2)
    assert kept == followed
    assert changed_keys(followed, dump(asked), "kept") == []
    load_recipe(config, ["model.backbone.depth=50"]).model.build(2)
    with pytest.raises(ConfigError, match="leave it out"):
        parse_recipe(dump(asked), "kept", ["model.backbone.stride_in_1x1=true"]).model.build(2)
