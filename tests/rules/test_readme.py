"""What the README and the docs tell people to type exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from maskrcnn.cli import COMMANDS, build_parser
from tests.rules.pages import PAGES, ROOT, calls_us, commands, inline_commands, split_command

LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
ALL = [(page.name, line) for page in PAGES for line in commands(page)]


def test_readme_holds_the_two_commands() -> None:
    lines = commands(ROOT / "README.md")
    assert any(line.startswith("make demo") for line in lines)
    assert any(line.startswith("make test") for line in lines)


@pytest.mark.parametrize(
    "line", sorted({line for _, line in ALL if line.startswith("make ")}), ids=lambda s: s
)
def test_make_targets_exist(line: str) -> None:
    target = line.split()[1]
    assert re.search(
        rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    ), target


@pytest.mark.parametrize("line", sorted({line for _, line in ALL if calls_us(line)}), ids=lambda s: s)
def test_maskrcnn_commands_parse(line: str) -> None:
    name, *words = split_command(line)
    assert name in [command.name for command in COMMANDS], f"no command {name!r}"
    build_parser(name).parse_args(words)


@pytest.mark.parametrize(
    "line", sorted({line for page in PAGES for line in inline_commands(page)}), ids=lambda s: s
)
def test_commands_in_the_text_parse(line: str) -> None:
    name, *words = split_command(line)
    assert name in [command.name for command in COMMANDS], f"no command {name!r}"
    if any(word.startswith("-") or "." in word for word in words):  # else it names the command
        build_parser(name).parse_args(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [
        target
        for target in LINK.findall(text)
        if not target.startswith(("http://", "https://")) and not (page.parent / target).exists()
    ]
    missing += [
        word
        for line in commands(page)
        for word in shlex.split(line, comments=True)
        if re.match(r"^(configs|benchmarks|tools|tests)/[\w./-]+$", word) and not (ROOT / word).exists()
    ]
    assert not missing, f"{page.name} names {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_pages_name_no_machine(page: Path) -> None:
    assert not re.search(r"/(?:home|root|work|tmp)/\w", page.read_text(encoding="utf-8"))


#: A row of the README's table of figures, and what is measured or named in one.
ROW = re.compile(r"^\| (.+?) \| (.+?) \| (.*?)\| `(.+?)`, \[[\w.]+\]\((.+?)\) \|$", re.MULTILINE)
FIGURE = re.compile(r"\d+(?:\.\d+)?(?:e-\d+)?")


def test_figures_of_the_readme_stand_where_they_say() -> None:
    """With the command that made them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## What is better than elsewhere")[2]
    rows = ROW.findall(text.partition("\n## ")[0])
    assert len(rows) >= 9
    for what, here, elsewhere, command, page in rows:
        there = (ROOT / page).read_text(encoding="utf-8")
        missing = [
            figure for figure in FIGURE.findall(f"{here} {elsewhere}") if figure not in FIGURE.findall(there)
        ]
        assert missing == [], (what, missing)
        assert command in there, what
