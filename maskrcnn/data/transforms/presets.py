"""Augmentations by the kind of pictures: what a key ``data.augment`` puts behind ``data.train_transforms``.

There images have the network's size already, so that blur and noise mean the same whatever the files' sizes,
and little is computed.
"""

from __future__ import annotations

from maskrcnn.data.interfaces import AUGMENTATIONS, Transform
from maskrcnn.data.transforms.affine import Affine
from maskrcnn.data.transforms.basic import ColorJitter, HorizontalFlip, Rotate90, VerticalFlip
from maskrcnn.data.transforms.colour import Blur, Brightness, Contrast, Gamma, Noise


@AUGMENTATIONS.register("microscopy")
def microscopy() -> tuple[Transform, ...]:
    """No direction is up, cells differ in size, and stain, exposure, focus and noise from slide to slide."""
    return (
        HorizontalFlip(0.5),
        VerticalFlip(0.5),
        Rotate90(0.75),
        Affine(rotate=(-45.0, 45.0), scale=(0.8, 1.25), shear=(-5.0, 5.0), p=0.3),
        Brightness((0.8, 1.2), 0.5),
        Contrast((0.75, 1.25), 0.5),
        Gamma((0.7, 1.4), 0.3),
        Blur((0.3, 1.0), 0.1),
        Noise((0.0, 6.0), 0.1),
    )


@AUGMENTATIONS.register("aerial")
def aerial() -> tuple[Transform, ...]:
    """No direction is up, the ground's scale varies little, and light and haze with the hour."""
    return (
        HorizontalFlip(0.5),
        VerticalFlip(0.5),
        Rotate90(0.75),
        Affine(rotate=(-45.0, 45.0), scale=(0.9, 1.1), p=0.3),
        ColorJitter(0.2, 0.2, 0.2),
        Gamma((0.8, 1.25), 0.3),
    )


@AUGMENTATIONS.register("photos")
def photos() -> tuple[Transform, ...]:
    """Up is up: mirrored, held a little askew, in other light."""
    return (
        HorizontalFlip(0.5),
        Affine(rotate=(-8.0, 8.0), scale=(0.9, 1.1), p=0.2),
        ColorJitter(0.2, 0.2, 0.2),
        Gamma((0.8, 1.25), 0.2),
    )


@AUGMENTATIONS.register("none")
def none() -> tuple[Transform, ...]:
    """``data.train_transforms`` alone."""
    return ()
