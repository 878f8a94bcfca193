"""Average recall against tables worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from maskrcnn.evaluation.recall import average_recall, best_overlaps


def test_a_proposal_serves_one_ground_truth() -> None:
    truth = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8]])
    # IoU with the truths: 0.9 and 8/9; 0.5 and 0.625.
    proposals = torch.tensor([[0.0, 0, 10, 9], [0, 0, 10, 5]])
    assert best_overlaps(proposals, truth).tolist() == pytest.approx([0.9, 0.625])
    assert best_overlaps(proposals[:1], truth).tolist() == pytest.approx([0.9, 0.0])
    assert best_overlaps(proposals.flip(0), truth).tolist() == pytest.approx([0.9, 0.625])


def test_nothing_to_find_and_nothing_found() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]])
    assert best_overlaps(boxes, boxes[:0]).shape == (0,)
    assert best_overlaps(boxes[:0], boxes).tolist() == [0.0]
    assert math.isnan(average_recall(torch.zeros(0)))


def test_average_recall_counts_the_thresholds_that_are_met() -> None:
    # 1.0 meets all ten, 0.5 one, 0.72 five (0.5 to 0.7), 0.49 none: 16 of 40.
    assert average_recall(torch.tensor([1.0, 0.5, 0.72, 0.49])) == pytest.approx(0.4)
