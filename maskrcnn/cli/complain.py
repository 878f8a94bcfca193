"""Sentences on standard error: once, however many processes torchrun started; and leaving in spite of all."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import sys
from pathlib import Path


def complain(text: str) -> None:
    """Print ``maskrcnn: text`` on standard error, unless another process of this run on this machine did.

    Each attempt of torchrun gives its processes a folder in common; a file in it stands for the sentence.
    """
    given = os.environ.get("TORCHELASTIC_ERROR_FILE", "")
    if given and os.environ.get("WORLD_SIZE", "1") != "1":
        folder = Path(given).parent.parent  # .../attempt_0/<local rank>/error.json
        mark = folder / f"said-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:16]}"
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return
        except OSError:
            pass
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(f"maskrcnn: {text}", file=sys.stderr, flush=True)


def leave_if_held(status: int) -> None:
    """End the process at once where one that it started cannot be ended (hung in a disk's driver, say)."""
    if any(child.is_alive() for child in multiprocessing.active_children()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)
