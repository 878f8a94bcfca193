"""What the README and the docs show is run: commands, Python and YAML, on small data and small models.

What takes longer is looked at here as far as that goes without running it, and is run by
``tests/rules/test_long_blocks.py``; ``NOT_RUN`` says what is not, and why.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.cli import build_parser, main
from maskrcnn.config import load_traced
from maskrcnn.data import DATASETS
from maskrcnn.data.formats.exchange import IMPORTERS
from maskrcnn.layers import ROI_OPS
from maskrcnn.modeling.interfaces import BACKBONES, ROI_HEADS
from maskrcnn.recipe import Recipe, load_recipe
from maskrcnn.studies.ablation.suite import find_suite, load_suite, recipe_of
from tests.rules.pages import PAGES, ROOT, blocks, calls_us, commands, split_command
from tests.rules.reader import DEMO, OURS, SMALL, STANDS_FOR, TUTORIAL, sets

#: Beginnings of lines that tests/rules/test_long_blocks.py runs, marked slow, at a small size.
LONGER = (
    *("make ", "pip install", "maskrcnn ablate", "OMP_NUM_THREADS=1 maskrcnn ablate", "torchrun"),
    *("maskrcnn cross-validate", "maskrcnn export --", "python examples/onnx_predict.py", "maskrcnn zoo"),
    *("maskrcnn convert --to torchvision", "maskrcnn weights fetch", "maskrcnn train configs/coco"),
    *("COCO_ROOT=... python -m maskrcnn train", "NUCLEI_ROOT=... python tools/draw_fit.py"),
)
#: Beginnings of lines that are not run, and why.
NOT_RUN = {
    "python benchmarks": "measurements of minutes, on COCO and beside checkouts of other projects; their"
    " options are looked for here, and tests/test_benchmarks.py starts each",
    "OMP_NUM_THREADS=1 python benchmarks": "the same",
    "NUCLEI_ROOT=... python benchmarks": "the same",
    "COCO_ROOT=... python benchmarks": "the same",
    "export": "sets variables for the next line",
}


def is_run(line: str) -> bool:
    return not line.startswith((*NOT_RUN, *LONGER))


def of_tutorial(page: Path, line: str) -> bool:
    return page == TUTORIAL and ("shapes" in line or "pictures" in line)


LINES = [(page, line) for page in PAGES for line in commands(page) if not of_tutorial(page, line)]
OURS_RUN = list(dict.fromkeys(line for _, line in LINES if calls_us(line) and is_run(line)))


def runnable(line: str, number: int) -> list[str]:
    """The line's words with what it stands for, and small."""
    name, *words = split_command(line)
    words = [STANDS_FOR.get(word, word) for word in words]
    out = f"out/{number}"
    if name == "proposals":
        words[words.index("--output") + 1] = f"{out}.npz"
    if name in ("package", "strip"):
        words[words.index("--out" if name == "package" else "--output") + 1] = f"{out}.pt"
    if name == "predict":
        words += ["--out", out]
    if name in ("import", "new"):
        words[words.index("--out") + 1] = f"{out}.yaml" if name == "new" else out
    if name == "new":
        words += ["--no-measure", "--weights", "none"]
    if name == "explain-roi":
        words += ["--out", f"explain_{number}.png", "--dpi", "30"]
    if name == "benchmark":
        words += sets([*SMALL, *OURS, "solver.batch_size=1"])
    if name == "convert":
        words[-1] = f"converted_{number}{Path(words[-1]).suffix}"
    if name == "demo":
        words += [*sets([*SMALL, *DEMO, "solver.steps=1", "train.pictures=2"]), "--output", out]
    if name == "train" and "--resume" not in words:
        demo = DEMO if "demo" in words[0] else OURS
        last = sets(["solver.steps=1"]) + ([] if "--output" in words else ["--output", out])
        words = [words[0], *sets([*SMALL, *demo]), *words[1:], *last]
    elif name == "train" and words[0] != "--resume":  # in the folder of the run that is there
        words += sets([*SMALL, *OURS, "solver.steps=1"])
    return [name, *words]


