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
        # What OpenVINO depends on besides calls home.
        how = "--no-deps openvino" if package == "openvino" else "'maskrcnn[export]'"
        raise UserError(f"this needs the package {package}: pip install {how}") from None
