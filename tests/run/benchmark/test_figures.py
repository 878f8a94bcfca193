from __future__ import annotations

import pytest

from tests.run.benchmark.made import made


def test_the_lines_say_it_all() -> None:
    text = "\n".join(made(advice="the advice").lines())
    for part in (
        "20 images/s",
        "median 1066 x 800",
        "backward",
        "at work for 95%",
        "5 images/s",
        "the advice",
    ):
        assert part in text
    assert made().share_of_peak == pytest.approx(10**12 / 0.4 / 10**13)
