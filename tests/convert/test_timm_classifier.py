"""timm's models in timm's names and in those of EfficientNet-PyTorch; real weights on real pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.cli import main
from maskrcnn.convert.timm_classifier import has_timm_names, pixels, timm_model
from maskrcnn.data.images import read_image
from maskrcnn.errors import CheckpointError
from maskrcnn.modeling.backbones.timm_backbone import TimmConfig
from maskrcnn.modeling.preprocess import PreprocessConfig

timm = pytest.importorskip("timm")


def meta(name: str, **options: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        state: dict[str, Tensor] = timm.create_model(name, **options).state_dict()
    return state


@pytest.mark.parametrize("name", ["tf_efficientnet_b0", "tf_efficientnet_b3", "tf_efficientnet_lite2"])
def test_an_efficientnet_is_known_by_its_shapes(name: str) -> None:
    assert timm_model(meta(name, num_classes=7), "model.pth", efficientnet=True) == name


def test_a_file_that_is_called_after_its_model() -> None:
    state = meta("convnext_atto")
    assert has_timm_names(state, "convnext_atto_d2-01bb0f51.pth") and not has_timm_names(state, "model.pth")
    assert timm_model(state, "convnext_atto-01bb0f51.pth", efficientnet=False) == "convnext_atto"
    with pytest.raises(CheckpointError, match=r"no model of timm .* fits.*call the file after its model"):
        timm_model(meta("convnext_femto"), "convnext_atto-01bb0f51.pth", efficientnet=False)


def test_two_models_of_the_same_shapes_are_told_apart_by_the_name_alone() -> None:
    state = meta("efficientnet_lite0")
    with pytest.raises(CheckpointError, match=r"efficientnet_lite0, tf_efficientnet_lite0 of timm fit"):
        timm_model(state, "pytorch_model.bin", efficientnet=False)
    assert (
        timm_model(state, "tf_efficientnet_lite0-0aa007d2.pth", efficientnet=False) == "tf_efficientnet_lite0"
    )


def test_timms_statistics() -> None:
    assert pixels("tf_efficientnet_lite0") == ((127.5,) * 3, (127.5,) * 3)
    assert pixels("resnet50")[0] == pytest.approx((123.675, 116.28, 103.53))


def test_convert_writes_what_the_backbone_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = timm.create_model("convnext_atto", num_classes=5)
    source, out = tmp_path / "convnext_atto.a1.safetensors", tmp_path / "ours.pth"
    pytest.importorskip("safetensors.torch").save_model(model, str(source))
    assert main(["convert", str(source), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "in the names of timm" in printed and "type: timm" in printed and "name: convnext_atto" in printed
    for file in (source, out):
        built = TimmConfig(name="convnext_atto", weights=file, outputs=("c2", "c3")).build()
        assert built.net.stem_0.weight.equal(model.stem[0].weight)


#: Objects of COCO's pictures, by annotation id, that ImageNet has a class for: a word of its name.
OBJECTS = {
    332341: "refrigerator",
    1058001: "broccoli",
    1070826: "pizza",
    586905: "bear",
    1096069: "toilet",
    582214: "elephant",
    583683: "elephant",
    167841: "bus",
}
#: ImageNet's words for the last.
BUSES = ("minibus", "trolleybus", "school bus")


def crops(coco: Path) -> dict[int, Tensor]:
    """Each object with a tenth around it, [3, 224, 224] in 0..255."""
    content = json.loads((coco / "annotations" / "instances_val2017.json").read_text())
    files = {image["id"]: image["file_name"] for image in content["images"]}
    found = {}
    for annotation in content["annotations"]:
        if annotation["id"] in OBJECTS:
            pixels = read_image(coco / "val2017" / files[annotation["image_id"]])
            x, y, w, h = annotation["bbox"]
            half = 1.1 * max(w, h) / 2
            top, left = int(max(y + h / 2 - half, 0)), int(max(x + w / 2 - half, 0))
            part = pixels[top : int(y + h / 2 + half), left : int(x + w / 2 + half)]
            tensor = torch.from_numpy(part.copy()).permute(2, 0, 1)[None].float()
            found[annotation["id"]] = F.interpolate(tensor, (224, 224), mode="bilinear", antialias=True)[0]
    return found


def test_real_weights_name_the_objects_of_real_pictures(
    shared_data: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = next(shared_data("weights").glob("efficientnet-lite0-*.pth"), None)
    if file is None:
        pytest.skip("no weights of EfficientNet-Lite0")
    images = crops(shared_data("coco"))
    assert main(["convert", str(file), str(tmp_path / "ours.pth")]) == 0
    assert "mean: [127.5, 127.5, 127.5], std: [127.5, 127.5, 127.5]" in capsys.readouterr().out
    model: nn.Module = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(torch.load(tmp_path / "ours.pth", weights_only=True))
    names = timm.data.ImageNetInfo()

    def best(config: PreprocessConfig) -> dict[int, tuple[str, float]]:
        batch = config.build(channels_last=False)(list(images.values())).tensor
        with torch.inference_mode():
            scores, labels = model(batch).softmax(dim=1).max(dim=1)
        words = [names.index_to_description(int(label)).lower() for label in labels]
        return dict(zip(images, zip(words, scores.tolist(), strict=True), strict=True))

    half = (127.5, 127.5, 127.5)
    right = best(PreprocessConfig(mean=half, std=half))
    for annotation, word in OBJECTS.items():
        found = right[annotation][0]
        assert any(w in found for w in (BUSES if word == "bus" else (word,))), (annotation, found)
    # What the statistics are worth: the elephant, with and without.
    elephant, default = 583683, best(PreprocessConfig())
    assert right[elephant][1] > 0.9 > 0.6 > default[elephant][1]


def test_the_backbone_takes_the_real_file_as_it_is(shared_data: Callable[[str], Path]) -> None:
    file = next(shared_data("weights").glob("efficientnet-lite0-*.pth"), None)
    if file is None:
        pytest.skip("no weights of EfficientNet-Lite0")
    state = torch.load(file, weights_only=True)
    built = TimmConfig(name="tf_efficientnet_lite0", weights=file).build()
    own = built.net.state_dict()
    assert own["blocks.6.0.bn3.weight"].equal(state["_blocks.15._bn2.weight"])
    with pytest.raises(
        CheckpointError, match=r"do not fit timm's tf_efficientnet_lite1.*model.backbone.name"
    ):
        TimmConfig(name="tf_efficientnet_lite1", weights=file).build()
