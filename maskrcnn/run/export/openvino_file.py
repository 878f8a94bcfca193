"""``--to openvino``: OpenVINO's ``.xml`` with its ``.bin``, converted from our ONNX."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from maskrcnn.files import take_place, write_bytes
from maskrcnn.run.export.needed import needed
from maskrcnn.run.export.onnx_file import OnnxWriter, made
from maskrcnn.run.export.running import OpenVinoRunner, Runner
from maskrcnn.run.export.writing import WRITERS
from maskrcnn.run.predictor import Predictor


@WRITERS.register("openvino")
class OpenVinoWriter:
    """Two files, for Intel's and other CPUs."""

    suffix = ".xml"
    leavable = OnnxWriter.leavable
    packages: tuple[str, ...] = ("onnx", "onnxscript", "openvino")

    def write(
        self, predictor: Predictor, file: Path, without: Collection[str], metadata: Mapping[str, str]
    ) -> None:
        """See :class:`Writer`."""
        openvino = needed("openvino")
        with TemporaryDirectory() as folder:
            source = Path(folder) / "model.onnx"
            write_bytes(source, made(predictor, without, metadata).SerializeToString())
            model = openvino.convert_model(source)
            for name, value in metadata.items():
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
