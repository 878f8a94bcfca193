"""Mask R-CNN in PyTorch: train, evaluate, and ablate RoIPool against RoIAlign from YAML configs."""

from importlib import import_module

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """``Model``, imported when it is asked for: ``import maskrcnn`` does not wait for torch."""
    if name != "Model":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("maskrcnn.run.model").Model
