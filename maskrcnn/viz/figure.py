"""What the pictures share: matplotlib at arm's length, colours and type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.errors import UserError

# Okabe and Ito's palette, which people tell apart whatever their colour vision, and a gray scale.
INK = "#1b1b1b"
QUIET = "#767676"
FAINT = "#d9d9d9"
BLUE = "#0072B2"
SKY = "#56B4E9"
VERMILLION = "#D55E00"
GREEN = "#009E73"
ORANGE = "#E69F00"
PURPLE = "#CC79A7"

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


def check_out(path: Path) -> None:
    """Find out that a picture cannot be written before the work is done.

    Raises:
        UserError: an ending that is not drawn, or a folder that does not exist.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out {path}: the name must end in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}")


def save(figure: Any, path: Path, dpi: int) -> None:
    """Write the figure; its kind follows the name's ending.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with style():
            if path.suffix.lower() == ".png":
                _save_png(figure, path, dpi)
            else:
                undated = {"Date" if path.suffix.lower() == ".svg" else "CreationDate": None}
                figure.savefig(path, dpi=dpi, metadata=undated)
    except OSError as e:
        raise UserError(f"--out {path}: cannot be written: {e.strerror or e}") from None


def _save_png(figure: Any, path: Path, dpi: int) -> None:
    """A PNG with a palette: a third of the size, and nobody sees the difference in a drawing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image  # comes with matplotlib

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True, dpi=(dpi, dpi))
