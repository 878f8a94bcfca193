"""Which images go to validation, so that each class is shared out as all images are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def choose(
    counts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    share: float,
    seed: int,
    *,
    stratify: bool = True,
) -> npt.NDArray[np.bool_]:
    """The groups of images that go to validation: bool [G], at least one of them and at least one not.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011, figure 1), of groups in place of single
    examples: the class with the fewest images left is shared out first, larger groups before smaller ones, to
    the side that wants most images of it; the same data and seed give the same answer.

    Args:
        counts: int64 [G, K], images of each group that have an object of each class.
        sizes: int64 [G], images of each group.
        share: of all images, in (0, 1).
        seed: decides between equals.
        stratify: look at the classes; else at the numbers of images alone.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    left = counts.copy() if stratify else np.zeros((len(sizes), 0), dtype=np.int64)
    shares = np.array([1 - share, share])
    wanted = shares * sizes.sum()
    wanted_of = np.outer(left.sum(0), shares)
    side = np.full(len(sizes), -1)

    def assign(group: int, to: int) -> None:
        side[group] = to
        wanted[to] -= sizes[group]
        wanted_of[:, to] -= left[group]
        left[group] = 0

    while left.any():
        remaining = left.sum(0)
        rarest = int(np.where(remaining > 0, remaining, np.iinfo(np.int64).max).argmin())
        for group in order[left[order, rarest] > 0].tolist():
            assign(group, _hungrier(wanted_of[rarest], wanted))
    for group in order[side[order] < 0].tolist():
        assign(group, _hungrier(wanted, wanted))
    for to in (0, 1):
        if not (side == to).any():
            side[order[-1]] = to  # the smallest group
    return np.asarray(side == 1)


def _hungrier(first: npt.NDArray[np.float64], then: npt.NDArray[np.float64]) -> int:
    """Which of two sides wants more; where both want the same, by the second measure, or the first side."""
    by = first if abs(first[0] - first[1]) > 1e-9 else then
    return int(by[1] > by[0])
