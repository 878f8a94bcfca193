"""Pages in HTML: jinja2 templates, in which all that is put is escaped; nothing else writes tags."""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from maskrcnn.picture_files import encode_jpeg, encode_png
from maskrcnn.viz.labels import Image

TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, **content: Any) -> str:
    """A template of :data:`TEMPLATES` with ``content``; a name in it that is not given is an error."""
    return _environment().get_template(template).render(content)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def data_uri(image: Image, quality: int | None = None) -> str:
    """A picture, uint8 [H, W, 3] RGB, as the source of an ``img`` that needs no file.

    quality: of a JPEG, 0 to 100; None: a PNG, which loses nothing.
    """
    kind, data = ("png", encode_png(image)) if quality is None else ("jpeg", encode_jpeg(image, quality))
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")
