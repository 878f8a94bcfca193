"""Weights by name: what their publishers state of them, and where their files lie on this machine.

``published.yaml`` comes with the package; ``weights.yaml`` in :func:`home` holds what ``maskrcnn weights
add`` added.  Both are config files of the same form.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from maskrcnn.config import Config, Range, dump, load
from maskrcnn.config.ranges import Positive, Share, any_number
from maskrcnn.errors import CheckpointError, ConfigError, few
from maskrcnn.files import write_text

#: The registry that comes with the package, and the name of one's own.
SHIPPED = Path(__file__).with_name("published.yaml")
OWN = "weights.yaml"
_NAME = re.compile(r"own(?:/[A-Za-z0-9][\w.+-]*)+")
_Pixel = Annotated[float, any_number("pixels may be centred anywhere")]


@dataclass(frozen=True, kw_only=True)
class Published(Config):
    """What is stated of a file of weights; a key that is missing is not stated."""

    #: A whole detector (``weights``), or an ImageNet classifier (``model.backbone.weights``).
    kind: Literal["detector", "backbone"]
    #: Address of the file; file:///... of one that was added from this machine.
    url: str
    #: Other hosts that may send it: the address leads to one of them.  Default none.
    hosts: tuple[str, ...] = ()
    #: Beginning of the file's SHA-256, hex digits.
    sha256: str | None = None
    #: Beginning of its MD5.
    md5: str | None = None
    #: Its size in MiB, to three places.
    mebibytes: Positive | None = None
    #: Under which it may be used.
    licence: str | None = None
    #: Figures by metric, in [0, 1]: of COCO val2017, or imagenet/top1.
    figures: dict[str, Share] = field(default_factory=dict)
    #: Mean of the pixels that it was trained on, R, G, B in 0..255.
    mean: tuple[_Pixel, ...] | None = None
    #: Their standard deviation.
    std: tuple[Positive, ...] | None = None
    #: The order of colours that the file itself reads; what is made of it reads R, G, B.  Default rgb.
    channels: Literal["rgb", "bgr"] = "rgb"
    #: See ``model.backbone.stride_in_1x1``.  Default false.
    stride_in_1x1: bool = False
    #: Learning rate of SGD, for a step of 16 images, at which it is fine-tuned.
    rate: Annotated[float, Range(above=0)] | None = None
    #: Names of its classes, in its order; none: as the file says, or COCO's.
    classes: tuple[str, ...] = ()
    #: Our recipe for this model, as ``maskrcnn zoo`` lists it.
    recipe: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = urlsplit(self.url)
        remote = parts.scheme in ("http", "https") and parts.hostname
        if not (remote or parts.scheme == "file") or not Path(parts.path).name:
            raise ValueError(f"url must be https://HOST/.../FILE, got {self.url!r}")
        for key, digits in (("sha256", 64), ("md5", 32)):
            value = getattr(self, key)
            if value is not None and not re.fullmatch(rf"[0-9a-f]{{6,{digits}}}", value):
                raise ValueError(f"{key} must be 6 to {digits} hex digits, small ones, got {value!r}")

    @property
    def file_name(self) -> str:
        """Of the file, as its publisher calls it."""
        return Path(unquote(urlsplit(self.url).path)).name


@dataclass(frozen=True, kw_only=True)
class PublishedFile(Config):
    """The registry as a file."""

    #: By name, ``publisher/name``.
    weights: dict[str, Published] = field(default_factory=dict)


def home() -> Path:
    """Where weights are kept: ``$MASKRCNN_HOME``, else ``maskrcnn`` in the XDG folder of caches."""
    asked = os.environ.get("MASKRCNN_HOME")
    if asked:
        return Path(asked).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "maskrcnn"


def folder_of(name: str) -> Path:
    """The folder of what is kept of these weights."""
    return home() / "weights" / name


def registry() -> dict[str, Published]:
    """All known weights by name; those of one's own begin with ``own/``.

    Raises:
        ConfigError: the registry of one's own is wrong, by its line.
    """
    return {**_shipped(), **_own()}


@cache
def _shipped() -> dict[str, Published]:
    return load(PublishedFile, SHIPPED).weights


def _own() -> dict[str, Published]:
    path = home() / OWN
    return load(PublishedFile, path).weights if path.is_file() else {}


def add(name: str, entry: Published) -> Path:
    """Keep an entry in the registry of one's own, whose file is returned.

    Raises:
        ConfigError: it does not begin with ``own/``.
        OutputError: the file cannot be written.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise ConfigError(f"{name!r} is no name for weights of your own; write it as in own/cells_r50")
    path = home() / OWN
    write_text(path, dump(PublishedFile(weights={**_own(), name: entry})))
    return path


def find(name: str) -> tuple[str, Published]:
    """The full name and the entry of ``name``, whose middle parts may be left out where that is unique.

    Raises:
        CheckpointError: there is none, or there are several.
    """
    known = registry()
    if name in known:
        return name, known[name]
    publisher, _, rest = name.partition("/")
    fits = [n for n in known if rest and n.startswith(f"{publisher}/") and n.endswith(f"/{rest}")]
    if len(fits) == 1:
        return fits[0], known[fits[0]]
    if fits:
        raise CheckpointError(f"{name}: several weights are called so: {few(fits)}; write one of these")
    raise CheckpointError(f"{name}: {unknown(name, known)}")


def unknown(name: str, known: Iterable[str]) -> str:
    """What is said of a name that is not among the ``known``: the nearest, and where they are listed."""
    names: dict[str, str] = {}
    for n in known:
        words = n.split("/")
        names |= {n: n, f"{words[0]}/{words[-1]}": n, words[-1]: n}
    near = list(dict.fromkeys(names[n] for n in difflib.get_close_matches(name[:100], names, 3, 0.6)))
    meant = f"; did you mean {few(near)}?" if near else "."
    return f"no such file or folder, and no weights have that name{meant} 'maskrcnn weights list' shows them"
