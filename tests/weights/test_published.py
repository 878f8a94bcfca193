"""The registry: what it says agrees with what the publishers' own packages and our recipes say."""

from __future__ import annotations

import math
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torchvision.models as models
from torchvision.models import detection

from maskrcnn.config.shipped import shipped_recipes
from maskrcnn.errors import CheckpointError, ConfigError
from maskrcnn.recipe import load_recipe
from maskrcnn.weights.published import SHIPPED, Published, add, find, home, registry

DETECTORS = {
    "mask_rcnn_r50_fpn_v2": detection.MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
    "mask_rcnn_r50_fpn": detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
    "faster_rcnn_r50_fpn_v2": detection.FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
    "faster_rcnn_r50_fpn": detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    "keypoint_rcnn_r50_fpn": detection.KeypointRCNN_ResNet50_FPN_Weights.COCO_V1,
}
TERMS = {"box_map": "bbox/AP", "mask_map": "segm/AP", "kp_map": "keypoints/AP", "acc@1": "imagenet/top1"}


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASKRCNN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def torchvisions(name: str) -> models.Weights:
    """The installed torchvision's own statement of the weights that we call so."""
    if name in DETECTORS:
        return DETECTORS[name]
    model, version = name.removesuffix("_v2"), "V2" if name.endswith("_v2") else "V1"
    return models.get_model_weights(model)[f"IMAGENET1K_{version}"]


@pytest.mark.parametrize("name", [n for n in registry() if n.startswith("torchvision/")])
def test_torchvisions_are_as_the_installed_package_states(name: str) -> None:
    entry, theirs = registry()[name], torchvisions(name.removeprefix("torchvision/"))
    assert entry.url == theirs.url
    assert entry.file_name.endswith(f"-{entry.sha256}.pth")
    assert entry.mebibytes == theirs.meta["_file_size"]
    (stated,) = theirs.meta["_metrics"].values()
    figures = {TERMS[k]: v / 100 for k, v in stated.items() if k in TERMS and not math.isnan(v)}
    assert entry.figures == pytest.approx(figures)
    transforms = theirs.transforms()
    if entry.kind == "backbone":  # detectors normalise inside, by GeneralizedRCNNTransform's defaults
        assert entry.mean == pytest.approx([255 * v for v in transforms.mean])
        assert entry.std == pytest.approx([255 * v for v in transforms.std])


def test_every_entry_is_whole() -> None:
    shipped = registry()
    assert len(shipped) > 60 and SHIPPED.is_file()
    files = {(entry.url, name) for name, entry in shipped.items()}
    assert len({url for url, _ in files}) == len(shipped)
    for name, entry in shipped.items():
        assert urlsplit(entry.url).scheme == "https", name
        assert entry.mean is not None and entry.std is not None, name
        assert entry.kind == "backbone" or entry.figures, name
        if entry.md5 is not None:  # Detectron2 states it in the file's name
            assert entry.file_name.endswith(f"_{entry.md5}.pkl"), name


@pytest.mark.parametrize("name", [n for n, entry in registry().items() if entry.recipe is not None])
def test_the_recipe_that_is_named_expects_the_same(name: str) -> None:
    entry = registry()[name]
    recipe = load_recipe(shipped_recipes()[str(entry.recipe)])
    assert {e.metric: e.value for e in recipe.expect} == pytest.approx(entry.figures)
    if name.startswith("torchvision/") and "_v2" not in name:
        assert recipe.model.preprocess.std == entry.std
        assert recipe.solver.learning_rate / recipe.solver.batch_size == pytest.approx((entry.rate or 0) / 16)


def test_the_middle_of_a_name_may_be_left_out() -> None:
    full = "detectron2/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"
    assert find("detectron2/mask_rcnn_R_50_FPN_3x") == (full, registry()[full])
    assert find(full)[0] == full
    with pytest.raises(CheckpointError, match="several weights are called so: detectron2/.*R-50"):
        find("detectron2/R-50")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("torchvision/resnet5O", "torchvision/resnet50"),
        ("detectron2/mask_rcnn_R50_FPN_3x", "detectron2/COCO-Inst"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name}: no such file.*did you mean .*{near}.*weights list"):
        find(name)


def test_a_name_of_ones_own(own_home: Path) -> None:
    entry = Published(kind="backbone", url="https://example.org/a/net.pth", mean=(1.0, 2.0, 3.0), rate=0.1)
    assert add("own/net", entry) == own_home / "weights.yaml"
    add("own/net.v2", Published(kind="detector", url="https://example.org/b.pkl"))
    assert find("own/net") == ("own/net", entry) and "own/net.v2" in registry()


@pytest.mark.parametrize("name", ["net", "own", "own/", "torchvision/net", "own/../net", "own//net"])
def test_what_is_no_name_of_ones_own(name: str) -> None:
    with pytest.raises(ConfigError, match="write it as in own/cells_r50"):
        add(name, Published(kind="backbone", url="https://example.org/net.pth"))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("url", "ftp://example.org/net.pth", "url must be https://HOST"),
        ("url", "https://example.org/", "url must be https://HOST"),
        ("sha256", '"12G456"', "sha256 must be 6 to 64 hex digits"),
        ("rate", "-1", "must be > 0"),
        ("sha1", "00", "sha1"),
    ],
)
def test_a_mistake_in_the_registry_is_told_by_its_line(
    key: str, value: str, said: str, own_home: Path
) -> None:
    own_home.mkdir()
    entry = {"kind": "backbone", "url": "https://example.org/net.pth", key: value}
    lines = [f"    {k}: {v}\n" for k, v in entry.items()]
    (own_home / "weights.yaml").write_text("weights:\n  own/net:\n" + "".join(lines))
    with pytest.raises(ConfigError, match=rf"weights\.yaml:\d+:\d+: .*{said}"):
        registry()


def test_where_weights_are_kept(monkeypatch: pytest.MonkeyPatch, own_home: Path) -> None:
    assert home() == own_home
    monkeypatch.delenv("MASKRCNN_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert home() == Path("/somewhere/maskrcnn")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert home() == Path.home() / ".cache" / "maskrcnn"
