"""``maskrcnn browse``: the page shows what the trainer sees, filters it, and takes no name for a tag."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from maskrcnn.cli import main
from maskrcnn.data.loader import train_loader, training_sample
from maskrcnn.data.schedule import TrainSchedule, repeat_factors
from maskrcnn.errors import UserError
from maskrcnn.recipe import load_recipe
from maskrcnn.run import setup
from maskrcnn.run.browse import SheetWishes, browse
from tests.cli import test_channels
from tests.engine.tiny import write_recipe

#: Names that would be tags, ends of attributes, or handlers, if they were not escaped.
EVIL = "\"><script>alert(1)</script><img src=x onerror=alert(2)> ' onfocus=alert(3) {{ 7*7 }}"


@dataclass
class Page(HTMLParser):
    """What a browser would make of it: cards, options, tags."""

    html: str
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)

    def __hash__(self) -> int:
        return id(self)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def cards(self) -> list[dict[str, str]]:
        return self.of("article")

    @property
    def images(self) -> list[int]:
        """Ids of those that are shown."""
        return [int(i) for i in re.findall(r"image (\d+): \S+\n", self.text)]

    def options(self, select: str) -> dict[str, str]:
        """What stands in a list, by its value."""
        (part,) = re.findall(rf'<select id="{select}">(.*?)</select>', self.html, re.DOTALL)
        return dict(re.findall(r'<option value="(.*?)">(.*?)</option>', part))


def command(folder: Path, *words: str) -> Page:
    """The page that the command writes."""
    out = folder / "sheet.html"
    assert main(["browse", *words, "--out", str(out)]) == 0
    return Page(out.read_text(encoding="utf-8"))


def change(folder: Path, edit: Any) -> None:
    path = folder / "images/train.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("wishes", [[], ["data.repeat_threshold=1.0"], ["seed=5", "solver.accumulate=2"]])
def test_an_epoch_is_drawn_as_the_trainer_draws_it(wishes: list[str], tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path), wishes)
    dataset = recipe.data.build(recipe.data.train, True)
    transforms = setup.build_transforms(recipe, training=True)
    threshold, per_pass = recipe.data.repeat_threshold, 2 // recipe.solver.accumulate
    repeats = None
    if threshold is not None:
        repeats = repeat_factors(dataset.ground_truth(), dataset.image_ids, threshold).images
    options: dict[str, Any] = {"seed": recipe.seed, "repeats": repeats}
    accumulate = recipe.solver.accumulate
    made = train_loader(
        dataset, transforms, images_per_rank=per_pass, accumulate=accumulate, total_steps=8, **options
    )
    schedule = TrainSchedule(np.asarray(dataset.sizes), images_per_rank=per_pass, world_size=1, **options)
    draws = [draw for epoch in range(9) for draw in schedule.epoch_draws(epoch)]
    batches = [(i, t) for b in made for i, t in zip(b.images, b.targets or [], strict=True)]
    assert len(batches) == 16
    for (image, targets), draw in zip(batches, draws, strict=False):
        sample = training_sample(dataset, transforms, draw, seed=recipe.seed)
        assert sample is not None and sample.targets is not None
        assert sample.image.equal(image) and sample.targets.boxes.equal(targets.boxes)


def test_the_pictures_are_those_of_the_steps(tmp_path: Path) -> None:
    """Sizes are drawn at random: what stands below a picture is what the loader's batch has."""
    path = write_recipe(tmp_path)
    wish = "data.train_transforms.0.min_sizes=[40,44,48,52,56,60,64,68,72]"
    recipe = load_recipe(path, [wish])
    dataset = recipe.data.build(recipe.data.train, True)
    loader = train_loader(
        dataset,
        setup.build_transforms(recipe, training=True),
        images_per_rank=2,
        total_steps=4,
        seed=recipe.seed,
    )
    seen = [
        (info.image_id, f"{image.shape[2]} x {image.shape[1]}")
        for batch in loader
        for image, info in zip(batch.images, batch.infos, strict=True)
    ]
    page = command(tmp_path, str(path), "--set", wish, "--epochs", "2", "--images", "5")
    captions = re.findall(
        r'alt="image (\d+): \S+, epoch (\d), position \d+: (\d+ x \d+), \d objects"', page.html
    )
    found = [[(int(i), size) for i, epoch, size in captions if int(epoch) == e] for e in (0, 1)]
    assert [sorted(f) for f in found] == [sorted(seen[:4]), sorted(seen[4:])]  # of 5 images, 1 fills no batch
    assert len({size for _, size in seen}) > 2
    first, second = ({i for i, _ in half} for half in (seen[:4], seen[4:]))
    assert page.text.count("it filled no batch") == len({1, 2, 3, 4, 5} - (first & second))
    sources = page.of("img")
    assert all(
        attrs["data-src"].startswith("data:image/jpeg;base64,") and "src" not in attrs for attrs in sources
    )
    picture = cv2.imdecode(
        np.frombuffer(base64.b64decode(sources[0]["data-src"].partition(",")[2]), np.uint8), cv2.IMREAD_COLOR
    )
    assert picture is not None
    assert (str(picture.shape[1]), str(picture.shape[0])) == (sources[0]["width"], sources[0]["height"])
    assert max(picture.shape) <= 480


