"""What a rank's losses weigh in a batch that it shares; what ranks do together stands in uneven_ranks.py."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.sharing import Shares
from maskrcnn.modeling.losses import by_images, of_whole, weighed_losses
from tests.engine.line import CPU


@dataclass(frozen=True)
class Beside(Ranks):
    """One of two ranks; the other counts ``other``."""

    other: tuple[float, ...] = ()

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor + torch.tensor(self.other, dtype=tensor.dtype)


def test_losses_weigh_by_what_they_are_means_over() -> None:
    shares = Shares(Beside(0, 2, 0, CPU, other=(1, 5, 1, 0, 2)))
    with shares.noted() as found:
        losses = {
            "loss_mask": of_whole(torch.tensor(2.0), 3),  # over 3 masks here, 1 there
            "loss_none": of_whole(torch.tensor(0.0), torch.tensor(0)),  # none here, 5 there
            "loss_fixed": of_whole(torch.tensor(4.0), None),
            "loss_nobody": of_whole(torch.tensor(0.0), 0),
        }
        plain = torch.tensor(7.0)  # of a head that says nothing: a mean over images
    weighed = shares.weigh({**losses, "loss_plain": plain}, found, 2)
    assert shares.weighed == 1
    values = {name: value.item() for name, value in weighed.items()}
    assert values == pytest.approx(
        {"loss_mask": 2 * 3 * 2 / 4, "loss_none": 0, "loss_fixed": 4, "loss_nobody": 0, "loss_plain": 7}
    )


def test_what_a_head_makes_of_its_losses_weighs_as_they_do() -> None:
    shares = Shares(Beside(0, 2, 0, CPU, other=(1, 2)))
    with shares.noted() as found:
        before = weighed_losses()
        one = by_images({"loss_a": 0.5 * of_whole(torch.tensor(2.0), 3)}, 2, before)
        before = weighed_losses()
        other = by_images({"loss_b": torch.tensor(4.0)}, 2, before)
    weighed = shares.weigh(one | other, found, 2)
    assert weighed["loss_a"].item() == pytest.approx(1.0 * 3 * 2 / 4)
    assert weighed["loss_b"].item() == 4.0
