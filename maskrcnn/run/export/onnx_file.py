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
from maskrcnn.inference.paste import Paste
from maskrcnn.layers.onnx import translation_table
from maskrcnn.layers.other_operators import RoIPool
from maskrcnn.layers.roi_align import RoIAlign
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.modeling.roi.pooler import Pooler
from maskrcnn.run.export import onnx_keypoints, onnx_parts
from maskrcnn.run.export.needed import needed
from maskrcnn.run.export.network import INPUTS, trace
from maskrcnn.run.export.onnx_pastes import PASTING_WAYS
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
    key = "data.contrast" if recipe.data.reading.contrast is not None else "sixteen_bit: keep"
    if key == "data.contrast" or predictor.sixteen_bit == "keep":
        raise UserError(
            f"{key} makes fractions of the values of deeper files, and an ONNX file takes bytes, 0 to 255;"
            " export with --to torch, which takes images that are read and normalised"
        )
    if "paste" not in without and recipe.eval.clean is not None and recipe.model.mask_head is not None:
        raise UserError(
            "eval.clean looks for the parts of a mask, for which ONNX has no operator; export with --set"
            " eval.clean=null, or --without paste"
        )
    transforms = recipe.data.eval_transforms
    return onnx_model(predictor.model, transforms, without, metadata, paste=recipe.eval.paste)


def onnx_model(
    model: MaskRCNN,
    transforms: Sequence[object],
    without: Collection[str],
    metadata: Mapping[str, str],
    *,
    paste: Paste = "aligned",
) -> Any:
    """The ``onnx.ModelProto`` of a model, float32 on the CPU; see :mod:`maskrcnn.run.export.onnx_parts`.

    Args:
        transforms: of the evaluation.
        without: of what is leavable.
        metadata: written into the file.
        paste: see ``inference.paste``.

    Raises:
        UserError: the packages are missing, or the model has a part without a form in ONNX.
    """
    onnx = needed("onnx")
    needed("onnxscript")
    parse = needed("onnx.parser").parse_model
    check_operators(model)
    parts = onnx_parts.before(transforms, model.preprocess, resize="resize" not in without)
    traced, told = trace(model)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        written = torch.onnx.export(
            traced,
            (),
            dynamo=True,
            opset_version=onnx_parts.OPSET,
            custom_translation_table=translation_table() | onnx_keypoints.translation(),
            input_names=INPUTS,
            output_names=onnx_parts.network_names(told),
            verbose=False,
        )
    assert written is not None
    network = written.model_proto
    detections = network.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    way = None if "paste" in without else PASTING_WAYS[paste]
    last = parse(onnx_parts.behind(told, detections, paste=way))
    whole = _joined(onnx, parse(parts), network, last, onnx_parts.told_names(told))
    onnx.helper.set_model_props(whole, dict(metadata))
    onnx.checker.check_model(whole, full_check=True)
    return whole


def _joined(onnx: Any, first: Any, network: Any, last: Any, names: Mapping[str, str]) -> Any:
    """The three graphs as one: what one gives is called as the next calls it, and in the end by ``names``."""
    graph = onnx.GraphProto(name="maskrcnn")
    for part, prefix in ((first, "before/"), (network, "network/"), (last, "behind/")):
        # Of numbers that lie outside a graph within the graph it would not know the new names.
        known = {tensor.name: prefix + tensor.name for tensor in part.graph.initializer}
        renamed = onnx.compose.add_prefix_graph(
            part.graph, prefix, rename_inputs=False, rename_outputs=False, name_map=known
        )
        graph.node.extend(renamed.node)
        graph.initializer.extend(renamed.initializer)
    graph.input.extend(first.graph.input)
    graph.output.extend(last.graph.output)
    for output in graph.output:
        output.name = names.get(output.name, output.name)
    for node in graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
    whole = onnx.helper.make_model(graph, opset_imports=first.opset_import, ir_version=first.ir_version)
    whole.producer_name, whole.producer_version = "maskrcnn", __version__
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
