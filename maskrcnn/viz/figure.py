"""What figures that are files share: matplotlib at arm's length, its type, and how they are written."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.errors import UserError
from maskrcnn.files import write_bytes
from maskrcnn.viz.labels import Image
from maskrcnn.viz.palette import INK, QUIET

SUFFIXES = (".png", ".svg", ".pdf")

_STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "svg.hashsalt": "maskrcnn",
}


def new_figure(width: float, height: float) -> Any:
    """An empty ``matplotlib.figure.Figure`` of so many inches; no global state is touched.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("drawing needs matplotlib, which is not installed: pip install matplotlib") from None
    with mpl.rc_context(_STYLE):
        return Figure(figsize=(width, height), facecolor="white")


def style() -> Any:
    """The context in which axes are made and drawn on."""
    import matplotlib as mpl

    return mpl.rc_context(_STYLE)


def put_legend(
    figure: Any, handles: Sequence[Any], at: tuple[float, float], columns: int, **how: Any
) -> None:
    """A legend without a frame, its lower left corner at a place in [0, 1] x [0, 1] of the figure."""
    spacing = {"columnspacing": 1.2, "handlelength": 1.4, "borderpad": 0, "borderaxespad": 0, **how}
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=at, ncols=columns, **spacing)


def check_out(option: str, path: Path, suffixes: Sequence[str]) -> None:
    """Find out that a file cannot be written before the work is done.

    Raises:
        UserError: an ending that is none of ``suffixes``, or a folder that does not exist.
    """
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{option} {path}: the name must end in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {path.parent}")


def save(figure: Any, path: Path, dpi: int) -> None:
    """Write the figure; its kind follows the name's ending.

    Raises:
        OutputError: the file cannot be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    made = io.BytesIO()
    with style():
        if kind == "png":
            _draw_png(figure, made, dpi)
        else:
            undated = {"Date" if kind == "svg" else "CreationDate": None}
            figure.savefig(made, format=kind, dpi=dpi, metadata=undated)
    write_bytes(path, made.getvalue())


def pixels(figure: Any, dpi: int) -> Image:
    """The figure as uint8 [H, W, 3] RGB."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    with style():
        canvas.draw()
    return np.array(canvas.buffer_rgba(), dtype=np.uint8)[..., :3]


def _draw_png(figure: Any, made: io.BytesIO, dpi: int) -> None:
    """A PNG with a palette: a third of the size, and nobody sees the difference in a drawing."""
    from PIL import Image as Pillow  # comes with matplotlib

    picture = Pillow.fromarray(pixels(figure, dpi))
    picture = picture.quantize(256, dither=Pillow.Dither.NONE)
    picture.save(made, format="png", optimize=True, dpi=(dpi, dpi))
