"""Packages that an export needs and a training does not."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from maskrcnn.errors import UserError


def needed(package: str) -> Any:
    """The module.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError:
        extra = "openvino" if package in ("openvino", "nncf") else "export"
        raise UserError(f"this needs the package {package}: pip install 'maskrcnn[{extra}]'") from None
