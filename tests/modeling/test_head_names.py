"""Checkpoints know the heads' tensors by name, and an optimizer's state knows parameters by their order.

``head_names.json`` was written by the version before heads owned their poolers.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from maskrcnn.modeling.mask_rcnn import without_weights
from maskrcnn.recipe import load_recipe
from tests.rules.pages import ROOT

KINDS = json.loads(Path(__file__).with_name("head_names.json").read_text())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["recipes"][0])
def test_names_and_their_order_are_those_of_before(kind: dict[str, list[str]]) -> None:
    for recipe in kind["recipes"]:
        config = load_recipe(ROOT / "configs" / f"{recipe}.yaml").model
        with torch.device("meta"):
            model = without_weights(config).build(3)
        assert [name for name in model.state_dict() if name.startswith("roi.")] == kind["names"], recipe
