"""``--to onnx``: standard operators alone, from uint8 images to masks in the image's frame."""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from maskrcnn import __version__
from maskrcnn.errors import UserError
from maskrcnn.files import take_place, write_bytes
from maskrcnn.layers.onnx import translation_table
from maskrcnn.layers.other_operators import RoIPool
from maskrcnn.layers.roi_align import RoIAlign
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.modeling.roi.pooler import Pooler
from maskrcnn.run.export import onnx_parts
from maskrcnn.run.export.needed import needed
from maskrcnn.run.export.network import INPUTS, OUTPUTS, trace
from maskrcnn.run.export.running import OnnxRunner, Runner
from maskrcnn.run.export.writing import WRITERS, Order
from maskrcnn.run.predictor import Predictor


@WRITERS.register("onnx")
class OnnxWriter:
    """One file, for any runtime."""

    suffix = ".onnx"
    leavable: Mapping[str, str] = {
        "resize": "images come in the network frame",
        "paste": "masks are probabilities over their boxes",
    }
    precisions: tuple[str, ...] = ("float32",)
    packages: Mapping[str, tuple[str, ...]] = {"": ("onnx", "onnxscript", "onnxruntime")}

    def write(self, predictor: Predictor, file: Path, order: Order) -> None:
        """See :class:`Writer`."""
        write_bytes(file, made(predictor, order.without, order.metadata).SerializeToString())

    def runner(self, predictor: Predictor, file: Path) -> Runner:
        """onnxruntime."""
        return OnnxRunner(file)

    def rename(self, file: Path, output: Path) -> None:
        """See :class:`Writer`."""
        take_place(file, output)


def made(predictor: Predictor, without: Collection[str], metadata: Mapping[str, str]) -> Any:
    """The ``onnx.ModelProto`` of a predictor's model, as it evaluates.

    Raises:
        UserError: it has a part without a form in ONNX.
    """
    recipe = predictor.recipe
    if "paste" not in without and recipe.eval.paste != "aligned":
        raise UserError(
            f"eval.paste: {recipe.eval.paste} has no form in ONNX; export with --set eval.paste=aligned, or"
            " --without paste"
        )
    return onnx_model(predictor.model, recipe.data.eval_transforms, without, metadata)


def onnx_model(
    model: MaskRCNN, transforms: Sequence[object], without: Collection[str], metadata: Mapping[str, str]
) -> Any:
    """The ``onnx.ModelProto`` of a model, float32 on the CPU; see :mod:`maskrcnn.run.export.onnx_parts`.

    Args:
        transforms: of the evaluation.
        without: of what is leavable.
        metadata: written into the file.

    Raises:
        UserError: the packages are missing, or the model has a part without a form in ONNX.
    """
    onnx = needed("onnx")
    needed("onnxscript")
    parse = needed("onnx.parser").parse_model
    check_operators(model)
    parts = onnx_parts.before(transforms, model.preprocess, resize="resize" not in without)
    traced = trace(model)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        written = torch.onnx.export(
            traced,
            (),
            dynamo=True,
            opset_version=onnx_parts.OPSET,
            custom_translation_table=translation_table(),
            input_names=INPUTS,
            output_names=OUTPUTS[: 4 + len(model.roi.head_names)],
            verbose=False,
        )
    assert written is not None
    network = written.model_proto
    shapes = [[d.dim_value for d in out.type.tensor_type.shape.dim] for out in network.graph.output]
    masks, detections = len(shapes) > len(OUTPUTS) - 1, shapes[0][1]
    last = onnx_parts.behind(masks, shapes[-1][-1], detections, paste="paste" not in without)
    return _joined(onnx, parse(parts), network, parse(last), metadata)


def _joined(onnx: Any, first: Any, network: Any, last: Any, metadata: Mapping[str, str]) -> Any:
    """The three graphs as one, checked: what one gives is called as the next calls it."""
    graph = onnx.GraphProto(name="maskrcnn")
    for part, prefix in ((first, "before/"), (network, "network/"), (last, "behind/")):
        renamed = onnx.compose.add_prefix_graph(part.graph, prefix, rename_inputs=False, rename_outputs=False)
        graph.node.extend(renamed.node)
        graph.initializer.extend(renamed.initializer)
    graph.input.extend(first.graph.input)
    graph.output.extend(last.graph.output)
    whole = onnx.helper.make_model(graph, opset_imports=first.opset_import, ir_version=first.ir_version)
    whole.producer_name, whole.producer_version = "maskrcnn", __version__
    onnx.helper.set_model_props(whole, dict(metadata))
    onnx.checker.check_model(whole, full_check=True)
    return whole


def check_operators(model: MaskRCNN) -> None:
    """
    Raises:
        UserError: RoIs are pooled in a way that ONNX has no operator for.
    """
    for part in model.modules():
        if not isinstance(part, Pooler):
            continue
        op = part.op
        aligned = isinstance(op, RoIAlign) and op.aggregation == "avg" and op.samples == "grid"
        pooled = isinstance(op, RoIPool) and (op.rounding, op.bins) == ("round", "overlap")
        if not aligned and not pooled:
            raise UserError(
                f"this model pools RoIs by {op!r}, and ONNX has RoIAlign (averaged, on a grid) and the"
                " original RoIPool alone; export it with --to torch, which keeps our operators"
            )
