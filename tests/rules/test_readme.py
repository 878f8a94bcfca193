"""What the README and the docs tell people to type exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from maskrcnn.cli import COMMANDS, build_parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """Lines of the untagged, sh, bash and console blocks; a console's output (no ``$``) left out."""
    found = []
    for tag, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if tag not in ("", "sh", "bash", "console"):
            continue
        lines = text.replace("\\\n", " ").splitlines()
        prompted = any(line.startswith("$ ") for line in lines)
        for line in lines:
            if prompted and not line.startswith("$ "):
                continue
            found.append(line.removeprefix("$ ").split(" #")[0].strip())
    return [line for line in found if line]


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


@pytest.mark.parametrize(
    "line",
    sorted({line for _, line in ALL if re.search(r"(^| )(-m )?maskrcnn [a-z]", line)}),
    ids=lambda s: s,
)
def test_maskrcnn_commands_parse(line: str) -> None:
    words = shlex.split(re.sub(r"\[[^]]*\]", "", line))  # a synopsis brackets what is optional
    start = words.index("maskrcnn") + 1
    stops = [i for i, word in enumerate(words) if i > start and word in ("|", "&&", ";", ">", "2>")]
    words = words[start : stops[0] if stops else None]
    name = words[0]
    assert name in [command.name for command in COMMANDS], f"no command {name!r}"
    parser = build_parser(name)
    parser.parse_args(words[1:])


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
