"""What a format of ``maskrcnn export`` is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from maskrcnn.config.registry import Named
from maskrcnn.run.export.running import Runner
from maskrcnn.run.predictor import Predictor


class Writer(Protocol):
    """A format.

    suffix: of its files.  leavable: what may be left out, and what then takes its place.  packages: that must
    be there.
    """

    suffix: str
    leavable: Mapping[str, str]
    packages: tuple[str, ...]

    def write(
        self, predictor: Predictor, file: Path, without: Collection[str], metadata: Mapping[str, str]
    ) -> None:
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
