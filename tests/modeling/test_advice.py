"""What a sentence says to set is set, and the next sentence's, until the model can be built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maskrcnn.errors import ConfigError
from maskrcnn.recipe import load_recipe
from tests.engine.tiny import write_recipe

#: The first settings, then pairs of words of the sentence and the settings that they ask for.
CHAINS = [
    (
        ["model.roi_trunk=res5"],
        [
            ("set model.backbone.type to resnet", ["model.backbone={type: resnet, depth: 50}"]),
            ("set model.backbone.outputs to [c4]", ["model.backbone.outputs=[c4]"]),
            ("name levels from the latter", ["model.roi.levels=[p4]"]),
            (
                "set model.neck to null and model.roi.levels to [c4]",
                ["model.neck=null", "model.roi.levels=[c4]"],
            ),
            ("name levels from the latter", ["model.rpn.levels=[c4]"]),
            ("give one list of sizes a level of model.rpn.levels", ["model.rpn.anchors.sizes=[[32, 64]]"]),
            ("set model.mask_head.pool_size to 7", ["model.mask_head.pool_size=7"]),
        ],
    ),
    (["model.roi_trunk=res5"], [("or model.roi_trunk to null", ["model.roi_trunk=null"])]),
    (
        ["model.roi.cascade={}", "model.roi.positive_iou=0.6"],
        [
            ("set model.box_head.class_agnostic: true", ["model.box_head.class_agnostic=true"]),
            ("make them equal", ["model.roi.positive_iou=0.5"]),
        ],
    ),
    (
        ["model.neck=null"],
        [
            ("name levels from the latter", ["model.roi.levels=[c2]"]),
            ("name levels from the latter", ["model.rpn.levels=[c2]"]),
            ("give one list of sizes a level", ["model.rpn.anchors.sizes=[[16, 32]]"]),
        ],
    ),
    (
        ["model.roi.levels=[p9]"],
        [("model.backbone give [p2, p3", ["model.roi.levels=[p3]"])],
    ),
    (["model.roi.score_threshold=2.0"], [("must be in [0, 1]", ["model.roi.score_threshold=1.0"])]),
]


@pytest.mark.parametrize(("settings", "steps"), CHAINS)
def test_following_each_sentence_ends_in_a_model(
    tmp_path: Path, settings: list[str], steps: list[tuple[str, list[str]]]
) -> None:
    path = write_recipe(tmp_path)
    settings = list(settings)

    def build() -> None:
        recipe = load_recipe(path, settings)
        with torch.device("meta"):
            recipe.model.build(2)

    for words, advice in steps:
        with pytest.raises(ConfigError) as found:
            build()
        assert words in str(found.value)
        settings += advice
    build()
