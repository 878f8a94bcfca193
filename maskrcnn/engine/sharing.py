"""A batch that several ranks share: their losses weigh what they weigh in the whole.

Losses are means over what differs from rank to rank, as masks and visible keypoints.  A mean over the ranks
of such means is not that of the whole batch, unless each weighs as much as it counts.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.passes import SHARES, Losses
from maskrcnn.modeling.losses import Noted, noted


@SHARES.register("ranks")
@dataclass
class Shares:
    """Weighs the losses of each pass of a step, by one sum over the ranks a pass.

    A loss that the model hands on as another tensor than ``losses.of_whole`` gave is a mean over images.
    """

    ranks: Ranks

    def __post_init__(self) -> None:
        #: Passes of this step that were weighed.
        self.weighed = 0

    def noted(self) -> AbstractContextManager[Noted]:
        """Context of a forward pass; gives what :meth:`weigh` takes."""
        return noted()

    def weigh(self, losses: Losses, found: Noted, images: int) -> Losses:
        """``losses`` of this rank's share, of as many names on every rank; their means over the ranks are
        those of the whole batch.

        Args:
            images: in the share.
        """
        counts = {id(loss): count for loss, count in found}
        mine = torch.stack([self._scalar(counts.get(id(loss), images)) for loss in losses.values()])
        total = self.ranks.sum(mine.clone())
        self.weighed += 1
        # 1 where all count the same, to the bit; and where nobody has any: the loss is 0 then.
        weights = torch.where(total > 0, mine * self.ranks.size / total, 1.0).float()
        return {name: loss * weight for (name, loss), weight in zip(losses.items(), weights, strict=True)}

    def _scalar(self, count: Tensor | float | None) -> Tensor:
        """On the device, without a wait for it; None: the same on all ranks."""
        if isinstance(count, Tensor):
            return count.detach().double().view(())
        return torch.full((), 1.0 if count is None else count, dtype=torch.float64, device=self.ranks.device)
