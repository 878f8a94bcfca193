"""How a user writes an RoI operator with its options on a command line."""

from __future__ import annotations

from typing import Any

from maskrcnn.config.construct import build
from maskrcnn.config.nodes import Origin, Problems, Scalar
from maskrcnn.config.registry import did_you_mean
from maskrcnn.config.schema import Choice, Leaf, Spec, fields_of
from maskrcnn.config.text import format_plain, parse_plain
from maskrcnn.errors import UserError
from maskrcnn.layers.operator import ROI_OPS, RoIOperator

#: The largest values that are taken: more samples make no other picture.
_MOST = {"sampling_ratio": 32, "seed": 2**32 - 1}


def parse_op(text: str) -> RoIOperator:
    """Read ``roi_align`` or ``roi_pool:rounding=floor,bins=truncate``: any registered operator.

    Raises:
        UserError: no such operator, option or value, or an operator that does not tell what it reads.
    """
    name, _, rest = text.partition(":")
    if name not in ROI_OPS.names():
        known = did_you_mean(name, ROI_OPS.names())
        raise UserError(
            f"--ops {text}: there is no RoI operator {name!r}.{known}. If it is your own, name its module"
            " with --plugins"
        )
    cls: Any = ROI_OPS.get(name)
    if not issubclass(cls, RoIOperator) or not cls.tells_geometry():
        raise UserError(
            f"--ops {text}: {name} does not tell what it reads, so it cannot be explained; give its class"
            f" {cls.__qualname__} the method axis of maskrcnn.layers.RoIOperator"
        )
    fields = fields_of(cls)
    values: dict[str, object] = {}
    for part in filter(None, rest.split(",")):
        option, equals, value = part.partition("=")
        if (name, option) == ("roi_align_legacy", "pooled") and value in ("true", "false"):
            option, value = "pooling", "avg" if value == "true" else "none"
        if option not in fields:
            has = f"it has {', '.join(fields)}" if fields else "it has none"
            raise UserError(f"{text}: {name} has no option {option!r}; {has}")
        if not equals:
            raise UserError(f"{text}: write {option}=VALUE")
        values[option] = _value(text, option, value, fields[option].spec)
    missing = [key for key, field in fields.items() if field.required and key not in values]
    if missing:
        raise UserError(f"--ops {text}: {name} needs {missing[0]}; write {name}:{missing[0]}=VALUE")
    try:
        op: RoIOperator = cls(**values)
        return op
    except ValueError as e:
        raise UserError(f"{text}: {e}") from None


def _value(text: str, option: str, value: str, spec: Spec) -> object:
    if spec == Leaf(bool):
        spec = Choice((True, False))
    if isinstance(spec, Choice):
        words = [format_plain(v) for v in spec.values]
        if value not in words:
            raise UserError(f"{text}: {option} is one of {', '.join(words)}, not {value!r}")
        return spec.values[words.index(value)]
    problems = Problems()
    found = build(spec, Scalar(parse_plain(value), value, Origin(text)), option, problems)
    most = _MOST.get(option)
    if (
        most is not None
        and isinstance(spec, Leaf)
        and spec.kind is int
        and (problems or not 0 <= found <= most)
    ):
        raise UserError(f"{text}: {option} is a whole number from 0 to {most}, not {value!r}")
    problems.raise_if_any()
    return found
