"""Importing this package registers its parts, each in a file of its own."""

from maskrcnn_extras import centroid, circles, wide

__all__ = ["centroid", "circles", "wide"]
