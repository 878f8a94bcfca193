"""What mkdocs is told beside mkdocs.yml: pages that are made as the site is built, and links out of docs/.

README.md is the first page; pages of the root, and files that pages point to, become part of the site; the
reference of keys, commands and Python is made from the package itself (docs/adr/site.md).
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the reference is of this checkout

from tools.site import commands, keys, python_api

ROOT = Path(__file__).resolve().parents[2]
#: Pages of the root, and where they are in the site.
OF_ROOT = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
#: Any link or picture of Markdown but those out of the site; an anchor may follow.
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)")
#: The way back of a page on GitHub; here stands the navigation.
BACK = re.compile(r"^\[all pages\]\([^)]*\)\n+", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made here, and the files of the project that pages point to."""
    made = {place: (ROOT / name).read_text(encoding="utf-8") for name, place in OF_ROOT.items()}
    made |= {f"reference/keys_{name}.md": text for name, text in keys.pages().items()}
    made |= {"reference/commands.md": commands.page(), "reference/python.md": python_api.page()}
    for file in [*files.documentation_pages()]:
        made |= pointed_to(f"docs/{file.src_uri}", file.content_string)
    for name in OF_ROOT:
        made |= pointed_to(name, (ROOT / name).read_text(encoding="utf-8"))
    for place, content in made.items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links by places in the project become links by places in the site."""
    uri = page.file.src_uri
    if uri.startswith("reference/"):
        return markdown
    name = next((name for name, place in OF_ROOT.items() if place == uri), f"docs/{uri}")
    at = posixpath.dirname(uri)
    return LINK.sub(
        lambda found: posixpath.relpath(place_of(target(name, found[1])), at), BACK.sub("", markdown)
    )


def on_page_content(html: str, **_: Any) -> str:
    """Roles of docstrings, :class:`X`, are X."""
    return re.sub(r":(?:class|func|meth|mod|data|attr|exc):(<code>)~?", r"\1", html)


def target(name: str, link: str) -> str:
    """The place in the project that a link of the page ``name`` means."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), link))


def place_of(name: str) -> str:
    """The place in the site of a file of the project."""
    if name in OF_ROOT:
        return OF_ROOT[name]
    return name.removeprefix("docs/") if name.startswith("docs/") else f"files/{name}.txt"


def pointed_to(name: str, text: str) -> dict[str, str]:
    """Files outside docs/ that a page points to, by their place in the site."""
    wanted = {target(name, link) for link in LINK.findall(text)} - OF_ROOT.keys()
    outside = [path for path in wanted if not path.startswith("docs/") and (ROOT / path).is_file()]
    return {place_of(path): (ROOT / path).read_text(encoding="utf-8") for path in outside}
