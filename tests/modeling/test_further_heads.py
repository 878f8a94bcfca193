"""Heads besides boxes, masks and keypoints: several of a kind, the shared trunk, what does not fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from torch import Tensor, nn

from maskrcnn.errors import ConfigError
from maskrcnn.modeling import MaskRCNN
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.interfaces import RoIFeatures, RoIHead
from maskrcnn.modeling.mask_rcnn import without_weights
from maskrcnn.modeling.roi.box_head import LinearBoxHeadConfig
from maskrcnn.modeling.roi.roi_heads import RoIHeadsConfig
from maskrcnn.modeling.roi.rois import DetectedRoIs, SampledRoIs
from maskrcnn.modeling.roi.trunk import Res5TrunkConfig
from maskrcnn.modeling.rpn.anchors import AnchorConfig
from maskrcnn.run.flops import count_cost
from tests.modeling import tiny

BOXES = [[10.0, 12.0, 60.0, 50.0], [70.0, 20.0, 110.0, 90.0]]


class SizeHead(RoIHead):
    """Width and height of the object; keeps what it read."""

    def __init__(self, channels: int, pool_size: int, loss: str) -> None:
        super().__init__()
        self.pool_size = pool_size
        self.loss = loss
        self.size = nn.Linear(channels, 2)
        self.seen: list[Tensor] = []

    def forward(self, pooled: Tensor) -> Tensor:
        self.seen.append(pooled)
        found: Tensor = self.size(pooled.mean(dim=(2, 3)))
        return found

    def losses(self, features: RoIFeatures, rois: SampledRoIs) -> dict[str, Tensor]:
        rois = rois.positive
        truth = rois.true_boxes
        wrong = self(features.pool(self.pooler, rois)) - (truth[:, 2:] - truth[:, :2]) / 100
        return {self.loss or f"loss_{self.name}": rois.mean(wrong.square())}

    def predict(self, features: RoIFeatures, rois: DetectedRoIs) -> Tensor:
        found: Tensor = self(features.pool(self.pooler, rois))
        return found


@dataclass(frozen=True)
class SizeHeadConfig:
    pool_size: int = 7
    loss: str = ""
    weights: Path | None = None

    def build(self, channels: int, num_classes: int) -> SizeHead:
        return SizeHead(channels, self.pool_size, self.loss)


def size_head(model: MaskRCNN, name: str) -> SizeHead:
    head = model.roi.heads[name]
    assert isinstance(head, SizeHead)
    return head


def test_two_heads_of_a_kind_do_not_clash() -> None:
    model = tiny.detecting(heads={"coarse": SizeHeadConfig(pool_size=3), "fine": SizeHeadConfig()})
    assert [*model.roi.heads] == ["mask_head", "coarse", "fine"]
    losses = model.losses(tiny.images(), tiny.targets(BOXES, []), tiny.seeds())
    losses["loss_coarse"].backward()
    assert losses["loss_fine"] > 0
    assert size_head(model, "coarse").size.weight.grad is not None
    assert size_head(model, "fine").size.weight.grad is None
    assert [size_head(model, name).seen[0].shape[2] for name in ("coarse", "fine")] == [3, 7]
    for found in model.predict(tiny.images()):
        assert len(found) > 0 and found.mask_probs is not None
        assert [tuple(v.shape) for v in found.extras.values()] == [(len(found), 2)] * 2
        assert not found.extras["coarse"].equal(found.extras["fine"])


@pytest.mark.parametrize("boxes", [[], BOXES])
def test_a_trunk_is_shared_and_run_once_in_training(boxes: list[list[float]]) -> None:
    """He et al. 2017, figure 4 left: the heads read the rows of the positive RoIs among the sampled ones."""
    model = tiny.build(
        backbone=ResNetConfig(depth=18, width=8, norm="gn", freeze_at=0, outputs=("c4",)),
        neck=None,
        rpn=replace(tiny.CONFIG.rpn, levels=("c4",), anchors=AnchorConfig(sizes=((32.0, 64.0),))),  # type: ignore[type-var]
        roi=RoIHeadsConfig(levels=("c4",), samples=32, score_threshold=0.0, max_detections=5),
        roi_trunk=Res5TrunkConfig(),
        box_head=LinearBoxHeadConfig(),
        mask_head=None,
        heads={"size": SizeHeadConfig()},
    )
    assert model.roi.trunk is not None
    out: list[Tensor] = []
    model.roi.trunk.register_forward_hook(lambda _module, _inputs, pooled: out.append(pooled))
    model.losses(tiny.images(), tiny.targets(boxes, []), tiny.seeds())["loss_size"].backward()
    head = size_head(model, "size")
    (pooled,), (rows,) = out, head.seen
    positive = rows.shape[0]
    assert (positive > 0) == bool(boxes) and rows.equal(pooled[:positive])  # the first image's come first
    assert all(p.grad is not None for p in (*head.parameters(), *model.roi.trunk.parameters()))
    found = model.predict(tiny.images())
    assert len(out) == 3  # once for the proposals, once for the detections
    assert sum(map(len, found)) == len(out[-1]) == len(head.seen[-1]) > 0


def test_what_does_not_fit_is_told() -> None:
    model = tiny.build(heads={"size": SizeHeadConfig(loss="loss_mask")})
    with pytest.raises(ValueError, match=r"the head size calls a loss as another head does: \['loss_mask'\]"):
        model.losses(tiny.images(), tiny.targets(BOXES, []), tiny.seeds())
    backbone = ResNetConfig(depth=18, width=8, norm="gn", freeze_at=0, outputs=("c4",))
    with pytest.raises(ConfigError, match=r"model\.heads\.size\.pool_size is 9.* set .* to 7"):
        tiny.build(
            backbone=backbone,
            neck=None,
            rpn=None,
            roi=RoIHeadsConfig(levels=("c4",)),
            roi_trunk=Res5TrunkConfig(),
            box_head=LinearBoxHeadConfig(),
            mask_head=None,
            heads={"size": SizeHeadConfig(pool_size=9)},
        )


def test_its_weight_files_and_its_cost_are_known() -> None:
    config = replace(tiny.CONFIG, heads={"size": SizeHeadConfig(weights=Path("none.pt"))})
    assert without_weights(config).heads == {"size": SizeHeadConfig()}
    with_head, without = (count_cost(c, 3, (64, 96), 0, 10) for c in (config, tiny.CONFIG))
    assert with_head.flops - without.flops == 10 * 16 * 2
    assert with_head.parameters - without.parameters == 16 * 2 + 2
