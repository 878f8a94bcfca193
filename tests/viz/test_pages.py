"""Pages hold what they are given, whatever it is called."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from jinja2 import UndefinedError

from maskrcnn.viz.charts import dot_chart, line_chart
from maskrcnn.viz.pages import TEMPLATES, data_uri, render
from maskrcnn.viz.tables import Table

NAMES = (
    "<script>alert(1)</script>",
    "\" onload='alert(2)' x=\"",
    "</title></style><img src=x>",
    "{{ 7 * 7 }}{% raw %}",
    "Ünï 漢字 \u202e",
    "x" * 300,
    "a & b &lt; c",
)


class Reader(HTMLParser):
    """The tags with their attributes, and the text of each kind of element."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_no_name_becomes_part_of_the_page(name: str) -> None:
    image = np.zeros((2, 3, 3), dtype=np.uint8)
    curve = [(1.0, 2.0), (2.0, 1.0)]

    def page(name: str) -> Reader:
        content = {
            "title": name,
            "tables": [Table((name, name), [(name, "1")], name, groups=[(name, 2)])],
            "notes": [name],
            "variants": [(name, "#000000")],
            "dots": [dot_chart(name, {name: ([0.1], 0.2)})],
            "curves": [line_chart(name, {name: [curve]})],
            "score": 0.5,
            "key": [(name, "rgb(1, 2, 3)")],
            "pictures": [(name, data_uri(image))],
            "config": name,
            "changed": [(name, name)],
            "runs": [(name, name)],
        }
        return read(render("ablation.html.j2", **content))

    found, harmless = page(name), page("name")
    assert [(tag, list(attributes)) for tag, attributes in found.tags] == [
        (tag, list(attributes)) for tag, attributes in harmless.tags
    ]
    for mine, plain in zip(found.tags, harmless.tags, strict=True):
        assert {k: v for k, v in mine[1].items() if v != name} == {
            k: v for k, v in plain[1].items() if v != "name"
        }
    assert sum(name in text for text in found.texts) == sum("name" in text for text in harmless.texts) > 15


def test_a_chart_is_drawn_as_it_says() -> None:
    chart = line_chart("loss", {"a": [[(1, 4.0), (2, 2.0)]]})
    content = dict.fromkeys(("title", "score", "config"), "") | dict.fromkeys(
        ("tables", "notes", "variants", "dots", "key", "pictures", "changed", "runs"), ()
    )
    tags = read(render("ablation.html.j2", curves=[chart], **content)).tags
    (line,) = (attributes for tag, attributes in tags if tag == "polyline")
    points = [tuple(map(float, p.split(","))) for p in str(line["points"]).split()]
    assert points == [(chart.across(x), chart.down(y)) for x, y in chart.lines[0].points]
    assert (line["stroke"], line["stroke-width"]) == (chart.lines[0].colour, "2.0")
    assert sum(tag == "line" for tag, _ in tags) == len(chart.y.ticks)


def test_a_name_that_is_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="title"):
        render("page.html.j2")


def test_a_picture_needs_no_file() -> None:
    image = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    kind, _, data = data_uri(image).partition(",")
    assert kind == "data:image/png;base64"
    back = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.array_equal(back, image)


def test_every_template_is_used_or_extended() -> None:
    package = Path(TEMPLATES).parents[1]
    text = "".join(p.read_text(encoding="utf-8") for p in (*package.rglob("*.py"), *TEMPLATES.iterdir()))
    assert all(f'"{p.name}"' in text for p in TEMPLATES.iterdir())
