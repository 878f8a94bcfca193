"""Which RoI operator is explained, with its options; and how a user writes it on a command line."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from torch import Tensor

from maskrcnn.config.registry import did_you_mean
from maskrcnn.errors import UserError
from maskrcnn.layers import RoIAlignAvg, prroi_pool, roi_align, roi_align_legacy, roi_pool, roi_warp
from maskrcnn.layers.reference import Bins, Rounding
from maskrcnn.layers.roi_align import Samples

Kind = Literal["roi_pool", "roi_warp", "roi_align", "roi_align_legacy", "prroi_pool"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_CHOICES: dict[str, tuple[str, ...]] = {
    "rounding": get_args(Rounding),
    "bins": get_args(Bins),
    "samples": get_args(Samples),
    "aligned": ("true", "false"),
    "pooled": ("true", "false"),
}
_OPTIONS: dict[Kind, tuple[str, ...]] = {
    "roi_pool": ("rounding", "bins"),
    "roi_warp": ("sampling_ratio",),
    "roi_align": ("sampling_ratio", "aligned", "samples", "seed"),
    "roi_align_legacy": ("pooled",),
    "prroi_pool": (),
}
_NAMES: dict[Kind, str] = {
    "roi_pool": "RoIPool",
    "roi_warp": "RoIWarp",
    "roi_align": "RoIAlign",
    "roi_align_legacy": "RoIAlign (legacy)",
    "prroi_pool": "PrRoIPool",
}
#: The largest sampling ratio that is taken: more samples make no other picture.
MAX_SAMPLING_RATIO = 32


@dataclass(frozen=True)
class ExplainedOp:
    """An operator of :mod:`maskrcnn.layers` and those of its options that move bins or samples.

    Options that an operator does not have are left at their defaults and mean nothing.
    """

    kind: Kind
    #: ``roi_pool``: see :func:`maskrcnn.layers.roi_pool`.
    rounding: Rounding = "round"
    bins: Bins = "overlap"
    #: ``roi_warp``, ``roi_align``: samples a bin and axis; 0 or less = adaptive.
    sampling_ratio: int = 0
    #: ``roi_align``: the half-cell shift (true is the models' default, false torchvision's function's).
    aligned: bool = True
    samples: Samples = "grid"
    seed: int = 0
    #: ``roi_align_legacy``: bins are 2 x 2 neighbours of a grid one larger (``RoIAlignAvg``), or bare points.
    pooled: bool = True

    @property
    def label(self) -> str:
        """Name and options that are not the defaults, for people."""
        random = self.kind == "roi_align" and self.samples == "random"
        words = []
        for option in _OPTIONS[self.kind]:
            value = getattr(self, option)
            if option == "sampling_ratio":
                count = f"{value}×{value} " if value > 0 else ""
                if count or random:
                    words.append(f"{count}{'random ' if random else ''}samples")
            elif value == _DEFAULTS[option] or option == "samples" or (option == "seed" and not random):
                continue
            elif option in ("aligned", "pooled"):
                words.append(f"not {option}")
            else:
                words.append(f"seed {value}" if option == "seed" else str(value))
        return _NAMES[self.kind] + (f" ({', '.join(words)})" if words else "")

    @property
    def text(self) -> str:
        """As :func:`parse_op` reads it."""
        values = [
            f"{option}={str(getattr(self, option)).lower()}"
            for option in _OPTIONS[self.kind]
            if getattr(self, option) != _DEFAULTS[option]
        ]
        return self.kind + (":" + ",".join(values) if values else "")

    @property
    def quantises(self) -> bool:
        """Whether the box is rounded to whole cells."""
        return self.kind in ("roi_pool", "roi_warp")

    def __call__(self, features: Tensor, rois: Tensor, output_size: tuple[int, int], scale: float) -> Tensor:
        """Run the operator itself (average where it samples): [N, C, H, W], [K, 5] -> [K, C, P, Q]."""
        if self.kind == "roi_pool":
            return roi_pool(features, rois, output_size, scale, rounding=self.rounding, bins=self.bins)
        if self.kind == "roi_warp":
            return roi_warp(features, rois, output_size, scale, self.sampling_ratio)
        if self.kind == "roi_align":
            return roi_align(
                features,
                rois,
                output_size,
                scale,
                self.sampling_ratio,
                self.aligned,
                samples=self.samples,
                seed=self.seed,
            )
        if self.kind == "prroi_pool":
            return prroi_pool(features, rois, output_size, scale)
        if self.pooled:
            pooled: Tensor = RoIAlignAvg(*output_size, scale)(features, rois)
            return pooled
        return roi_align_legacy(features, rois, output_size, scale)


_DEFAULTS = {f.name: f.default for f in fields(ExplainedOp) if f.name != "kind"}


def parse_op(text: str) -> ExplainedOp:
    """Read ``roi_align`` or ``roi_pool:rounding=floor,bins=truncate``.

    Raises:
        UserError: no such operator, option or value.
    """
    name, _, rest = text.partition(":")
    if name not in KINDS:
        raise UserError(f"--ops {text}: there is no RoI operator {name!r}.{did_you_mean(name, list(KINDS))}")
    kind: Kind = name
    allowed = _OPTIONS[kind]
    values: dict[str, object] = {}
    for part in filter(None, rest.split(",")):
        option, equals, value = part.partition("=")
        if option not in allowed:
            has = f"it has {', '.join(allowed)}" if allowed else "it has none"
            raise UserError(f"{text}: {kind} has no option {option!r}; {has}")
        if not equals:
            raise UserError(f"{text}: write {option}=VALUE")
        values[option] = _value(text, option, value)
    return ExplainedOp(kind, **values)  # type: ignore[arg-type]


def _value(text: str, option: str, value: str) -> object:
    if option in _CHOICES:
        if value not in _CHOICES[option]:
            raise UserError(f"{text}: {option} is one of {', '.join(_CHOICES[option])}, not {value!r}")
        return value == "true" if option in ("aligned", "pooled") else value
    most = MAX_SAMPLING_RATIO if option == "sampling_ratio" else 2**32 - 1
    try:
        number = int(value)
    except ValueError:
        number = -1
    if not 0 <= number <= most:
        raise UserError(f"{text}: {option} is a whole number from 0 to {most}, not {value!r}")
    return number
