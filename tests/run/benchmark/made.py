"""A benchmark that was not run."""

from __future__ import annotations

from typing import Any

from maskrcnn.run.benchmark.figures import Benchmark, Evaluating, Loading


def made(**changes: Any) -> Benchmark:
    """A GPU's figures; 8 images a step of 0.4 s without the wait for images."""
    parts = {"data": 0.0, "forward": 0.15, "backward": 0.2, "optimizer": 0.02, "rest": 0.03}
    parts |= changes.pop("parts", {})
    fields = {
        "device": "GPU", "threads": 8, "workers": 2, "precision": "bfloat16", "weights": "random", "ranks": 1,
        "batch": 8, "size": (800, 1066), "steps": 10, "seconds": sum(parts.values()), "rate": 20.0,
        "parts": parts, "busy": 0.95, "flops": 10**12, "peak": 10**13, "memory": 10**10,
        "loading": Loading(0.1, 0.1), "evaluation": Evaluating(10, 5.0, 7.0, 100.0),
    }  # fmt: skip
    return Benchmark(**fields | changes)
