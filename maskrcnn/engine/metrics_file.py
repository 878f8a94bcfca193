"""``metrics.jsonl``: one JSON object a line, every step at most once a kind, whatever was resumed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskrcnn.files import Appender, replacing


class MetricsFile(Appender):
    """Appends records ``{"step": 40, "kind": "train", ...}``; non-finite numbers become null."""

    def __init__(self, path: Path, start_step: int = 0) -> None:
        """
        Args:
            path: made if absent.
            start_step: the finished step training goes on from; records of later steps, and a line cut
                short by a crash, are dropped since they are about to be made again; so is that of its end.

        Raises:
            OSError: it cannot be written; it is then as it was.
        """
        super().__init__(path)
        #: (kind, step) of what was dropped since it is about to be made again.
        self.dropped: set[tuple[str, int]] = set()
        if path.exists():
            records = read_metrics(path)
            kept = [r for r in records if r["step"] <= start_step and r.get("kind") != "end"]
            self.dropped = {(str(r.get("kind")), r["step"]) for r in records if r["step"] > start_step}
            with replacing(path) as file:
                file.write("".join(json.dumps(r) + "\n" for r in kept).encode("utf-8"))

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Append a record and hand it to the system at once.

        Raises:
            OSError: it could not be written; it goes out with the next one that can.
        """
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        self.append((json.dumps({"step": step, "kind": kind, **plain}) + "\n").encode("utf-8"))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole records of a ``metrics.jsonl``, in the order written; none if there is no file."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records
