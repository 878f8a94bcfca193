"""Pipelines of albumentations and of torchvision: everything moves together, and by our seed alone."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from maskrcnn.config import dump, loads
from maskrcnn.data import TRANSFORMS, Transform
from maskrcnn.data.transforms import albumentations_pipeline, torchvision_pipeline
from maskrcnn.data.transforms.basic import HorizontalFlip, VerticalFlip
from maskrcnn.data.transforms.pipelines import PipelineStep
from maskrcnn.data.transforms.undoing import resizes_only
from maskrcnn.errors import ConfigError
from maskrcnn.recipe import Recipe
from maskrcnn.structures import RawSample
from tests.data.transforms.libraries import HAVE_ALBUMENTATIONS, needs_albumentations
from tests.data.transforms.test_affine import HEIGHT, WIDTH, iou, rng, sample

BOTH = [pytest.param("albumentations", marks=needs_albumentations), "torchvision_v2"]


def plain(channels: int = 3) -> RawSample:
    """Without proposals."""
    return replace(sample(channels), proposals=None)


def pipeline(library: str, *steps: Any) -> Transform:
    """Of steps ``(name, options, inner steps)``, or names alone."""
    made = [step if isinstance(step, tuple) else (step, {}, ()) for step in steps]
    given = tuple(PipelineStep(name=name, options=options, of=of) for name, options, of in made)
    return TRANSFORMS.make(library, pipeline=given)


def flip(library: str, axis: str = "Horizontal") -> Any:
    name = f"{axis}Flip" if library == "albumentations" else f"Random{axis}Flip"
    return (name, {"p": 1.0}, ())


def random_steps(library: str) -> Transform:
    """Something of everything: geometry, a crop, colours, noise, a choice."""
    if library == "albumentations":
        return pipeline(
            library,
            ("Affine", {"rotate": (-60.0, 60.0), "scale": (0.8, 1.2), "p": 1.0}, ()),
            ("RandomCrop", {"height": 120, "width": 150, "p": 1.0}, ()),
            ("OneOf", {"p": 1.0}, (PipelineStep(name="HorizontalFlip"), PipelineStep(name="VerticalFlip"))),
            ("RandomBrightnessContrast", {"p": 1.0}, ()),
            ("GaussNoise", {"p": 1.0}, ()),
        )
    return pipeline(
        library,
        ("RandomAffine", {"degrees": (-60.0, 60.0), "scale": (0.8, 1.2), "interpolation": "bilinear"}, ()),
        ("RandomCrop", {"size": (120, 150)}, ()),
        (
            "RandomChoice",
            {},
            (PipelineStep(name="RandomHorizontalFlip"), PipelineStep(name="RandomVerticalFlip")),
        ),
        ("ColorJitter", {"brightness": 0.3}, ()),
        ("GaussianNoise", {}, ()),
    )


def bits(found: RawSample) -> str:
    """Of all that a sample is."""
    digest = hashlib.sha256(np.ascontiguousarray(found.image).tobytes())
    targets = found.targets
    for part in (targets.boxes, targets.labels, targets.annotation_ids, targets.keypoints):
        digest.update(b"" if part is None else part.numpy().tobytes())
    digest.update(targets.masks.to_bitmaps().numpy().tobytes() if targets.masks is not None else b"")
    return digest.hexdigest()


@pytest.mark.parametrize("library", BOTH)
@pytest.mark.parametrize(
    ("axis", "ours"), [("Horizontal", HorizontalFlip(1.0)), ("Vertical", VerticalFlip(1.0))]
)
def test_a_flip_is_ours(library: str, axis: str, ours: Transform) -> None:
    """Image, boxes, keypoints with left and right exchanged, labels; masks as pixels."""
    found, expected = (t(plain(), rng()) for t in (pipeline(library, flip(library, axis)), ours))
    assert np.array_equal(found.image, expected.image)
    assert torch.allclose(found.targets.boxes, expected.targets.boxes, atol=1.0)  # of pixels, not of polygons
    assert found.targets.keypoints is not None and expected.targets.keypoints is not None
    assert torch.allclose(found.targets.keypoints, expected.targets.keypoints, atol=1e-4)
    assert torch.equal(found.targets.labels, expected.targets.labels)
    pairs = zip(*(s.targets.masks.to_bitmaps().numpy() for s in (found, expected)), strict=True)  # type: ignore[union-attr]
    assert all(iou(a, b) > 0.97 for a, b in pairs)


@pytest.mark.parametrize("library", BOTH)
def test_all_that_belongs_to_an_image_moves_with_it(library: str) -> None:
    """The image still shows each instance's gray where its mask is, boxes are the masks'."""
    steps = random_steps(library)
    geometry = replace(steps, pipeline=steps.pipeline[:3])  # type: ignore[type-var, attr-defined]
    for seed in range(4):
        found = geometry(plain(), rng(seed))
        masks = found.targets.masks
        assert masks is not None and found.size == (120, 150)
        assert (masks.boxes() - found.targets.boxes).abs().max() == 0
        for bitmap, label in zip(masks.to_bitmaps().numpy(), found.targets.labels.tolist(), strict=True):
            core = cv2.erode(bitmap, np.ones((5, 5), np.uint8), borderValue=0) > 0
            assert (found.image[core] == 60 * (label + 1)).all()
        assert found.targets.annotation_ids.tolist() == [100 + k for k in found.targets.labels.tolist()]
        assert found.targets.keypoints is not None and len(found.targets.keypoints) == len(found.targets)


@pytest.mark.parametrize("library", BOTH)
def test_a_crop_drops_what_it_leaves_out_and_keeps_the_order(library: str) -> None:
    name = "CenterCrop"
    options: Any = {"height": 60, "width": 60} if library == "albumentations" else {"size": (60, 60)}
    found = pipeline(library, (name, options, ()))(plain(), rng())
    x0, y0 = (WIDTH - 60) // 2, (HEIGHT - 60) // 2
    before = sample().targets.masks.to_bitmaps().numpy()[:, y0 : y0 + 60, x0 : x0 + 60]  # type: ignore[union-attr]
    kept = [k for k in range(4) if before[k].any()]
    assert 0 < len(kept) < 4
    assert found.targets.labels.tolist() == kept
    assert np.array_equal(found.targets.masks.to_bitmaps().numpy(), before[kept])  # type: ignore[union-attr]


@pytest.mark.parametrize("library", BOTH)
def test_values_alone_leave_masks_as_they_are(library: str) -> None:
    name = "RandomBrightnessContrast" if library == "albumentations" else "ColorJitter"
    options: Any = {"p": 1.0} if library == "albumentations" else {"brightness": 0.5}
    before = sample()
    change = pipeline(library, (name, options, ()))
    found = change(before, rng(1))
    assert found.targets is before.targets and found.proposals is before.proposals
    assert not np.array_equal(found.image, before.image)
    assert resizes_only(change)
    assert not resizes_only(pipeline(library, flip(library)))
    # Floats in 0..255 come back as such.
    deep = replace(before, image=before.image.astype(np.float32))
    out = change(deep, rng(1)).image
    assert out.dtype == np.float32
    assert np.abs(out - found.image).max() < 2


def test_torchvisions_transforms_of_values_alone_are_its_own() -> None:
    from torchvision.transforms import v2

    for name in torchvision_pipeline._VALUES_ALONE:
        assert issubclass(getattr(v2, name), v2.Transform)


@pytest.mark.parametrize("library", BOTH)
def test_five_channels_and_none(library: str) -> None:
    found = pipeline(library, flip(library))(plain(5), rng())
    assert np.array_equal(found.image, sample(5).image[:, ::-1])
    before = plain()
    empty = replace(before, targets=before.targets.select(torch.zeros(4, dtype=torch.bool)))
    found = random_steps(library)(empty, rng())
    assert len(found.targets) == 0 and found.image.shape == (120, 150, 3)


@pytest.mark.parametrize("library", BOTH)
def test_without_masks_and_keypoints(library: str) -> None:
    before = sample()
    targets = replace(before.targets, masks=None, keypoints=None)
    found = pipeline(library, flip(library))(replace(before, targets=targets), rng())
    assert torch.allclose(found.targets.boxes, HorizontalFlip(1.0)(before, rng()).targets.boxes, atol=1e-3)
    assert found.proposals is not None
    assert torch.allclose(found.proposals, found.targets.boxes, atol=1e-3)


def test_proposals_go_through_albumentations_alone() -> None:
    """torchvision would need a mask for each of them."""
    with pytest.raises(ConfigError, match="take no proposals besides masks"):
        pipeline("torchvision_v2", flip("torchvision_v2"))(sample(), rng())
    if HAVE_ALBUMENTATIONS:
        found = pipeline("albumentations", flip("albumentations"))(sample(), rng())
        expected = HorizontalFlip(1.0)(sample(), rng())
        assert found.proposals is not None and expected.proposals is not None
        assert torch.allclose(found.proposals, expected.proposals, atol=1e-3)


_ELSEWHERE = """
import sys
from pathlib import Path
import numpy as np, random, torch
random.seed(int(sys.argv[2])), np.random.seed(int(sys.argv[2])), torch.manual_seed(int(sys.argv[2]))
from tests.data.transforms.test_pipelines import bits, plain, random_steps, rng
print(bits(random_steps(sys.argv[1])(plain(), rng(7))))
print(torch.initial_seed(), float(torch.rand(())), np.random.random(), random.random())
"""


@pytest.mark.parametrize("library", BOTH)
def test_equal_seeds_give_equal_bits_in_any_process(library: str) -> None:
    """Whatever the global generators are at; and these are left as they were."""
    steps = random_steps(library)
    one = steps(plain(), rng(7))
    steps(plain(), rng(8))  # a pipeline has no state that a call would see
    assert bits(one) == bits(steps(plain(), rng(7)))
    assert bits(one) != bits(steps(plain(), rng(8)))
    outputs = []
    for seed in ("1", "2"):
        command = [sys.executable, "-c", _ELSEWHERE, library, seed]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout.splitlines())
    assert outputs[0][0] == outputs[1][0] == bits(one)
    torch.manual_seed(1)
    assert outputs[0][1].split()[:2] == ["1", str(float(torch.rand(())))]


@pytest.mark.parametrize("library", BOTH)
def test_what_the_library_does_not_have_or_take_is_told(library: str) -> None:
    with pytest.raises(
        ConfigError, match=r"has no transform 'HorizontalFlp'\. Did you mean 'HorizontalFl|'Random"
    ):
        pipeline(library, "HorizontalFlp").prepare()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="does not take these arguments"):
        pipeline(library, (flip(library)[0], {"colour": 3}, ())).prepare()  # type: ignore[attr-defined]
    for name in ("__builtins__", "os", "functional", "Compose.__init__"):  # of the module, and no transforms
        with pytest.raises(ConfigError, match="has no transform"):
            pipeline(library, name).prepare()  # type: ignore[attr-defined]
    large: Any = {"height": 500, "width": 500} if library == "albumentations" else {"size": (500, 500)}
    if library == "albumentations":
        with pytest.raises(ConfigError, match="image 1: the albumentations pipeline fails"):
            pipeline(library, ("RandomCrop", {**large, "p": 1.0}, ()))(sample(), rng())
    floats = (
        ("ToFloat", {"p": 1.0}, ())
        if library == "albumentations"
        else ("Normalize", {"mean": (0.0,), "std": (1.0,)}, ())
    )
    with pytest.raises(ConfigError, match="pipeline"):
        pipeline(library, floats)(plain(), rng())


def test_a_pipeline_in_a_file_becomes_part_of_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "steps.yaml"
    file.write_text("pipeline:\n  - {name: RandomHorizontalFlip, options: {p: 1.0}}\n")
    made = TRANSFORMS.make("torchvision_v2", pipeline=file)
    assert made == pipeline("torchvision_v2", ("RandomHorizontalFlip", {"p": 1.0}, ()))
    text = (
        "data: {train: {type: coco, images: a, annotations: b}, train_transforms:"
        f" [{{type: torchvision_v2, pipeline: {file}}}]}}\n"
    )
    written = dump(loads(Recipe, text))
    file.unlink()
    again = loads(Recipe, written)
    assert again.data.train_transforms == (made,)
    with pytest.raises(ConfigError, match="steps.yaml"):
        TRANSFORMS.make("torchvision_v2", pipeline=file)


@needs_albumentations
def test_what_albumentations_saves_is_read(tmp_path: Path) -> None:
    import albumentations

    steps = [
        albumentations.Affine(rotate=(-20, 20), scale={"x": (0.9, 1.1), "y": (0.8, 1.2)}, p=0.7),
        albumentations.OneOf([albumentations.Blur(p=1.0), albumentations.HorizontalFlip(p=0.5)], p=0.3),
    ]
    whole = albumentations.Compose(steps)
    albumentations.save(whole, tmp_path / "saved.json")
    mine = TRANSFORMS.make("albumentations", pipeline=tmp_path / "saved.json")
    for seed in range(3):
        whole.set_random_seed(int(rng(seed).integers(2**32)))
        given = sample()
        theirs = whole(image=given.image)["image"]
        assert np.array_equal(mine(given, rng(seed)).image, theirs)
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"steps": []}))
    with pytest.raises(ConfigError, match=r"other\.json is not what albumentations\.save writes"):
        TRANSFORMS.make("albumentations", pipeline=other)


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "albumentations", None)
    albumentations_pipeline._pipeline.cache_clear()
    with pytest.raises(ConfigError, match=r"not installed: pip install maskrcnn\[albumentations\]"):
        pipeline("albumentations", "HorizontalFlip").prepare()  # type: ignore[attr-defined]


@needs_albumentations
def test_albumentations_does_not_call_home() -> None:
    """Imported by us, it asks no server for its newest version."""
    code = (
        "import socket, urllib.request\n"
        "def refuse(*a, **k): print('called home'); raise OSError\n"
        "urllib.request.OpenerDirector.open = socket.create_connection = refuse\n"
        "from tests.data.transforms.test_pipelines import pipeline\n"
        "pipeline('albumentations', 'HorizontalFlip').prepare()\n"
        "import sys; print('albumentations' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
