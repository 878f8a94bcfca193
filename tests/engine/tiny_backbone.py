"""A backbone of four convolutions: a plugin, as a user would write one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from maskrcnn.modeling.interfaces import BACKBONES, Backbone


class TinyBackbone(Backbone):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = {f"c{i}": width for i in range(2, 6)}
        self.strides = {f"c{i}": 2**i for i in range(2, 6)}
        self.stem = nn.Conv2d(3, width, 4, 4)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.GroupNorm(2, width)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out = {"c2": self.stem(x).relu()}
        for i, stage in enumerate(self.stages):
            out[f"c{i + 3}"] = stage(out[f"c{i + 2}"]).relu()
        return out


@BACKBONES.register("tiny_for_tests")
@dataclass(frozen=True, kw_only=True)
class TinyBackboneConfig:
    width: int = 8

    def build(self) -> TinyBackbone:
        return TinyBackbone(self.width)
