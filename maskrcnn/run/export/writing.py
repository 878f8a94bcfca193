"""What a format of ``maskrcnn export`` is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from maskrcnn.config.registry import Named
from maskrcnn.run.export.running import Array, Runner
from maskrcnn.run.predictor import Predictor


@dataclass(frozen=True)
class Order:
    """What is asked of a writer.

    without: parts to leave out.  precision: of :attr:`Writer.precisions`.  metadata: to be written into the
    file.  samples: images to take ranges of values from, uint8 [H, W, C]; read when called.
    """

    without: Collection[str]
    precision: str
    metadata: Mapping[str, str]
    samples: Callable[[], Sequence[Array]]


class Writer(Protocol):
    """A format.

    suffix: of its files.  leavable: what may be left out, and what then takes its place.  precisions: that
    files may compute in.  packages: that must be there, by precision ("": always).
    """

    suffix: str
    leavable: Mapping[str, str]
    precisions: tuple[str, ...]
    packages: Mapping[str, tuple[str, ...]]

    def write(self, predictor: Predictor, file: Path, order: Order) -> None:
        """Write the model."""
        ...

    def runner(self, predictor: Predictor, file: Path) -> Runner:
        """What runs the file."""
        ...

    def rename(self, file: Path, output: Path) -> None:
        """Call it by its good name."""
        ...


#: By the name of a format.
WRITERS: Named[type[Writer]] = Named(
    "format", "maskrcnn.run.export", onnx="onnx_file", torch="torch_file", openvino="openvino_file"
)