@pytest.mark.parametrize("line", OURS_RUN)
def test_commands_run(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    differ = line.startswith("maskrcnn config diff") and not line.endswith("A")
    status = main(runnable(line, OURS_RUN.index(line)))
    told = capsys.readouterr()
    assert status == (1 if differ else 0), told.err
    assert told.out


@pytest.mark.parametrize(
    "line", sorted({line for _, line in LINES if calls_us(line) and not is_run(line)}), ids=lambda s: s
)
def test_keys_suites_and_labels_of_the_others_exist(line: str, folder: Path) -> None:
    """As far as that goes without running them."""
    name, *words = split_command(line)
    args = build_parser(name).parse_args(words)
    overrides = [o for o in getattr(args, "overrides", []) if o != "KEY=VALUE"]
    if name == "ablate":
        suite = load_suite(find_suite(args.suite))
        for variant in suite.chosen(full=args.full, only=args.only):
            recipe_of(suite, variant, 0, overrides)
    elif name == "train":
        load_recipe(STANDS_FOR.get(args.config, args.config), overrides)


def test_every_command_is_run_or_said_why_not() -> None:
    shown = [
        line
        for _, line in LINES
        if calls_us(line) or re.match(r"(make|pip|python|torchrun|[A-Z_]+=) ?", line)
    ]
    assert OURS_RUN and len(shown) > len(OURS_RUN)
    assert [line for line in shown if is_run(line) and line not in OURS_RUN] == []
    unused = [start for start in (*NOT_RUN, *LONGER) if not any(line.startswith(start) for _, line in LINES)]
    assert unused == [], "these are shown nowhere any more"


SCRIPT = re.compile(r"python ((?:benchmarks|tools|examples)/[\w/]+\.py)(.*)")


def script_lines() -> list[str]:
    """Of blocks and in the text: a script of ours with options."""
    shown = [line for _, line in LINES] + [
        word for page in PAGES for word in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    ]
    return sorted({f"{found[1]}{found[2]}" for line in shown if (found := SCRIPT.search(line))})


def test_options_of_scripts_exist() -> None:
    lines = script_lines()
    assert len(lines) > 20
    for line in lines:
        path, *words = shlex.split(line)
        read = ROOT / path
        texts = [read.read_text(encoding="utf-8")]
        names = re.findall(r"^from (?:benchmarks\.)?(\w+) import|^import (\w+)", texts[0], re.MULTILINE)
        near = [folder / f"{a or b}.py" for a, b in names for folder in (read.parent, ROOT / "benchmarks")]
        text = "\n".join([*texts, *(p.read_text(encoding="utf-8") for p in near if p.is_file())])
        unknown = [w for w in words if w.startswith("--") and f'"{w}"' not in text]
        assert unknown == [], line


def python_blocks() -> list[Any]:
    return [
        pytest.param(text, id=f"{page.name}-{i}")
        for page in PAGES
        for i, text in enumerate(blocks(page, "python"))
    ]


@pytest.fixture
def _registries() -> Iterator[None]:
    """What a block registers is forgotten, so that no other test meets it."""
    slots = (BACKBONES, ROI_OPS, ROI_HEADS, DATASETS, IMPORTERS)
    before: list[tuple[Any, dict[str, Any]]] = [(slot, dict(slot._entries)) for slot in slots]
    modules = set(sys.modules)
    yield
    for registry, entries in before:
        for name, part in list(registry._entries.items()):
            if name not in entries and not part.__module__.startswith("maskrcnn."):  # built in: for good
                del registry._entries[name]
    for name in set(sys.modules) - modules:  # a plugin that another test imports registers itself anew
        if name in ("my_backbone", "fill_head", "text_folder"):
            del sys.modules[name]


#: What stands before a block that is a fragment of a page.
BEFORE = {
    "@BACKBONES": "from dataclasses import dataclass\nfrom typing import Annotated\n"
    "from maskrcnn.config import Config, Range\nfrom maskrcnn.modeling.interfaces import BACKBONES\n"
    "class MyBackbone: ...\n",
    "from maskrcnn.viz.instances": "from maskrcnn.run import Predictor\n"
    "found = Predictor('runs/mine', score=0.0)('photo.jpg')\n"
    "import torch\nfrom types import SimpleNamespace\nfrom maskrcnn.data.images import read_image\n"
    "from maskrcnn.recipe import load_recipe\n"
    "sample = load_recipe('mine.yaml').data.train.build(True).load(1)\n"
    "image, targets, names = sample.image, sample.targets, ['box', 'disc']\ndetections = targets\n",
}
#: Files that a reader has, the sandbox under another name, and less to do.
FILES = {
    '"instances_val2017.json"': '"mine/val.json"',
    '"results.json"': '"runs/mine/results.json"',
    '"runs/demo"': '"runs/mine"',
    '"mine-1.0"': '"runs/mine"',
    '{"steps": 2000}': '{"steps": 1}',
}


@pytest.mark.usefixtures("_registries")
@pytest.mark.parametrize("text", python_blocks())
def test_python_blocks_run(text: str, folder: Path) -> None:
    before = next((b for start, b in BEFORE.items() if text.startswith(start)), "")
    for name, ours in FILES.items():
        text = text.replace(name, ours)
    # Its own namespace under a name of its own: dataclasses look their module up.
    namespace: dict[str, Any] = {"__name__": "builtins"}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(before + text, "block", "exec"), namespace)
    assert set(namespace) - {"__name__", "__builtins__"}


def yaml_blocks() -> list[Any]:
    return [
        pytest.param(page.name, text, id=f"{page.name}-{i}")
        for page in PAGES
        for i, text in enumerate(blocks(page, "yaml"))
    ]


@pytest.mark.usefixtures("_registries")
@pytest.mark.parametrize(("page", "text"), yaml_blocks())
def test_yaml_blocks_are_valid(page: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole file as it stands, a fragment over the example of docs/own_data.md, a suite as a suite."""
    path = folder / "sub" / "block.yaml"
    path.parent.mkdir(exist_ok=True)
    if "variants:" in text:
        (folder / "demo.yaml").write_text("base: configs/demo.yaml\n")
        path.write_text(text)
        suite = load_suite(path)
        assert [recipe_of(suite, v, 0).seed for v in suite.variants]
        return
    signs = {
        "my_backbone": "# my_backbone.py",
        "fill_head": "class FillHead(",
        "text_folder": "# text_folder.py",
    }
    for name, sign in signs.items():
        if f"plugins: [{name}]" in text:
            (module,) = [b for p in PAGES for b in blocks(p, "python") if sign in b]
            (path.parent / f"{name}.py").write_text(module)
    whole = text.startswith("# mine.yaml") or "base:" in text
    path.write_text(text if whole else f"base: ../mine.yaml\n{text}")
    loaded = load_traced(Recipe, path)
    keys = ("model", "data", "solver", "train")
    set_here = [key for key in keys if re.search(rf"^{key}:", text, re.MULTILINE)]
    assert set_here and loaded.value is not None, page
