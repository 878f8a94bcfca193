"""Which of the optional libraries of transforms is installed."""

from __future__ import annotations

import importlib.util

import pytest

HAVE_ALBUMENTATIONS = importlib.util.find_spec("albumentations") is not None
needs_albumentations = pytest.mark.skipif(not HAVE_ALBUMENTATIONS, reason="albumentations is not installed")
