"""Pieces of an exported file in the runtimes that it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maskrcnn.run.export.openvino_file import converted


def session(text: str) -> Any:
    """Of onnxruntime, of a model in ONNX's notation."""
    onnx: Any = pytest.importorskip("onnx", reason="the package onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
    from onnx import parser

    model = parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def given_by(runtime: str, folder: Path, text: str, feed: dict[str, Any]) -> list[Any]:
    """What a model in ONNX's notation gives, in onnxruntime or turned into OpenVINO's."""
    pytest.importorskip("onnx", reason="the package onnx is not installed")
    if runtime == "onnxruntime":
        return list(session(text).run(None, feed))
    openvino = pytest.importorskip("openvino", reason="the package openvino is not installed")
    from onnx import parser

    file = folder / "part.onnx"
    file.write_bytes(parser.parse_model(text).SerializeToString())
    model = converted(file, "float32", list)
    for output in model.outputs:
        assert output.get_any_name() != "masks" or output.get_element_type() == openvino.Type.u8
    found = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(feed)
    return [found[i] for i in range(len(model.outputs))]
