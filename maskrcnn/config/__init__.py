"""YAML text to frozen, typed dataclasses; registries of swappable parts.

``load(Schema, "file.yaml", ["a.b=1"])`` gives a validated object or raises one
:class:`maskrcnn.errors.ConfigError` that lists every fault by ``file:line:column``.
"""

from maskrcnn.config.encode import dump, fingerprint, flatten
from maskrcnn.config.load import Loaded, load, load_traced, loads
from maskrcnn.config.nodes import Origin
from maskrcnn.config.ranges import Range
from maskrcnn.config.registry import Registry, did_you_mean
from maskrcnn.config.schema import Config

__all__ = [
    "Config",
    "Loaded",
    "Origin",
    "Range",
    "Registry",
    "did_you_mean",
    "dump",
    "fingerprint",
    "flatten",
    "load",
    "load_traced",
    "loads",
]