def test_boxes_and_masks_are_drawn_over_the_augmented_image(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path), ["data.train_transforms=[]"])
    (card, *_) = [
        c for c in Page(browse(recipe, "t", SheetWishes()).html).of("img") if "image 2:" in c["alt"]
    ]
    shown = cv2.imdecode(
        np.frombuffer(base64.b64decode(card["data-src"].partition(",")[2]), np.uint8), cv2.IMREAD_COLOR
    )
    assert shown is not None
    plain = cv2.imread(str(tmp_path / "images/2.png"))
    assert plain is not None
    plain = cv2.resize(plain, shown.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    changed = np.abs(shown.astype(int) - plain).max(2) > 60
    (first, *_) = json.loads((tmp_path / "images/train.json").read_text())["annotations"]
    x, y, w = (round(v * shown.shape[0] / 64) for v in first["bbox"][:3])
    assert changed[y - 2 : y + 3, x : x + w].max(0).mean() > 0.9  # the upper side of its box
    assert changed.mean() < 0.9


def test_classes_and_counts_are_listed(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    page = command(tmp_path, str(path))
    assert page.options("class") == {"": "all", "0": "box (4)", "1": "disc (4)"}
    assert [(c["data-objects"], c["data-classes"]) for c in page.cards] == [("0", ""), *[("2", "0 1")] * 4]
    assert re.search(r"<td class=\"text\">disc</td><td>4</td><td>4</td><td>4</td>", page.html)
    change(tmp_path, lambda c: c["annotations"].pop())  # a disc
    page = command(tmp_path, str(path), "--class", "disc")
    assert page.options("class") == {"": "all", "0": "box (3)", "1": "disc (3)"}
    assert page.images == [2, 3, 4]
    page = command(tmp_path, str(path), "--images", "2", "--seed", "1")
    assert len(page.cards) == 2 and page.images == sorted(page.images)
    assert any(
        command(tmp_path, str(path), "--images", "2", "--seed", str(s)).images != page.images
        for s in (2, 3, 4)
    )


def test_findings_are_by_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path)

    def spoil(content: dict[str, Any]) -> None:
        by_image = {a["image_id"]: a for a in content["annotations"]}
        by_image[3]["segmentation"] = [[1, 1, 2, 2]]  # no polygon: left out
        by_image[4]["bbox"] = [0, 0, 60, 60]  # not that of its mask

    change(tmp_path, spoil)
    page = command(tmp_path, str(path))
    kinds = page.options("finding")
    (left_out,) = [n for n, kind in kinds.items() if kind.startswith("left out")]
    (differs,) = [n for n, kind in kinds.items() if kind.startswith("box disagrees")]
    of_image = dict(zip(page.images, (c["data-findings"].split() for c in page.cards), strict=True))
    assert [i for i, found in of_image.items() if left_out in found] == [3]
    assert [i for i, found in of_image.items() if differs in found] == [4]
    assert kinds[differs] == "box disagrees with mask (1)"
    assert "boxes that disagree with their masks: 1 of" in page.text
    assert command(tmp_path, str(path), "--finding", "box disagrees with mask").images == [4]
    # It is shown whatever else chance takes.
    assert all(4 in command(tmp_path, str(path), "--images", "4", "--seed", str(s)).images for s in range(3))
    capsys.readouterr()
    assert main(["browse", str(path), "--finding", "box disagrees with masks"]) == 2
    assert "box disagrees with mask" in capsys.readouterr().err.partition("Did you mean")[2]


def test_hostile_names_are_text(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    file = EVIL.replace("/", "_") + ".png"
    shutil.copy(tmp_path / "images/2.png", tmp_path / "images" / file)

    def rename(content: dict[str, Any]) -> None:
        content["images"][1]["file_name"] = file
        content["categories"][0]["name"] = EVIL
        content["annotations"][0]["segmentation"] = [[1, 1, 2, 2]]

    change(tmp_path, rename)
    page = command(tmp_path, str(path), "--set", "data.val=null")
    assert len(page.of("script")) == 1 and page.of("script")[0] == {}
    assert all("src" not in attrs and attrs["data-src"].startswith("data:") for attrs in page.of("img"))
    allowed = {"article", "figure", "figcaption", "img", "div", "h3", "p"}
    inside = page.tags[page.tags.index(("article", page.cards[0])) : page.tags.index(("h2", {}))]
    assert {tag for tag, _ in inside} <= allowed
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "{{ 7*7 }}" in page.text and EVIL in page.text and f"image 2: {file}" in page.text
    assert not re.search(r"(?:src|href)=\"(?!data:)", page.html) and "@import" not in page.html
    assert [name for name, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"] == [
        "meta"
    ]


def test_the_page_stays_under_its_bound(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path))
    whole = browse(recipe, "t", SheetWishes())
    one = max(len(attrs["data-src"]) for attrs in Page(whole.html).of("img"))
    bounded = browse(recipe, "t", SheetWishes(most_bytes=4 * one))
    shown = Page(bounded.html).of("img")
    assert 0 < sum(len(attrs["data-src"]) for attrs in shown) <= 4 * one
    left = 5 - len(Page(bounded.html).cards)
    assert left > 0 and f"{left} more are left out" in " ".join(bounded.told)
    assert len(whole.told) == 1


def test_an_image_that_cannot_be_read_has_a_card(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    (tmp_path / "images/3.png").write_bytes(b"no image")
    page = command(tmp_path, str(path))
    (told,) = re.findall(r"cannot be read: (.*)", page.text)
    assert "3.png" in told and len(page.cards) == 5
    (tmp_path / "images/3.png").unlink()
    page = command(tmp_path, str(path))
    assert "missing image (1)" in page.options("finding").values()


def test_five_channels_of_16_bits(tmp_path: Path) -> None:
    path = test_channels.write(tmp_path)
    wish = "model.preprocess={mean: [1, 2, 3, 4, 5], std: [9, 9, 9, 9, 9]}"
    page = command(tmp_path, str(path), "--set", wish)
    assert "x 5 channels, 2 objects" in page.text and len(page.of("img")) == 9


def test_data_alone_is_seen_as_by_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_recipe(tmp_path)
    data = [str(tmp_path / "images/train.json"), "--images", str(tmp_path / "images")]
    page = command(tmp_path, *data, "--images", "3")
    assert len(page.cards) == 3 and "ResizeShortestEdge" in page.text
    assert re.search(r"epoch 0, position \d+: 800 x 800|epoch 0, position \d+: 6\d\d x|: 7\d\d x", page.text)
    told = capsys.readouterr().out
    assert "3 of 4 training images" in told and "MiB (of pictures at most 64); open it in a browser" in told


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--images", "0"], "--images must be 1 to"),
        (["--epochs", "0"], "--epochs must be 1 to"),
        (["--side", "5"], "--side must be 64 to"),
        (["--out", "sheet.png"], "ends in .html"),
        (["--class", "dics"], "Did you mean 'disc'"),
        (["--class", "disc", "--finding", "x"], "--finding x: the data have none"),
    ],
)
def test_mistakes_are_sentences(
    words: list[str],
    advice: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["browse", str(write_recipe(tmp_path)), *words]) == 2
    told = capsys.readouterr().err
    assert advice in told and len(told.strip().splitlines()) == 1
    assert not list(tmp_path.glob("*.html")) and not list(tmp_path.glob("sheet*"))


