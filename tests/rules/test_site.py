"""The site, built as by `make docs`: no dead link, no orphan, nothing of other servers, a whole reference."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from maskrcnn.cli import COMMANDS
from maskrcnn.config.schema import fields_of
from maskrcnn.recipe import Recipe
from tests.rules.pages import PAGES, ROOT
from tests.rules.test_ranges import classes

ADR = sorted((ROOT / "docs" / "adr").glob("*.md"))
#: Attributes by which a page asks for something as it is shown; a link is followed by its reader alone.
ASKS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}


class Page(HTMLParser):
    """What a page links to, and what it asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.asked: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "a" and values.get("href"):
            self.links.append(str(values["href"]))
        if tag in ASKS and values.get(ASKS[tag]):
            self.asked.append(str(values[ASKS[tag]]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if any(
        importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings_handlers")
    ):
        pytest.skip(
            "mkdocs-material and mkdocstrings-python are not installed (they are in the extra 'docs')"
        )
    folder = tmp_path_factory.mktemp("site") / "site"
    # Whoever asks for an address fails, as on a machine without a network.
    block = "import socket, runpy, sys\ndef no(*_, **__): raise OSError('no network')\n"
    block += "socket.socket.connect = socket.getaddrinfo = no\nsys.argv[0] = 'mkdocs'\n"
    block += "runpy.run_module('mkdocs', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", block, "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    """By their place; that of an unknown address aside."""
    found = [path for path in site.rglob("*.html") if path.name != "404.html"]
    return {path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8")) for path in found}


def inside(page: str, link: str) -> str | None:
    """The page of the site that a link of ``page`` leads to, or None."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or not parts.path.endswith(".html"):
        return None
    return os.path.normpath(Path(page).parent / unquote(parts.path))


def test_every_page_of_the_project_is_in_it(pages: dict[str, Page]) -> None:
    names = {path.stem.lower() for path in [*PAGES, *ADR] if path.name != "README.md"}
    assert names <= {Path(page).stem.lower() for page in pages}
    assert {"index.html", "security.html", "changelog.html", "reference/commands.html"} <= pages.keys()


def test_every_page_is_reached_from_the_start_and_leads_back(pages: dict[str, Page]) -> None:
    reached, ahead = set[str](), ["index.html"]
    while ahead:
        page = ahead.pop()
        if page in pages and page not in reached:
            reached.add(page)
            ahead += filter(None, (inside(page, link) for link in pages[page].links))
    assert pages.keys() - reached == set()
    lost = [page for page, read in pages.items() if "index.html" not in {inside(page, x) for x in read.links}]
    assert lost == []


def test_pages_ask_nothing_of_a_network(site: Path, pages: dict[str, Page]) -> None:
    asked = {name for page in pages.values() for name in page.asked if urlsplit(name).netloc}
    assert asked == set()
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", styles) == []
    text = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.html"))
    assert "fonts.googleapis" not in text and 'class="mermaid"' not in text


def text_of(site: Path, name: str) -> str:
    return re.sub(r"<[^>]*>", "", (site / "reference" / f"{name}.html").read_text(encoding="utf-8"))


def test_every_key_is_in_it(site: Path) -> None:
    text = "\n".join(text_of(site, path.stem) for path in (site / "reference").glob("keys_*.html"))
    words = set(re.findall(r"[\w.]+", text))
    short = {word.rpartition(".")[2] for word in words}
    recipe = [cls for cls in classes() if ".studies." not in cls.__module__]
    assert len(recipe) > 40
    assert {name for cls in recipe for name in fields_of(cls)} - short == set()
    assert {"solver.ema.decay", "model.rpn.anchors.sizes", "data.train_transforms", "seed"} <= words


def test_every_command_and_public_name_is_in_it(site: Path) -> None:
    commands, python = text_of(site, "commands"), text_of(site, "python")
    assert [c.name for c in COMMANDS if f"usage: maskrcnn {c.name}" not in commands] == []
    for name in ("Predictor", "roi_align", "RoIPool", "predict_each"):
        assert name in python
    assert ":class:" not in python and ":func:" not in python


def test_the_page_on_github_names_what_is_public() -> None:
    from tools.site.python_api import PUBLIC, public

    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert [module for module in PUBLIC if f"`{module}`" not in text] == []
    assert all(public().values())


def test_every_key_has_its_comment() -> None:
    from tools.site.keys import comments

    bare = [f"{c.__name__}.{n}" for c in classes() for n in fields_of(c) if not comments(c).get(n)]
    assert bare == [] and len(fields_of(Recipe)) > 8


@pytest.mark.parametrize("page", [p for p in [*PAGES, *ADR] if p.parent != ROOT], ids=lambda p: p.name)
def test_pages_lead_back_on_github(page: Path) -> None:
    """No page without a way back: in its third line, to the list of all pages, which is there."""
    found = re.fullmatch(
        r"\[all pages\]\(([^)#]+)#([^)]+)\)", page.read_text(encoding="utf-8").splitlines()[2]
    )
    assert found and (page.parent / found[1]).resolve() == ROOT / "README.md"
    heads = re.findall(r"^#+ (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert found[2] in [head.lower().replace(" ", "-") for head in heads]
