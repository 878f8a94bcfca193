"""The page of a report, in a real browser where there is one: figures, tables that sort, filters, zoom."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.recipe import load_recipe
from maskrcnn.viz.gallery import Shot
from maskrcnn.viz.pages import TEMPLATES
from maskrcnn.viz.report_errors import ERRORS, about_part, error_parts, what_costs_most
from maskrcnn.viz.report_figures import figure_parts, leads
from maskrcnn.viz.report_page import Gallery, report_page
from tests.browser import Browser, chromium
from tests.engine.tiny import write_recipe
from tests.viz.reports import fake_figures, fake_shots
from tests.viz.test_pages import NAMES, read

FILES = {7: "seven.png"}


def page_of(found: dict[str, Any], shots: list[Shot], title: str = "a report") -> str:
    classes = [entry["name"] for entry in found["classes"]]
    gallery = Gallery(shots, "some images", ["worst", "best"], classes)
    return report_page(
        title,
        [*figure_parts(found), *error_parts(found, FILES), about_part(found)],
        leads=leads(found),
        advice=what_costs_most(found),
        gallery=gallery if shots else None,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "page.html").write_text(page_of(fake_figures(), fake_shots(30, objects=3)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Browser]:
    with chromium(folder) as browser:
        yield browser


@pytest.fixture
def browser(running: Browser, folder: Path) -> Browser:
    """At the page, opened anew."""
    running.open(folder / "page.html")
    return running


def every(selector: str, then: str) -> str:
    """JavaScript for a list of something of each element ``e``."""
    return f"[...document.querySelectorAll({json.dumps(selector)})].map(e => {then})"


def shown(browser: Browser) -> list[int]:
    """Places of the cards that are shown, in their order."""
    return [int(p) for p in browser.do(every(".card:not([hidden])", "e.dataset.place"))]


@pytest.mark.parametrize("width", [1280, 400])
def test_it_opens_without_a_complaint_and_fits_the_window(browser: Browser, folder: Path, width: int) -> None:
    browser.open(folder / "page.html", width, 800)
    assert browser.complaints() == []
    assert browser.do("document.documentElement.scrollWidth") == width
    anchors = browser.do("[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))")
    assert len(anchors) == 17
    assert browser.do(f"{json.dumps(anchors)}.every(a => document.querySelector(a).getClientRects().length)")


def test_the_browser_s_complaints_are_seen(browser: Browser, folder: Path) -> None:
    page = "<script>console.error('oh'); nothing.at.all</script><img src='https://example.org/x.png'>"
    (folder / "faulty.html").write_text(page)
    browser.open(folder / "faulty.html")
    said = " ".join(browser.complaints())
    assert '"oh"' in said and "nothing is not defined" in said and "asked for https://example.org" in said


def test_tables_sort_by_numbers_and_what_is_not_defined_comes_last(browser: Browser) -> None:
    column = "[...document.querySelector('#classes table').tBodies[0].rows].map(r => r.cells[{}].textContent)"
    names = browser.do(every("#classes thead th", "e.textContent"))
    place = names.index("AP50")
    found = []
    for _ in range(2):
        browser.click("#classes thead tr:last-child th button", place)
        found.append(browser.do(column.format(place)))
    assert found == [["0.900", "0.450", "n/a"], ["0.450", "0.900", "n/a"]]
    browser.click("#classes thead tr:last-child th button", 1)
    assert browser.do(column.format(1)) == ["1,200", "600", "0"]
    browser.click("#classes thead tr:last-child th button", 0)
    assert browser.do(column.format(0)) == ["ring", "disc", "box"]
    heads = browser.do("[...document.querySelectorAll('#classes th')].map(h => h.getAttribute('aria-sort'))")
    assert heads.count("descending") == 1 and heads[0] == "descending"


def test_filters_show_the_images_that_have_such_an_object(browser: Browser) -> None:
    """Of fake_shots: image i has class i % 2; every third has missed objects, the others duplicates."""
    browser.choose("#size", "96")
    assert shown(browser) == list(range(30))
    browser.choose("#class", "1")
    assert shown(browser) == list(range(1, 30, 2))
    browser.choose("#error", "missed")
    assert shown(browser) == list(range(3, 30, 6))
    browser.choose("#area", "m")
    assert shown(browser) == list(range(3, 30, 6))
    dim = (
        "[...document.querySelectorAll('.card:not([hidden])')].map(c => c.querySelectorAll('.aside').length)"
    )
    assert browser.do(dim) == [5] * 5  # of 6 outlines one is of that class, size and outcome
    assert browser.do("document.querySelector('#told').value") == "5 of 30 images, page 1 of 1"
    browser.press("Escape")
    assert len(shown(browser)) == 24
    browser.click("#after")
    assert shown(browser) == list(range(24, 30))
    assert browser.complaints() == []


def test_a_ranking_has_its_own_order(browser: Browser) -> None:
    browser.choose("#size", "96")
    browser.choose("#group", "0")
    assert shown(browser) == list(range(29, 0, -2))
    browser.choose("#group", "1")
    assert shown(browser) == list(range(0, 30, 2))


def test_truth_predictions_and_what_is_right_are_switched(browser: Browser) -> None:
    def drawn(layer: str) -> int:
        return int(sum(browser.do(every(f".card:not([hidden]) {layer}", "e.checkVisibility()"))))

    browser.do("document.querySelectorAll('.card').forEach(c => c.style.contentVisibility = 'visible')")
    whole = drawn(".truth"), drawn(".found"), drawn(".right")
    assert whole == (72, 72, 24)
    browser.click("#show-truth")
    assert (drawn(".truth"), drawn(".found")) == (0, 72)
    browser.click("#show-right")
    assert (drawn(".right"), drawn(".found")) == (0, 48)
    browser.click("#show-found")
    assert drawn(".shot path") == 0
    for layer in ("truth", "right", "found"):
        browser.click(f"#show-{layer}")
    assert (drawn(".truth"), drawn(".found"), drawn(".right")) == whole


def test_a_picture_is_enlarged_moved_and_left(browser: Browser) -> None:
    style = "document.querySelector('#stage .shot').getBoundingClientRect().width"
    browser.click(".card:not([hidden]) .shot", 2)
    assert browser.do("document.querySelector('#zoom').open")
    assert browser.do("document.querySelector('#named').value") == "image 2: 3 objects"
    before = browser.do(style)
    assert before > 500
    browser.click("#nearer")
    assert browser.do(style) == pytest.approx(1.5 * before)
    browser.click("#next")
    assert browser.do("document.querySelector('#named').value").startswith("image 3:")
    assert browser.do(style) == pytest.approx(before)
    browser.call("Input.dispatchMouseEvent", type="mouseWheel", x=640, y=450, deltaX=0, deltaY=-400)
    assert browser.do(f"new Promise(r => setTimeout(() => r({style}), 100))") > 2 * before
    browser.press("Escape")
    assert not browser.do("document.querySelector('#zoom').open")
    assert len(shown(browser)) == 24 and browser.complaints() == []


def test_an_outline_says_what_it_is_under_the_pointer(browser: Browser) -> None:
    browser.do("document.querySelector('.card:not([hidden])').scrollIntoView()")
    box = browser.do(every(".card:not([hidden]) path", "e.getBoundingClientRect().toJSON()"))[0]
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    titles = browser.do(every(".card path title", "e.textContent"))
    assert titles and all(re.fullmatch(r"(truth|found) \d.*", title) for title in titles)


def test_it_is_read_without_scripts(running: Browser, folder: Path) -> None:
    running.open(folder / "page.html", scripts=False)
    found = read((folder / "page.html").read_text(encoding="utf-8"))
    text = running.call("DOM.getOuterHTML", nodeId=running.call("DOM.getDocument", depth=0)["root"]["nodeId"])
    assert text["outerHTML"].count("<tr>") > 60 and '<button type="button" aria' not in text["outerHTML"]
    cards = [attributes for tag, attributes in found.tags if tag == "article"]
    assert len(cards) == 30 and not any("hidden" in card for card in cards)
    assert all(str(a["src"]).startswith("data:") for tag, a in found.tags if tag == "img")


def test_every_figure_is_drawn() -> None:
    """Another number in any field of the json makes another page."""
    plain = page_of(fake_figures(), [])
    found = fake_figures()
    drawn_elsewhere = {
        "version": "of the json",
        "iou": "always 0.5",
        "images_ranked": "gallery",
        "confident_errors": "gallery",
        "thresholds": "the same numbers stand in f1",
    }
    for name in found.keys() - drawn_elsewhere.keys():
        if name != "kind":
            assert page_of({**found, name: other(found[name])}, []) != plain, name
    assert page_of({**found, "kind": "bbox", "tide": {}}, []) != plain


def other(value: Any) -> Any:
    """The same with other numbers and sentences; names stay."""
    if isinstance(value, dict):
        return {k: other(v) for k, v in value.items()}
    if isinstance(value, list):
        return [v + " indeed" if isinstance(v, str) else other(v) for v in value]
    return value * 0.5 if isinstance(value, float) else value + 1 if isinstance(value, int) else value


@pytest.mark.parametrize(
    "gone", ["f1", "calibration", "confusion", "boundary", "proposals", "background", "objects", "speed"]
)
def test_what_was_not_computed_is_left_out(gone: str) -> None:
    page = page_of(fake_figures(**{gone: None}), [])
    assert len(page) < len(page_of(fake_figures(), []))
    read(page)


def test_one_class_and_no_truth_at_all_have_a_page() -> None:
    read(page_of(fake_figures(("nothing",)), []))
    found = fake_figures(label_errors=[], tide={}, oracles={})
    assert "n/a" in page_of(found, []) and 'id="errors"' not in page_of(found, [])


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_no_name_becomes_part_of_the_page(name: str) -> None:
    def tags(name: str) -> list[tuple[str, list[str]]]:
        found = fake_figures((name, "b", "c"), notes=[name], about={name: name})
        paths = (("M0 0z", "truth", "met", "0s", name),)
        shots = [Shot(name, name, "data:,", 1, 1, paths, ("0s-met",), (0,), (0,))]
        return [(tag, list(attributes)) for tag, attributes in read(page_of(found, shots, name)).tags]

    assert tags(name) == tags("name")


def test_what_costs_most_comes_first_and_the_advice_names_keys_that_there_are(tmp_path: Path) -> None:
    advice = what_costs_most(fake_figures())
    assert [a.split()[0] for a in advice] == ["missed", "background", "duplicate"]
    text = (TEMPLATES / "report_words.html.j2").read_text() + " ".join(told for _, told in ERRORS.values())
    named = set(re.findall(r"\b(?:data|model|solver|eval|train)(?:\.[a-z_0-9]+)+", text))
    assert len(named) > 15
    recipe = load_recipe(write_recipe(tmp_path))
    assert [key for key in named if not has_key(recipe, key.split("."))] == []


def has_key(part: Any, words: list[str]) -> bool:
    """Whether a recipe has such a key; of one that is null here, by its type."""
    if not words:
        return True
    names = {f.name for f in fields(part)} if is_dataclass(part) else set()
    if words[0] not in names:
        return False
    value = getattr(part, words[0])
    return True if value is None and len(words) == 1 else has_key(value, words[1:])


@pytest.mark.slow
def test_a_page_of_80_classes_and_200_full_images_is_small_and_opens(
    running: Browser, tmp_path: Path
) -> None:
    """Noise, which no JPEG makes small, with 160 outlines an image."""
    page = tmp_path / "large.html"
    shots = fake_shots(200, side=512, objects=80, room=105_000)
    page.write_text(page_of(fake_figures(tuple(f"class {i}" for i in range(80))), shots), encoding="utf-8")
    assert 15e6 < page.stat().st_size < 25e6
    running.open(page)
    assert running.complaints() == [] and len(shown(running)) == 24
    assert running.do("document.querySelector('.card:not([hidden]) img').naturalWidth") > 300
