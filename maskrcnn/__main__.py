"""``python -m maskrcnn``: what ``torchrun -m maskrcnn train ...`` starts."""

from __future__ import annotations

import sys

from maskrcnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
