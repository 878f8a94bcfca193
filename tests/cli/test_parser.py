"""Wrong command lines end in one sentence each, which names what was probably meant."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskrcnn.cli import COMMANDS, build_parser, foreign, main
from maskrcnn.errors import UserError
from maskrcnn.recipe import load_recipe


@pytest.mark.parametrize(
    ("line", "dest"),
    [
        ("train c -- --out d", None),
        ("train c --out d", "output"),
        ("export --checkpoint c --to onnx --out=d", "output"),
        ("predict --checkpoint c a.jpg --output d", "out"),
        ("new data --output d", "out"),
        ("doctor data --output d", "out"),
    ],
)
def test_what_is_written_is_named_by_either_word(line: str, dest: str | None) -> None:
    name, *words = line.split()
    if dest is None:  # behind a -- there are no options
        with pytest.raises(UserError, match="argument too many"):
            build_parser(name).parse_args(words)
    else:
        assert getattr(build_parser(name).parse_args(words), dest) == Path("d")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train x.yaml --epochs 3", "train has no option --epochs; here it is --set solver.steps="),
        ("train x.yaml --max_iter=3", "--max_iter; here it is --set solver.steps="),
        ("train x.yaml --lr 0.1", "--lr; here it is --set solver.optimizer.lr="),
        ("train x.yaml --batch-size 4", "--batch-size; here it is --set solver.batch_size="),
        ("train x.yaml --bathc 4", "--bathc; here it is --set solver.batch_size="),
        ("train x.yaml --imgsz 640", "--imgsz; here it is --set data.train_transforms.0.min_sizes="),
        ("train x.yaml --weights f.pt", "--weights; here it is --set weights=FILE"),
        ("train x.yaml --num-gpus 8", "--num-gpus; here it is torchrun --nproc-per-node"),
        ("train x.yaml --output-dir d", "--output-dir; here it is --output DIR"),
        ("train x.yaml --outptu d", "--outptu; did you mean --output?"),
        ("train x.yaml -b 4", "has no option -b; here it is --set solver.batch_size="),
        ("train --solver.steps=4 x.yaml", "write --set solver.steps=4."),
        ("train --config-file x.yaml", "here it is the first argument, CONFIG"),
        ("predict --conf 0.3 a.jpg", "predict has no option --conf; here it is --score 0.5"),
        ("predict --weights w.pt a.jpg", "--weights; here it is --checkpoint C"),
        ("predict --source a.jpg --checkpoint c", "here it is an argument of its own, IMAGE"),
        ("predict --scroe 0.3 a.jpg", "--scroe; did you mean --score?"),
        ("eval --imgsz 640 --checkpoint c", "here it is --set data.eval_transforms.0.min_sizes="),
        ("eval --conf 0.1 --checkpoint c", "here it is --set model.roi.score_threshold="),
        ("explain-roi --epochs 3", "explain-roi has no option --epochs."),
        ("config check a.yaml --sett x=1", "config check has no option --sett; did you mean --set?"),
        ("predict a.jpg", "predict needs --checkpoint."),
        ("predict", "predict needs IMAGE, --checkpoint."),
        ("config", "config needs one of show, check, diff."),
        ("config chekc a.yaml", "config chekc: choose show, check, diff; did you mean check?"),
        ("predict a.jpg --checkpoint", "--checkpoint needs a value."),
        ("predict a.jpg --checkpoint c --score much", "--score much: it must be a number."),
        ("ablate s --seeds 0 one", "--seeds one: it must be a whole number."),
        (
            "predict a.jpg --checkpoint c --device cdua",
            "--device cdua: choose auto, cpu, cuda; did you mean cuda?",
        ),
        ("explain-roi --box 1 2", "--box needs 4 values."),
        ("zoo --json --markdown", "--markdown does not go with --json."),
        ("train x.yaml --drop-head=3", "--drop-head takes no value, got 3."),
        ("train a.yaml b.yaml", "'b.yaml' is an argument too many."),
        (
            "convert --config a.yaml --output b.yaml",
            "--output; OUT is an argument of its own: it stands behind IN.",
        ),
        ("train a.yaml --set seed=1 x.y=2", "too many; each KEY=VALUE needs a --set of its own."),
    ],
)
def test_a_wrong_line_is_a_sentence(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("maskrcnn: error: ") and told.err.count("\n") == 1, told.err
    assert words in told.err
    assert "--help' lists its arguments" in told.err and "usage:" not in told.err


def test_negative_numbers_and_what_follows_two_dashes_are_no_options() -> None:
    args = build_parser("explain-roi").parse_args(["--box", "-10", "-1.5", "30", "4e1"])
    assert args.box == [-10.0, -1.5, 30.0, 40.0]
    args = build_parser("predict").parse_args(["--checkpoint", "c", "--", "--odd.jpg"])
    assert args.images == ["--odd.jpg"]


#: A value for each key that a remark names.
SAMPLES = {
    "solver.reference_batch_size": "4",
    "solver.batch_size": "4",
    "model.backbone.weights": "x.pth",
    "model.backbone": "{type: vgg16}",
}


@pytest.mark.parametrize("keys", [foreign.KEYS, foreign.TRAINED_KEYS], ids=["train", "trained"])
def test_the_keys_that_are_named_exist(keys: dict[str, tuple[str, str]], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: configs/base/mask_rcnn_fpn.yaml\ndata:\n  train: {type: synthetic}\n")
    for setting, remark in keys.values():
        load_recipe(path, [setting])
        for key in re.findall(r"\b(?:solver|model)(?:\.\w+)+", remark):
            load_recipe(path, [f"{key}={SAMPLES[key]}"])


def parsers() -> Iterator[argparse.ArgumentParser]:
    """Those of all commands and sub-commands."""
    for command in COMMANDS:
        parser = build_parser(command.name)
        yield parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from action.choices.values()


def test_the_options_that_are_named_exist() -> None:
    for command, options in foreign.OPTIONS.items():
        known = {name for action in build_parser(command)._actions for name in action.option_strings}
        for text in options.values():
            if "torchrun" not in text and "the command" not in text:
                assert set(re.findall(r"--[\w-]+", text)) <= known, (command, text)


def test_every_spelling_has_one_meaning() -> None:
    spelt = {name for same, others in foreign._SAME.items() for name in (same, *others.split())}
    assert set(foreign._SAME) <= set(foreign.KEYS) | {n for o in foreign.OPTIONS.values() for n in o}
    assert len(spelt) == sum(1 + len(others.split()) for others in foreign._SAME.values()), "one meaning each"


EXAMPLE = re.compile(r"(?<![\w.])([a-z]\w*(?:\.\w+)+=[^\s,;]+)")


@pytest.mark.parametrize("parser", list(parsers()), ids=lambda p: p.prog)
def test_examples_of_keys_in_every_help_are_right(parser: argparse.ArgumentParser, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: configs/base/mask_rcnn_fpn.yaml\ndata:\n  train: {type: synthetic}\n")
    text = re.sub(r"\s+", " ", parser.format_help())
    found = EXAMPLE.findall(text)
    assert bool(found) == ("--set" in text)
    for setting in found:
        load_recipe(path, [setting])
