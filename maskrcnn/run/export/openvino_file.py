"""``--to openvino``: OpenVINO's ``.xml`` with its ``.bin``, converted from our ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from maskrcnn.files import take_place, write_bytes
from maskrcnn.run.export.dense import in_bfloat16
from maskrcnn.run.export.int8 import in_int8
from maskrcnn.run.export.needed import needed
from maskrcnn.run.export.onnx_file import OnnxWriter, made
from maskrcnn.run.export.running import Array, OpenVinoRunner, Runner
from maskrcnn.run.export.writing import WRITERS, Order
from maskrcnn.run.predictor import Predictor


@WRITERS.register("openvino")
class OpenVinoWriter:
    """Two files, for Intel's and other CPUs."""

    suffix = ".xml"
    leavable = OnnxWriter.leavable
    precisions: tuple[str, ...] = ("float32", "bfloat16", "int8")
    packages: Mapping[str, tuple[str, ...]] = {"": ("onnx", "onnxscript", "openvino"), "int8": ("nncf",)}

    def write(self, predictor: Predictor, file: Path, order: Order) -> None:
        """See :class:`Writer`."""
        openvino = needed("openvino")
        with TemporaryDirectory() as folder:
            source = Path(folder) / "model.onnx"
            write_bytes(source, made(predictor, order.without, order.metadata).SerializeToString())
            model = converted(source, order.precision, order.samples)
            for name, value in order.metadata.items():
                model.set_rt_info(value, ["maskrcnn", name])
            whole = Path(folder) / "model.xml"
            openvino.save_model(model, whole, compress_to_fp16=False)
            write_bytes(file.with_suffix(".bin"), whole.with_suffix(".bin").read_bytes())
            write_bytes(file, whole.read_bytes())

    def runner(self, predictor: Predictor, file: Path) -> Runner:
        """OpenVINO."""
        return OpenVinoRunner(file)

    def rename(self, file: Path, output: Path) -> None:
        """See :class:`Writer`."""
        take_place(file.with_suffix(".bin"), output.with_suffix(".bin"))
        take_place(file, output)


def converted(source: Path, precision: str, samples: Callable[[], Sequence[Array]]) -> Any:
    """An ONNX file as OpenVINO's model in a precision of the writer; ``samples`` as of :class:`Order`.

    Its masks are uint8, 0 or 1: its bool is stored so, and turned into another byte by byte on one core.
    """
    openvino = needed("openvino")
    model = openvino.convert_model(source)
    _smooth(model)
    if precision == "bfloat16":
        model = in_bfloat16(model)
    if precision == "int8":
        model = in_int8(model, samples())
    last = openvino.preprocess.PrePostProcessor(model)
    for output in model.outputs:
        if output.get_element_type() == openvino.Type.boolean:
            last.output(output.get_any_name()).tensor().set_element_type(openvino.Type.u8)
    return last.build()


def _smooth(model: Any) -> None:
    """Smooth shrinking as PIL has it in place of ONNX's, which OpenVINO computes unsmoothed on CPUs."""
    from openvino import opset13 as op

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Interpolate" or not node.get_attributes()["antialias"]:
            continue
        image, size = node.input_value(0), node.input_value(1)
        axes = op.constant([2, 3], dtype="int64")
        size = op.gather(size, axes, op.constant(0, dtype="int64"))
        drawn = op.interpolate(image, size, mode="bilinear_pillow", shape_calculation_mode="sizes", axes=axes)
        node.output(0).replace(drawn.output(0))
