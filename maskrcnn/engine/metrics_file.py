"""``metrics.jsonl``: one JSON object a line, every step at most once a kind, whatever was resumed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MetricsFile:
    """Appends records ``{"step": 40, "kind": "train", ...}``; non-finite numbers become null."""

    def __init__(self, path: Path, start_step: int = 0) -> None:
        """
        Args:
            path: made if absent.
            start_step: the finished step training goes on from; records of later steps, and a line cut
                short by a crash, are dropped since they are about to be made again.
        """
        self.path = path
        if path.exists():
            kept = [record for record in read_metrics(path) if record["step"] <= start_step]
            temporary = path.with_suffix(".new")
            temporary.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
            temporary.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Append a record and hand it to the system at once."""
        plain = {k: _plain(v) for k, v in values.items()}
        self._file.write(json.dumps({"step": step, "kind": kind, **plain}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


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


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
