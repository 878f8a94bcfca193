"""Which images go to validation, or to which part, so that each class is shared out as all images are."""

from __future__ import annotations

from collections.abc import Sequence

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

    share: of all images, in (0, 1).  The rest as for :func:`deal`.
    """
    return np.asarray(deal(counts, sizes, (1 - share, share), seed, stratify=stratify) == 1)


def deal(
    counts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    shares: Sequence[float],
    seed: int,
    *,
    stratify: bool = True,
) -> npt.NDArray[np.int64]:
    """To which part each group of images goes: int64 [G], each part at least one of at least as many groups.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011, figure 1), of groups in place of single
    examples: the class with the fewest images left is shared out first, larger groups before smaller ones, to
    the part that wants most images of it; the same data and seed give the same answer.

    Args:
        counts: int64 [G, K], images of each group that have an object of each class.
        sizes: int64 [G], images of each group.
        shares: of all images, for each part; their sum is 1.
        seed: decides between equals.
        stratify: look at the classes; else at the numbers of images alone.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    left = counts.copy() if stratify else np.zeros((len(sizes), 0), dtype=np.int64)
    parts = np.array(shares)
    wanted = parts * sizes.sum()
    wanted_of = np.outer(left.sum(0), parts)
    part = np.full(len(sizes), -1)

    def assign(group: int, to: int) -> None:
        part[group] = to
        wanted[to] -= sizes[group]
        wanted_of[:, to] -= left[group]
        left[group] = 0

    while left.any():
        remaining = left.sum(0)
        rarest = int(np.where(remaining > 0, remaining, np.iinfo(np.int64).max).argmin())
        for group in order[left[order, rarest] > 0].tolist():
            assign(group, _hungriest(wanted_of[rarest], wanted))
    for group in order[part[order] < 0].tolist():
        assign(group, _hungriest(wanted, wanted))
    for to in range(len(parts)):
        if not (part == to).any():
            held = np.bincount(part, minlength=len(parts))
            part[next(group for group in order[::-1] if held[part[group]] > 1)] = (
                to  # the smallest that can go
            )
    return part


def _hungriest(first: npt.NDArray[np.float64], then: npt.NDArray[np.float64]) -> int:
    """Which part wants most; of several that want the same, by the second measure, or the first of them."""
    most = np.flatnonzero(first >= first.max() - 1e-9)
    return int(most[then[most].argmax()])
