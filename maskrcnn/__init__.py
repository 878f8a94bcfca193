"""Mask R-CNN in PyTorch: train, evaluate, and ablate RoIPool against RoIAlign from YAML configs."""

__version__ = "0.1.0"