def test_no_image_of_both_is_told(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path))
    change(tmp_path, lambda c: c["annotations"][1].update(bbox=[0, 0, 60, 60]))
    change(tmp_path, lambda c: c["annotations"].pop(0))
    wishes = SheetWishes(classes=("box",), findings=("box disagrees with mask",))
    with pytest.raises(UserError, match="no image is of the class and finding"):
        browse(recipe, "t", wishes)
    assert Page(browse(recipe, "t", SheetWishes(findings=wishes.findings)).html).images == [2]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: Acts as a reader does, and leaves what is seen in the title.
ACTS = """
const seen = () => [...document.querySelectorAll(".card:not([hidden])")].map(c => c.dataset.place).join(",");
const loaded = () => [...document.querySelectorAll("img[src]")].length;
const choose = (id, value) => {
  at(id).value = value;
  at(id).dispatchEvent(new Event("change", {bubbles: true}));
};
const press = (key, on) =>
  (on || document.body).dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
const log = [];
at("size").options[0].textContent = "2";
log.push(seen(), loaded());
choose("class", "1"); log.push(seen());
choose("class", ""); choose("finding", "none"); log.push(seen());
choose("finding", "any"); log.push(seen());
press("Escape"); log.push(seen());
choose("order", "most"); log.push(seen());
choose("size", "2"); log.push(seen(), loaded());
press("ArrowRight"); log.push(seen(), at("told").textContent);
press("ArrowRight"); press("ArrowRight"); log.push(seen(), at("after").disabled);
press("ArrowLeft"); log.push(seen());
const card = document.querySelector(".card:not([hidden])");
press("Enter", card); log.push(card.classList.contains("large"));
document.title = JSON.stringify(log);
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_filters_sorts_and_turns_pages(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)

    def spoil(content: dict[str, Any]) -> None:
        content["annotations"].pop()  # the disc of image 5
        next(a for a in content["annotations"] if a["image_id"] == 4)["bbox"] = [0, 0, 60, 60]

    change(tmp_path, spoil)
    page = command(tmp_path, str(path), "--set", "data.val=null")
    of_all = [c["data-findings"] for c in page.cards]
    with_none = [i for i, found in enumerate(of_all) if not found]
    with_any = [i for i, found in enumerate(of_all) if found]
    assert 3 in with_any and with_none
    (tmp_path / "acted.html").write_text(page.html.replace("</body>", f"<script>{ACTS}</script></body>"))
    told = subprocess.run(
        [
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            f"--user-data-dir={tmp_path / 'profile'}",
            (tmp_path / "acted.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    (title,) = re.findall(r"<title>(.*?)</title>", told)

    def joined(places: list[int]) -> str:
        return ",".join(map(str, places))

    every, most = "0,1,2,3,4", "1,2,3,4,0"
    assert json.loads(title.replace("&quot;", '"')) == [
        *(every, 9),
        "1,2,3",
        joined(with_none),
        joined(with_any),
        every,
        most,
        *("1,2", 4),
        *("3,4", "5 of 5 images, page 2 of 3"),
        *("0", True),
        "3,4",
        True,
    ]
