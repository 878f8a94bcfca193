"""Heat maps decoded by standard operators, beside our own decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskrcnn.modeling.roi.keypoint_decode import decode_keypoints, decode_traced
from maskrcnn.run.export.onnx_keypoints import translation

pytest.importorskip("onnxscript", reason="the package onnxscript is not installed")


class Decoding(nn.Module):
    def __init__(self, probability: bool) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, maps: Tensor, boxes: Tensor) -> Tensor:
        return decode_traced(maps, boxes, self.probability)


def exported(probability: bool, joints: int, side: int) -> Any:
    maps, boxes = torch.zeros(3, joints, side, side), torch.tensor([[0.0, 0, 9, 9]]).repeat(3, 1)
    rows = torch.export.Dim("rows", min=1, max=1000)
    program = torch.export.export(
        Decoding(probability), (maps, boxes), dynamic_shapes=({0: rows}, {0: rows}), strict=False
    )
    table = translation()
    options: dict[str, Any] = {"dynamo": True, "opset_version": 18, "verbose": False}
    names: dict[str, Any] = {"input_names": ["maps", "boxes"], "output_names": ["points"]}
    written = torch.onnx.export(program, (), custom_translation_table=table, **options, **names)
    assert written is not None
    return written.model_proto


def examples(joints: int, side: int) -> tuple[Tensor, Tensor]:
    """Smooth maps, over boxes from nothing to 300 px, one of them an empty row's."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(40, joints, side, side, generator=generator)
    low = torch.rand(40, 2, generator=generator) * 50
    sides = 300 * torch.rand(40, 2, generator=generator) ** 3
    sides[0], sides[1], low[1] = 0.0, 1.0, 0.0
    maps = 8 * torch.nn.functional.avg_pool2d(noise, 3, 1, 1)
    return maps, torch.cat((low, low + sides), dim=1)


@pytest.mark.parametrize("probability", [False, True])
def test_places_and_scores_are_ours(probability: bool, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    model = exported(probability, 5, 24)
    onnx.checker.check_model(model, full_check=True)
    inside = [node for outer in model.graph.node for part in outer.attribute for node in part.g.node]
    assert {node.domain for node in (*model.graph.node, *inside)} == {""}
    maps, boxes = examples(5, 24)
    wanted = decode_keypoints(maps, boxes, "probability" if probability else "logit").numpy()
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {"maps": maps.numpy(), "boxes": boxes.numpy()}
    (found,) = session.run(None, given)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)

    openvino = pytest.importorskip("openvino", reason="the package openvino is not installed")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(tmp_path / "model.onnx", "CPU", hint)
    np.testing.assert_allclose(compiled(given)[0], wanted, rtol=1e-5, atol=1e-4)
