"""Packages that an export needs and a training does not."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from maskrcnn.errors import UserError

#: What these depend on besides calls home; they run without.
_WITHOUT_TELEMETRY = {
    "openvino": "--no-deps openvino",
    "nncf": "--no-deps nncf pydot tabulate, and pip install psutil rich networkx scipy",
}


def needed(package: str) -> Any:
    """The module.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError:
        how = _WITHOUT_TELEMETRY.get(package.partition(".")[0], "'maskrcnn[export]'")
        raise UserError(f"this needs the package {package}: pip install {how}") from None
