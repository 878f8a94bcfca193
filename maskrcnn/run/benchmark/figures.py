"""What ``maskrcnn benchmark`` measured: as numbers, and in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from maskrcnn.errors import plural
from maskrcnn.run.room import in_words
from maskrcnn.viz.tables import Table

#: Parts of a step's time, in the order in which they are told; ``rest``: what is between them.
PARTS = ("data", "forward", "backward", "optimizer", "rest")

#: Takes progress, a line each.
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Loading:
    """Of an image, in seconds of one core.  read: read and decoded.  changed: transformed, and the rest."""

    read: float
    changed: float


@dataclass(frozen=True)
class Evaluating:
    """images: that were evaluated, without computing figures.  rate: of them a second.  found: objects an
    image; seconds: for all of ``data.val`` at that rate.
    """

    images: int
    rate: float
    found: float
    seconds: float


@dataclass(frozen=True)
class Benchmark:
    """What was measured.

    device, threads, workers, precision, weights: under which conditions.
    batch: images a step, over ``ranks`` processes.  size: median (height, width) of them, network frame.
    steps: that were timed.  seconds: of one, the median.  rate: images a second, of all steps together.
    parts: seconds of a step by :data:`PARTS`, the means.
    busy: share of a step in which the GPU works; None on a CPU.
    flops: floating-point operations of a step, those of convolutions and matrix products: a multiply-add is
        two.  RoI operators, NMS and what is done value by value are not counted.
    peak: the most of them a second that a convolution or a matrix product reaches here, in this precision.
    memory: bytes, as ``memory_in_use`` says them.
    """

    device: str
    threads: int
    workers: int
    precision: str
    weights: str
    ranks: int
    batch: int
    size: tuple[int, int]
    steps: int
    seconds: float
    rate: float
    parts: dict[str, float]
    busy: float | None
    flops: int
    peak: float
    memory: int
    loading: Loading
    evaluation: Evaluating | None
    advice: str = ""

    @property
    def share_of_peak(self) -> float:
        """How much of the peak a step reaches, without its wait for images, in [0, 1]."""
        return self.flops / max(self.seconds - self.parts["data"], 1e-9) / self.peak / self.ranks

    def as_json(self) -> dict[str, Any]:
        """All of it; times in seconds, memory in bytes."""
        return asdict(self) | {"share_of_peak": self.share_of_peak}

    def lines(self) -> list[str]:
        """In words."""
        (height, width), threads = self.size, plural(self.threads, "thread")
        total, loading = sum(self.parts.values()), self.loading
        rows = [
            ("on", f"{self.device}, {self.precision}, {threads}, {plural(self.workers, 'worker')}"),
            ("weights", self.weights),
            ("training", f"{self.rate:.3g} images/s, {self.batch} a step, median {width} x {height}"),
            ("memory", in_words(self.memory)),
            ("arithmetic", f"{self.flops / 1e12:.3g} TFLOP a step (convolutions and matrix products alone)"),
            ("of the peak", f"{self.share_of_peak:.1%} of {self.peak / 1e12:.3g} TFLOP/s, as measured here"),
            ("to read", f"{1e3 * loading.read:.3g} ms of a core an image, with decoding"),
            ("to transform", f"{1e3 * loading.changed:.3g} ms of a core an image"),
        ]
        if self.busy is not None:
            rows.append(("GPU", f"at work for {self.busy:.0%} of a step"))
        if self.evaluation is not None:
            e = self.evaluation
            rows += [
                (
                    "evaluation",
                    f"{e.rate:.3g} images/s ({plural(e.images, 'image')}, {e.found:.3g} objects in each)",
                ),
                ("data.val", f"{e.seconds:.3g} s at that rate, and the figures besides"),
            ]
        parts = [(name, f"{self.parts[name]:.3g}", f"{self.parts[name] / total:.1%}") for name in PARTS]
        parts.append(("median step", f"{self.seconds:.3g}", ""))
        title = f"A step, the mean of {self.steps}"
        return [
            *Table(("measured", ""), rows, left=(0, 1)).text().splitlines(),
            "",
            *Table(("part", "seconds", "share"), parts, title=title).text().splitlines(),
            "",
            self.advice,
        ]
