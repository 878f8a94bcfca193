"""Which part of an OpenVINO model is layers with weights, and that part in bfloat16.

All else, coordinates above all, stays in float32: OpenVINO's own hint of a precision rounds boxes and the
positions of masks' pixels, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from maskrcnn.run.export.needed import needed

#: Operators whose second input holds weights.
_WEIGHED = (
    *("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData"),
    "MatMul",
)
#: Operators between them that are computed number by number, or choose among neighbours.
_BETWEEN = frozenset(
    {
        *("Add", "Subtract", "Multiply", "MaxPool", "AvgPool", "Interpolate"),
        *("Relu", "PRelu", "Elu", "Clamp", "Sigmoid", "Swish", "HSwish", "Mish", "HSigmoid", "Gelu"),
    }
)
#: Operators that carry features on, besides.
_CARRYING = _BETWEEN | {"Reshape", "Transpose", "ROIAlign", "ROIPooling", "ScatterNDUpdate"}


def _weighed(node: Any) -> bool:
    if node.get_type_name() not in _WEIGHED or not node.get_friendly_name().startswith("network/"):
        return False
    return bool(node.input_value(1).get_node().get_type_name() == "Constant")


def _computed(node: Any) -> bool:
    """Whether it is a product with what is no constant, as the weights of each RoI's own class."""
    return (
        node.get_type_name() == "MatMul"
        and node.get_friendly_name().startswith("network/")
        and bool(node.input_value(1).get_node().get_type_name() != "Constant")
    )


def _users(node: Any) -> list[Any]:
    return [target.get_node() for output in node.outputs() for target in output.get_target_inputs()]


def last_layers(model: Any) -> list[str]:
    """Names of the layers behind which none comes: those that give scores, deltas and masks."""
    ahead: set[str] = set()
    last = []
    for node in reversed(model.get_ordered_ops()):
        name = node.get_friendly_name()
        leads = any(user.get_friendly_name() in ahead for user in _users(node))
        if _weighed(node):
            ahead.add(name)
            last += [] if leads else [name]
        elif _computed(node) or (leads and node.get_type_name() in _CARRYING):
            ahead.add(name)
    return last


def dense_part(model: Any) -> set[str]:
    """Names of the layers with weights and of what lies between two of them."""
    nodes, behind, part = model.get_ordered_ops(), set(), set()
    for node in nodes:
        fed = any(value.get_node().get_friendly_name() in behind for value in node.input_values())
        floating = node.get_output_size() == 1 and node.get_output_element_type(0).get_type_name() == "f32"
        if _weighed(node) or (fed and floating and node.get_type_name() in _BETWEEN):
            behind.add(node.get_friendly_name())
    for node in reversed(nodes):
        name = node.get_friendly_name()
        if _weighed(node) or (name in behind and any(u.get_friendly_name() in part for u in _users(node))):
            part.add(name)
    return part


def leads_to_depthwise(model: Any) -> set[str]:
    """Names of the dense part up to its last convolution that has a map of its own for each channel.

    Between such layers channels differ in range by orders of magnitude, for which 8 bits are too few.
    """
    part, ahead = dense_part(model), set()
    for node in reversed(model.get_ordered_ops()):
        name = node.get_friendly_name()
        grouped = node.get_type_name() == "GroupConvolution"
        depthwise = grouped and node.input_value(1).get_shape()[2] == 1  # [groups, out, in, kh, kw]
        if name in part and (depthwise or any(user.get_friendly_name() in ahead for user in _users(node))):
            ahead.add(name)
    return ahead


def in_bfloat16(model: Any, part: set[str] | None = None) -> Any:
    """The model, changed: its dense part computes in bfloat16, and so are its weights, half as large.

    Args:
        part: names, in place of all of the dense part.
    """
    openvino = needed("openvino")
    convert: Callable[..., Any] = needed("openvino.opset13").convert
    half = openvino.Type.bf16
    part = dense_part(model) if part is None else part
    nodes = [node for node in model.get_ordered_ops() if node.get_friendly_name() in part]
    made: dict[tuple[str, int], Any] = {}
    for node in nodes:
        for port in node.inputs():
            value = port.get_source_output()
            source = value.get_node()
            name = source.get_friendly_name()
            if name in part or value.get_element_type() != openvino.Type.f32:
                continue
            if (name, value.get_index()) not in made:
                if source.get_type_name() == "Constant":
                    numbers = source.data.flatten().tolist()
                    changed = openvino.op.Constant(half, source.get_output_shape(0), numbers)
                else:
                    changed = convert(value, "bf16")
                made[name, value.get_index()] = changed.output(0)
            port.replace_source_output(made[name, value.get_index()])
    for node in nodes:
        out = [
            target
            for target in node.output(0).get_target_inputs()
            if target.get_node().get_friendly_name() not in part
            and target.get_node().get_type_name() != "ShapeOf"
        ]
        if out:
            back = convert(node.output(0), "f32").output(0)
            for target in out:
                target.replace_source_output(back)
    model.validate_nodes_and_infer_types()
    return model
