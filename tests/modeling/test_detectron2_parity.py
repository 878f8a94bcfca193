"""Our model computes what Detectron2 computed: its numbers for small seeded models lie in reference/.

benchmarks/parity/detectron2.py made them (each file holds the command), and compares directly at any size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.parity import seeded
from maskrcnn.convert.detector import convert
from maskrcnn.convert.detectron2 import SOURCE
from maskrcnn.convert.source import File

REFERENCE = Path(__file__).parent / "reference"
NAMES = ("fpn", "c4", "dc5", "cascade")


@pytest.fixture
def float64() -> Iterator[None]:
    """As the script has it: the pixel statistics are float64, too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", NAMES)
def test_the_same_function_as_detectron2(name: str) -> None:
    wanted: dict[str, Any] = json.loads((REFERENCE / f"{name}.json").read_text())
    assert "benchmarks/parity/detectron2.py" in wanted["command"]
    result = convert(File(seeded.weights(wanted["shapes"])), SOURCE)
    config = result.model
    for part, key, value in wanted["fewer"]:
        config = replace(config, **{part: replace(getattr(config, part), **{key: value})})
    model = config.build(result.num_classes).double()
    model.load_state_dict(result.state)
    model.eval()
    height, width = wanted["size"]
    batch = model.preprocess([seeded.image(height, width)])
    assert model.rpn is not None
    with torch.no_grad():
        proposals, _ = model.rpn(batch, model.features(batch.tensor))
        found = model.predict_batch(batch)[0]
    for key, ours in (("proposals", proposals[0]), ("boxes", found.boxes), ("scores", found.scores)):
        theirs = torch.tensor(wanted[key], dtype=torch.float64)
        assert len(theirs) >= 10
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6, msg=key)
    assert found.labels.tolist() == wanted["labels"]
    assert found.mask_probs is not None
    masks = [[m.sum().item(), m.square().sum().item(), m[3, 5].item()] for m in found.mask_probs]
    assert torch.tensor(masks).sub(torch.tensor(wanted["masks"])).abs().max() <= 1e-4
    model.train()
    model.rpn.sampler = model.roi.sampler = lambda labels, count, fraction, keys: seeded.first(
        labels, count, fraction
    )
    losses = model.losses_of_batch(batch, [seeded.truth(height, width, model.num_classes)])
    assert sorted(value.item() for value in losses.values()) == pytest.approx(
        sorted(wanted["losses"].values()), rel=1e-9, abs=1e-9
    )
    torch.stack(list(losses.values())).sum().backward()
    parameters = dict(model.named_parameters())
    assert len(wanted["gradients"]) >= 3
    for key, (norm, total) in wanted["gradients"].items():
        gradient = parameters[key].grad
        assert gradient is not None
        assert abs(gradient.norm().item() - norm) <= 1e-7 * norm, key
        assert abs(gradient.sum().item() - total) <= 1e-6 * norm, key
