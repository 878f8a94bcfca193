"""An RoI operator: one frozen dataclass that ``model.roi_op`` names, a user constructs, and that pools.

To add your own, subclass :class:`RoIOperator`, register it in :data:`ROI_OPS`, and list its module under
``plugins:``.  With ``pool`` it trains; with ``axis`` (or ``geometry``) ``maskrcnn explain-roi`` draws it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, TypeVar

from torch import Tensor

from maskrcnn.config import Config, Registry
from maskrcnn.config.schema import NO_KEY, fields_of
from maskrcnn.layers.geometry import Axis, Geometry

#: A feature map or its levels; RoIs [K, 5] or the boxes [Ri, 4] of every image.
Maps = Tensor | Sequence[Tensor]
#: Bins (P, Q), or one number for both.
Size = int | Sequence[int]
#: Feature cells a pixel, or one a level.
Scales = float | Sequence[float]
#: Of K boxes along one axis: cells a pixel, and cells of the map; one number, or [K].
Scale = Tensor | float
Length = Tensor | int | None
Op = TypeVar("Op", bound="RoIOperator")


class RoIOpConfig(Protocol):
    """What a ``roi_op`` registration makes from a YAML mapping."""

    def build(self, output_size: int) -> Callable[..., Tensor]:
        """``output_size``: bins a side.  Called as :class:`RoIOperator` -> [R, C, P, Q]; may be a module."""
        ...


ROI_OPS: Registry[RoIOpConfig] = Registry(
    "RoI op",
    "maskrcnn.layers",
    roi_align="roi_align",
    roi_align_legacy="other_operators",
    roi_pool="other_operators",
    prroi_pool="other_operators",
    roi_warp="other_operators",
)


@dataclass(frozen=True)
class RoIOperator(Config):
    """Pools boxes out of a feature map or a pyramid: one call for all levels.

    Fields of a subclass are its options, keys of a config.
    """

    #: What it is called in pictures and tables.
    title: ClassVar[str] = ""

    #: Bins (P, Q), or one number for both; of a model, what its heads say.
    output_size: Size | None = field(default=None, metadata=NO_KEY)
    #: Feature cells a pixel, or one a level; where a call does not say.
    spatial_scale: Scales | None = field(default=None, metadata=NO_KEY)

    def build(self: Op, output_size: int) -> Op:
        """The same with ``output_size`` bins a side."""
        return replace(self, output_size=output_size)

    def __call__(
        self, input: Maps, rois: Maps, levels: Tensor | None = None, scales: Scales | None = None
    ) -> Tensor:
        """Pool every RoI from its own level.

        Args:
            input: features [N, C, H, W], or a list of levels [N, C, Hl, Wl].
            rois: float [R, 5], image index and xyxy in pixels of the network frame; or a list of [Ri, 4].
            levels: int64 [R], index into ``input``; needed with several levels.
            scales: feature cells a pixel, one a level (1 / stride); ``spatial_scale`` if not given.

        Returns:
            [R, C, P, Q] in the features' dtype.

        Raises:
            ValueError, TypeError, RuntimeError: as :func:`maskrcnn.layers.roi_align`; or no size or scale.
        """
        scales = self.spatial_scale if scales is None else scales
        if self.output_size is None or scales is None:
            what = "output_size" if self.output_size is None else "spatial_scale"
            raise ValueError(
                f"{type(self).__name__}: {what} is not set, as in {type(self).__name__}(7, 1 / 16)."
            )
        return self.pool(input, rois, self.output_size, scales, levels)

    def pool(
        self, input: Maps, boxes: Maps, output_size: Size, spatial_scale: Scales, levels: Tensor | None = None
    ) -> Tensor:
        """As a call, with the size [R, C, P, Q] and the scale given."""
        raise NotImplementedError

    def axis(self, low: Tensor, high: Tensor, scale: Scale, bins: int, length: Length = None) -> Axis:
        """What it reads of K boxes along one axis, as one of the kinds of :mod:`maskrcnn.layers.geometry`.

        Args:
            low, high: [K], the boxes' edges, pixels.
            scale: cells a pixel, [K] or one.
            bins: P.
            length: cells of the map, [K] or one, where an operator clips its bins to it.
        """
        raise NotImplementedError

    def geometry(
        self, boxes: Tensor, scale: Scale, output_size: Sequence[int], map_size: Sequence[Length]
    ) -> Geometry:
        """What it reads of ``boxes`` [K, 4] (xyxy, pixels); sizes (down, across) in bins and in cells."""
        y, x = (
            self.axis(boxes[:, 1 - i], boxes[:, 3 - i], scale, output_size[i], map_size[i]) for i in (0, 1)
        )
        return Geometry(y, x)

    @classmethod
    def tells_geometry(cls) -> bool:
        """Whether it can be explained."""
        return cls.axis is not RoIOperator.axis or cls.geometry is not RoIOperator.geometry

    @property
    def kind(self) -> str:
        """The name that it is registered by."""
        return ROI_OPS.name_of(type(self))

    @property
    def label(self) -> str:
        """Title, and options that are not the defaults, for people."""
        words = self.words()
        return (self.title or type(self).__name__) + (f" ({', '.join(words)})" if words else "")

    def words(self, hidden: Sequence[str] = ()) -> list[str]:
        """Options that are not the defaults, a few words each, but those in ``hidden``."""
        words = []
        for name, option in fields_of(type(self)).items():
            value = getattr(self, name)
            if name in hidden or (not option.required and value == option.default()):
                continue
            if isinstance(value, bool):
                words.append(name if value else f"not {name}")
            else:
                words.append(value if isinstance(value, str) else f"{name} {value}")
        return words


def sampling_words(ratio: int, random: bool = False) -> list[str]:
    """``2×2 random samples``, or nothing for the default."""
    count = f"{ratio}×{ratio} " if ratio > 0 else ""
    return [f"{count}{'random ' if random else ''}samples"] if count or random else []
