"""The README's and the docs' blocks, read for tests."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(maskrcnn [a-z][^`\n]*)`")


def blocks(page: Path, tag: str) -> list[str]:
    """The texts of its blocks with that tag."""
    return [text for found, text in FENCE.findall(page.read_text(encoding="utf-8")) if found == tag]


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
            found.append(re.sub(r"\s+", " ", line.removeprefix("$ ").split(" #")[0]).strip())
    return [line for line in found if line]


def inline_commands(page: Path) -> list[str]:
    """``maskrcnn ...`` in the text."""
    return INLINE.findall(FENCE.sub("", page.read_text(encoding="utf-8")))


def calls_us(line: str) -> bool:
    """Whether a line of a block is a command of ours."""
    return bool(re.search(r"(^| )(-m )?maskrcnn [a-z]", line))


def split_command(line: str) -> list[str]:
    """A command of ours without what is before ``maskrcnn`` and after a pipe; optional parts are dropped."""
    import shlex

    words = shlex.split(re.sub(r"\[[^][]*( [^][]*)?\.{3}\]|\[(--|[A-Z])[^]]*\]", "", line))
    start = words.index("maskrcnn") + 1
    stops = [i for i, word in enumerate(words) if i > start and word in ("|", "&&", ";", ">", "2>")]
    return words[start : stops[0] if stops else None]
