"""What was found in one image, and every form in which that is handed on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskrcnn.data.formats.geojson import geojson_feature, geojson_geometry
from maskrcnn.errors import DataError, UserError
from maskrcnn.inference.records import Result
from maskrcnn.picture_files import encode_png
from maskrcnn.run.prediction_table import TABLE, further_columns, table_rows
from maskrcnn.structures import rle
from maskrcnn.structures.outlines import PixelPolygon, polygons
from maskrcnn.structures.rle import TextRLE, decode
from maskrcnn.viz.instances import ColourBy, draw_records
from maskrcnn.viz.labels import Image
from maskrcnn.viz.skeletons import sure

if TYPE_CHECKING:
    import pandas as pd
    import supervision


@dataclass(frozen=True)
class Prediction:
    """The instances found in one image, by falling score, in the image's own frame.

    image: uint8 [H, W, 3] RGB; None where it is too large to be held, or was not kept.
    boxes: float64 [D, 4] xyxy, pixels.
    scores: float64 [D] in [0, 1].
    labels: int64 [D], contiguous class indices; ``names[label]`` is the class.
    records: D COCO records with category ids and RLE masks.
    names: of all classes.
    keypoints: float64 [D, J, 3]: x, y in pixels (continuous, as boxes) and a score; None where the model has
        none.
    keypoint_scores: what that score is: ``logit`` or ``probability``, the model's ``keypoint_head.scores``.
    extras: what further heads add, by their names: [D, ...]; numbers of an instance are in ``records`` too.
    size: (height, width) of the image in pixels; to be given where ``image`` is not.
    name: the image's file, as it was named; empty where it was an array.
    image_id: that of the records: the image's place among those of one call.
    capped: whether the model found as many objects as ``model.roi.max_detections`` lets it keep, all of them
        good enough to be here, so that others may be missing.
    small: how many instances were below 8 px (square root of the box's area) as the network saw them.
    tile: side of the windows that it was predicted by, pixels; 0 where it was seen whole.
    """

    image: Image | None
    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    records: list[Result]
    names: tuple[str, ...]
    keypoints: npt.NDArray[np.float64] | None = None
    keypoint_scores: str = "logit"
    extras: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    name: str = ""
    image_id: int = 0
    capped: bool = False
    small: int = 0
    tile: int = 0

    def __post_init__(self) -> None:
        if self.size == (0, 0):
            if self.image is None:
                raise ValueError("a prediction without its image needs the image's size")
            object.__setattr__(self, "size", self.image.shape[:2])

    def __len__(self) -> int:
        return len(self.records)

    def with_image_id(self, image_id: int) -> Prediction:
        """The same, its records of another image id."""
        records = [{**record, "image_id": image_id} for record in self.records]
        return replace(self, image_id=image_id, records=records)

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each instance's class."""
        return tuple(self.names[label] for label in self.labels.tolist())

    @property
    def rles(self) -> list[TextRLE] | None:
        """D COCO RLEs of the image's size; None where the model has no masks."""
        if any("segmentation" not in r for r in self.records):
            return None
        return [r["segmentation"] for r in self.records]

    @property
    def masks(self) -> npt.NDArray[np.bool_] | None:
        """bool [D, H, W], made when asked for; None where the model has no masks."""
        rles = self.rles
        if rles is None:
            return None
        out = np.zeros((len(self), *self.size), dtype=np.bool_)
        for i, code in enumerate(rles):
            out[i] = decode(code)
        return out

    def to_coco(self) -> list[Result]:
        """D records of a COCO results file."""
        return [dict(record) for record in self.records]

    def to_polygons(self) -> list[list[PixelPolygon]]:
        """The parts of each instance's mask with their holes, along the edges of pixels.

        ``maskrcnn.structures.outlines.code_of_polygons(parts, *size)`` gives the very mask back.

        Raises:
            DataError: the model has no masks.
        """
        return [polygons(code) for code in self._codes("polygons")]

    def to_geojson(self) -> dict[str, Any]:
        """The instances as a GeoJSON FeatureCollection in pixels, y down; without masks, their boxes."""
        return {"type": "FeatureCollection", "features": list(self.geojson_features())}

    def geojson_features(self) -> Iterator[dict[str, Any]]:
        """What stands in that, one by one, since outlines take much more memory than masks."""
        codes: Sequence[TextRLE | None] = self.rles or [None] * len(self)
        for number, (record, code, name) in enumerate(
            zip(self.records, codes, self.classes, strict=True), start=1
        ):
            yield geojson_feature(
                number,
                name,
                record["score"],
                geojson_geometry(record["bbox"], code),
                category_id=record["category_id"],
                image_id=record["image_id"],
            )

    def to_label_image(self) -> npt.NDArray[Any]:
        """[H, W]: 0, and the pixels of instance i have the number i + 1 (uint16; uint32 beyond 65,535).

        Where masks lie over one another, a pixel belongs to the smallest of them (fewest pixels).

        Raises:
            DataError: the model has no masks.
        """
        return rle.numbered(self._codes("a label image"), *self.size)

    def to_dataframe(self) -> pd.DataFrame:
        """A row an instance, see :func:`table_rows`.

        Raises:
            UserError: the pandas library is missing.
        """
        try:
            import pandas as pd
        except ImportError:
            raise UserError("to_dataframe() needs the pandas library: pip install pandas") from None
        columns = [*TABLE, *further_columns(self.records)]
        return pd.DataFrame(list(table_rows(self.records, self.classes, self.name)), columns=columns)

    def to_supervision(self) -> supervision.Detections:
        """As the ``Detections`` of Roboflow's supervision library.

        Raises:
            UserError: the library is missing.
        """
        try:
            import supervision
        except ImportError:
            raise UserError(
                "to_supervision() needs the supervision library: pip install supervision"
            ) from None
        return supervision.Detections(
            xyxy=self.boxes,
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.classes, dtype=str)},
        )

    def crops(
        self, image: Image | None = None, *, margin: int = 0, background: int | None = None
    ) -> list[Image]:
        """What each instance's box holds of the image: D times uint8 [h, w, 3] RGB, whole pixels.

        Args:
            image: uint8 [H, W, 3] RGB, in place of the prediction's own.
            margin: pixels around the box, where the image has them.
            background: the value of pixels outside of the mask, 0 to 255; None: as they are.

        Raises:
            DataError: there is no image; or a background is asked for, and the model has no masks.
        """
        picture, (height, width) = self._picture(image, "crops"), self.size
        codes: Sequence[TextRLE | None] = [None] * len(self)
        if background is not None:
            codes = self._codes("masks to cut by")
        found = []
        for (x1, y1, x2, y2), code in zip(self.boxes.tolist(), codes, strict=True):
            left, top = max(math.floor(x1) - margin, 0), max(math.floor(y1) - margin, 0)
            right, bottom = min(math.ceil(x2) + margin, width), min(math.ceil(y2) + margin, height)
            crop = picture[top:bottom, left:right].copy()
            if code is not None:
                crop[decode(code)[top:bottom, left:right] == 0] = background
            found.append(crop)
        return found

    def draw(
        self,
        image: Image | None = None,
        *,
        fill: bool = True,
        outline: bool = True,
        labels: bool = True,
        scores: bool = True,
        numbers: bool = False,
        contrast: bool = False,
        enlarge: bool = False,
        colour_by: ColourBy = "auto",
        **style: Any,
    ) -> Image:
        """The image with its instances drawn over it, uint8 RGB, pixel on pixel.

        Args:
            image: uint8 [H, W, 3] RGB to draw on, in place of the prediction's own.
            fill, outline: of the masks; where there are none, boxes are drawn.
            labels: names of classes, where there is more than one, and with ``scores`` their scores.
            numbers: instance n is ``records[n - 1]``, and n in the label image.
            contrast: spread the image's values over black to white.
            enlarge: a small image by a whole number, so that more can be read.
            colour_by: ``class``, ``instance``, or ``auto``: by instance where there is one class.
            style: further arguments of :func:`maskrcnn.viz.instances.draw_instances`.

        Raises:
            DataError: there is no image.
        """
        style = {
            "show_outlines": outline,
            "show_labels": labels,
            "show_scores": scores,
            "numbers": numbers,
            "contrast": contrast,
            "colour_by": colour_by,
            **({} if fill else {"alpha": 0.0}),
            **({} if enlarge else {"smallest": 0}),
            **style,
        }
        if self.keypoints is not None:
            style.setdefault("keypoints", sure(self.keypoints, self.keypoint_scores))
        picture = self._picture(image, "draw")
        return draw_records(picture, self.records, self.labels.tolist(), self.names, **style)

    def _picture(self, image: Image | None, what: str) -> Image:
        picture = self.image if image is None else image
        if picture is None:
            raise DataError(
                f"this prediction of {self.size[1]} x {self.size[0]} pixels does not hold its image; pass"
                f" it: {what}(image)"
            )
        return picture

    def _repr_png_(self) -> bytes:
        """What a notebook shows of it by itself: the picture."""
        return encode_png(self.draw())

    def _codes(self, what: str) -> list[TextRLE]:
        codes = self.rles
        if codes is None:
            raise DataError(f"this model predicts boxes alone, so there are no {what.removeprefix('a ')}")
        return codes
