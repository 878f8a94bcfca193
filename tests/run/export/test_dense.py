from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maskrcnn.run.export.dense import dense_part, in_bfloat16, last_layers
from maskrcnn.run.export.int8 import in_int8

openvino = pytest.importorskip("openvino", reason="the package openvino is not installed")
FLOAT, HALF = openvino.Type.f32, openvino.Type.bf16


def small_model() -> Any:
    """Two convolutions with a sum and a ReLU behind each, a third for scores, then a coordinate."""
    ops = __import__("openvino.opset13", fromlist=["parameter"])
    rng = np.random.default_rng(0)
    image = ops.parameter([1, 16, 16, 3], np.uint8, name="image")
    pixels = ops.convert(image, "f32", name="before/pixels")
    value = ops.transpose(pixels, np.array([0, 3, 1, 2]), name="before/planes")
    for index, (outputs, inputs) in enumerate(((8, 3), (8, 8), (2, 8))):
        weights = rng.normal(size=(outputs, inputs, 3, 3), scale=0.02).astype(np.float32)
        name = f"network/conv{index}"
        value = ops.convolution(value, weights, [1, 1], [1, 1], [1, 1], [1, 1], name=name)
        bias = ops.constant(rng.normal(size=(1, outputs, 1, 1)).astype(np.float32))
        value = ops.add(value, bias, name=f"network/sum{index}")
        if index < 2:
            value = ops.relu(value, name=f"network/relu{index}")
    moved = ops.multiply(value, np.float32(1000.0), name="network/moved")
    away = ops.add(moved, np.float32(1.0), name="network/away")
    result = ops.result(away, name="boxes")
    return openvino.Model([result], [image], "small")


def run(model: Any, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    found: np.ndarray[Any, Any] = openvino.Core().compile_model(model, "CPU", hint)({"image": image})[0]
    return found


def images(count: int) -> list[np.ndarray[Any, Any]]:
    return list(np.random.default_rng(1).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8))


def types(model: Any) -> dict[str, Any]:
    return {op.get_friendly_name(): op.get_output_element_type(0) for op in model.get_ordered_ops()}


def test_the_dense_part_lies_between_layers_and_ends_with_the_last() -> None:
    model = small_model()
    between = {f"network/{kind}{i}" for kind in ("conv", "sum", "relu") for i in (0, 1)}
    assert dense_part(model) == between | {"network/conv2"}
    assert last_layers(model) == ["network/conv2"]


def test_a_product_with_weights_of_each_row_is_a_last_layer_too() -> None:
    ops = __import__("openvino.opset13", fromlist=["parameter"])
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> Any:
        return ops.constant(rng.normal(size=shape).astype(np.float32))

    cells = ops.parameter([-1, 8], np.float32, name="cells")
    labels = ops.parameter([-1], np.int64, name="labels")
    below = ops.matmul(cells, weights(8, 16), False, False, name="network/below")
    wide = ops.matmul(ops.relu(below), weights(16, 32), False, False, name="network/wide")
    pixels = ops.reshape(ops.relu(wide), np.array([0, 4, 8]), special_zero=True)
    own = ops.unsqueeze(ops.gather(weights(3, 8), labels, np.int64(0)), np.int64(2))
    product = ops.matmul(pixels, own, False, False, name="network/own")
    model = openvino.Model([ops.result(product)], [cells, labels], "masks")
    assert last_layers(model) == []
    assert {"network/below", "network/wide"} <= dense_part(model)


def test_bfloat16_is_of_the_dense_part_alone() -> None:
    image = images(1)[0][None]
    before = run(small_model(), image)
    model = in_bfloat16(small_model())
    found = types(model)
    assert {found[name] for name in dense_part(small_model())} == {HALF}
    assert {found[name] for name in ("before/planes", "network/moved", "network/away")} == {FLOAT}
    weights = [
        op for op in model.get_ordered_ops() if op.get_type_name() == "Constant" and len(op.shape) == 4
    ]
    assert {w.get_output_element_type(0) for w in weights if w.shape[-1] == 3} == {HALF}
    off = np.abs(run(model, image) - before).max() / before.std()
    assert 0 < off < 0.05


def test_int8_is_of_the_dense_part_without_the_last_layers() -> None:
    pytest.importorskip("nncf", reason="the package nncf is not installed")
    before = run(small_model(), images(1)[0][None])
    model = in_int8(small_model(), images(8))
    rounded = {
        target.get_node().get_friendly_name()
        for op in model.get_ordered_ops()
        if op.get_type_name() == "FakeQuantize"
        for target in op.output(0).get_target_inputs()
    }
    assert {"network/conv0", "network/conv1"} <= rounded
    assert not rounded & {"network/conv2", "network/moved", "network/away"}
    off = np.abs(run(model, images(1)[0][None]) - before).max() / before.std()
    assert 0 < off < 0.2
