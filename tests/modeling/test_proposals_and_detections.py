"""From head outputs to boxes: proposals of the RPN, detections of the box head, and the batch they run on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maskrcnn.errors import ConfigError
from maskrcnn.modeling.backbones.fpn import FPNConfig
from maskrcnn.modeling.matching import match_boxes
from maskrcnn.modeling.preprocess import PreprocessConfig
from maskrcnn.modeling.roi.decode import own_class, select_detections, select_in_fixed_shape
from maskrcnn.modeling.roi.mask_head import FCNMaskHeadConfig
from maskrcnn.modeling.roi.pooler import to_rois
from maskrcnn.modeling.roi.rois import DetectedRoIs
from maskrcnn.modeling.rpn.decode import select_proposals
from maskrcnn.structures import box_iou
from maskrcnn.structures.padded import pad_proposals

LEVEL_0 = [[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [20.0, 20.0, 40.0, 40.0], [-5.0, -5.0, 0.0, 5.0]]
SIZE = torch.tensor([[50.0, 60.0]])
LEVEL_1 = [[0.0, 0.0, 10.0, 10.0], [30.0, 30.0, 70.0, 70.0]]


def proposals(**changes: object) -> Tensor:
    """Of one 50 x 60 image, with the anchors above and deltas of 0."""
    options: dict[str, object] = {"pre_nms": 10, "post_nms": 10, "nms_threshold": 0.5} | changes
    anchors = [torch.tensor(LEVEL_0), torch.tensor(LEVEL_1)]
    logits = [torch.tensor([[3.0, 4.0, 1.0, 9.0]]), torch.tensor([[2.0, 0.0]])]
    deltas = [torch.zeros(1, len(a), 4) for a in anchors]
    found = select_proposals(anchors, logits, deltas, SIZE, **options)  # type: ignore[arg-type]
    scores = found.scores_of(0)
    assert scores.shape == (len(found[0]),)
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    return found[0]


def test_proposals_are_cut_suppressed_a_level_and_sorted() -> None:
    # Level 0: the fourth anchor is empty once cut, the first falls to the second (IoU 9/11).
    # Level 1 keeps the same box, since levels do not suppress one another; its second is cut to the image.
    assert proposals().tolist() == [
        [1.0, 0.0, 11.0, 10.0],
        [0.0, 0.0, 10.0, 10.0],
        [20.0, 20.0, 40.0, 40.0],
        [30.0, 30.0, 60.0, 50.0],
    ]


def test_proposal_counts_and_thresholds() -> None:
    assert len(proposals(pre_nms=1)) == 1  # the best of level 0 is empty, the best of level 1 stays
    assert proposals(post_nms=2).tolist() == [[1.0, 0.0, 11.0, 10.0], [0.0, 0.0, 10.0, 10.0]]
    assert proposals(min_size=20.0).tolist() == [[20.0, 20.0, 40.0, 40.0], [30.0, 30.0, 60.0, 50.0]]
    assert len(proposals(min_score=0.6)) == 3  # sigmoid(0) = 0.5 goes
    assert len(proposals(nms_threshold=0.9)) == 5


def test_scores_are_probabilities() -> None:
    anchors = [torch.tensor(LEVEL_0)]
    logits = [torch.tensor([[3.0, 4.0, 1.0, 9.0]])]
    found = select_proposals(
        anchors, logits, [torch.zeros(1, 4, 4)], SIZE, pre_nms=4, post_nms=4, nms_threshold=0.9
    )
    assert found.scores_of(0).tolist() == pytest.approx(
        [0.98201, 0.95257, 0.73106], abs=1e-5
    )  # sigmoid of 4, 3, 1


def test_rank_by_probability_ties_where_the_sigmoid_saturates() -> None:
    anchors = [torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0]])]
    logits, deltas = [torch.tensor([[30.0, 40.0]])], [torch.zeros(1, 2, 4)]
    best = [
        select_proposals(
            anchors, logits, deltas, SIZE, pre_nms=2, post_nms=1, nms_threshold=0.9, rank_by=rank
        )[0].tolist()
        for rank in ("logit", "probability")
    ]
    assert best[0] == [[1.0, 0.0, 11.0, 10.0]]
    assert torch.tensor([30.0]).sigmoid() == torch.tensor([40.0]).sigmoid()  # the second may be either


def test_broken_outputs_give_no_proposal() -> None:
    anchors = [torch.tensor(LEVEL_0)]
    bad = torch.full((1, 4), float("nan"))
    found = select_proposals(
        anchors, [bad], [torch.zeros(1, 4, 4)], SIZE, pre_nms=4, post_nms=4, nms_threshold=0.7
    )
    assert (found[0].shape, found.scores_of(0).shape) == ((0, 4), (0,))
    assert found.boxes.tolist() == [[[0.0, 0.0, 1.0, 1.0]] * 4] and not found.real.any()


def detections(logits: Tensor, deltas: Tensor, boxes: Tensor, **changes: object) -> DetectedRoIs:
    options: dict[str, object] = {
        "weights": (1.0, 1.0, 1.0, 1.0),
        "score_threshold": 0.05,
        "nms_threshold": 0.5,
        "max_detections": 100,
    } | changes
    scores = logits.softmax(dim=1)[:, :-1]
    sizes = torch.tensor([[50.0, 60.0]])
    return select_detections(scores, deltas, to_rois([boxes]), sizes, **options)  # type: ignore[arg-type]


def test_detections_suppress_within_a_class_only() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [40.0, 40.0, 80.0, 80.0]])
    probability = torch.tensor([[0.6, 0.3, 0.1], [0.7, 0.02, 0.28], [0.04, 0.5, 0.46]])  # background last
    found = detections(probability.log(), torch.zeros(3, 8), boxes)
    assert found.scores.tolist() == pytest.approx([0.7, 0.5, 0.3])
    assert found.labels.tolist() == [0, 1, 1]
    assert found.boxes.tolist() == [[1.0, 0.0, 11.0, 10.0], [40.0, 40.0, 60.0, 50.0], [0.0, 0.0, 10.0, 10.0]]
    assert len(detections(probability.log(), torch.zeros(3, 8), boxes, max_detections=2)) == 2
    assert len(detections(probability.log(), torch.zeros(3, 8), boxes, score_threshold=0.5)) == 1


def test_across_classes_the_best_class_stays() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [30.0, 30.0, 40.0, 40.0]])
    probability = torch.tensor([[0.6, 0.3, 0.1], [0.02, 0.7, 0.28], [0.04, 0.5, 0.46]])
    found = detections(probability.log(), torch.zeros(3, 8), boxes, across_classes=True)
    assert found.scores.tolist() == pytest.approx([0.7, 0.5]) and found.labels.tolist() == [1, 1]
    assert (
        len(detections(probability.log(), torch.zeros(3, 8), boxes, across_classes=True, max_detections=1))
        == 1
    )


def test_in_fixed_shapes_the_same_is_kept_across_classes() -> None:
    """More candidates than there is room for: what is suppressed makes room for others, in both forms."""
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(2, 60, 2, generator=generator) * 20
    boxes = torch.cat((corner, corner + 10), dim=2)
    scores, sizes = torch.rand(2, 60, 3, generator=generator), torch.tensor([[30.0, 25.0]] * 2)
    options = {"weights": (5.0, 5.0, 5.0, 5.0), "score_threshold": 0.3, "nms_threshold": 0.4}
    options |= {"max_detections": 5, "across_classes": True}
    deltas = torch.zeros(2, 60, 4)
    rois = to_rois([*boxes])
    dynamic = select_detections(scores.flatten(0, 1), deltas.flatten(0, 1), rois, sizes, **options)  # type: ignore[arg-type]
    static = select_in_fixed_shape(scores, deltas, pad_proposals([*boxes]), sizes, **options)  # type: ignore[arg-type]
    assert len(dynamic) == 10 and static.real is not None and bool(static.real.all())
    assert dynamic.rois.equal(static.rois) and dynamic.labels.equal(static.labels)
    for image in range(2):
        mine = dynamic.boxes[dynamic.images == image]
        assert box_iou(mine, mine).fill_diagonal_(0).max() <= 0.4
    within = select_detections(
        scores[0], deltas[0], to_rois([boxes[0]]), sizes[:1], **options | {"across_classes": False}
    )  # type: ignore[arg-type]
    assert box_iou(within.boxes, within.boxes).fill_diagonal_(0).max() > 0.4


def test_each_class_uses_its_own_deltas() -> None:
    logits = torch.tensor([[0.5, 0.45, 0.05]]).log()
    deltas = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0]])  # class 1 moves right by half a width
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    found = detections(logits, deltas, boxes)
    assert found.boxes.tolist() == [[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0]]
    agnostic = detections(logits, deltas[:, 4:], boxes)
    assert agnostic.boxes.tolist() == [[5.0, 0.0, 15.0, 10.0]] * 2


def test_small_and_broken_boxes_go() -> None:
    logits = torch.tensor([[0.9, 0.1]]).log().expand(3, 2)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 20.0, 30.0, 20.0], [20.0, 20.0, 30.0, 30.0]])
    deltas = torch.zeros(3, 4)
    assert len(detections(logits, deltas, boxes)) == 3  # as Detectron2: an empty box stays
    assert len(detections(logits, deltas, boxes, min_size=0.01)) == 2
    deltas[2, 0] = float("nan")
    assert len(detections(logits, deltas, boxes)) == 2


def test_no_proposal_gives_no_detection() -> None:
    found = detections(torch.zeros(0, 3), torch.zeros(0, 8), torch.zeros(0, 4))
    assert found.boxes.shape == (0, 4)
    assert found.labels.dtype == torch.int64


@pytest.mark.parametrize("counts", [(30, 0, 7), (0, 0), (1, 1, 1, 40)], ids=str)
@pytest.mark.parametrize("min_size", [0.0, 6.0])
def test_a_batch_is_what_its_images_are_alone(counts: tuple[int, ...], min_size: float) -> None:
    generator = torch.Generator().manual_seed(sum(counts))
    rows = sum(counts)
    scores = torch.rand(rows, 3, generator=generator)
    deltas = torch.randn(rows, 12, generator=generator)
    corner = torch.rand(rows, 2, generator=generator) * 20
    boxes = torch.cat((corner, corner + 10), dim=1)
    sizes = torch.tensor([[30.0 + i, 25.0] for i in range(len(counts))])
    options = {"weights": (5.0, 5.0, 5.0, 5.0), "score_threshold": 0.3, "nms_threshold": 0.4}
    options |= {"max_detections": 9, "min_size": min_size}
    found = select_detections(scores, deltas, to_rois(boxes.split(counts)), sizes, **options)  # type: ignore[arg-type]
    alone = [
        select_detections(s, d, to_rois([b]), size[None], **options)  # type: ignore[arg-type]
        for s, d, b, size in zip(
            scores.split(counts), deltas.split(counts), boxes.split(counts), sizes, strict=True
        )
    ]
    assert found.real is None
    assert torch.equal(found.rois, to_rois([one.boxes for one in alone]))
    assert torch.equal(found.labels, torch.cat([one.labels for one in alone]))
    assert torch.equal(found.scores, torch.cat([one.scores for one in alone]))
    assert max(map(len, alone)) == (9 if rows else 0)


def test_own_class_picks_the_row_s_class() -> None:
    values = torch.arange(12.0).view(2, 3, 2)
    assert own_class(values, torch.tensor([2, 0])).tolist() == [[4.0, 5.0], [6.0, 7.0]]
    assert own_class(values[:, :1], torch.tensor([2, 0])).tolist() == [[0.0, 1.0], [6.0, 7.0]]


def test_a_ground_truth_that_meets_no_anchor_claims_none() -> None:
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    _, labels = match_boxes(torch.tensor([[90.0, 90.0, 95.0, 95.0]]), anchors, 0.3, 0.7, low_quality=True)
    assert labels.tolist() == [0, 0]


def test_images_are_normalised_and_padded_with_zeros() -> None:
    prepare = PreprocessConfig(mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 5.0), size_divisor=8).build(False)
    first = torch.full((3, 5, 9), 50, dtype=torch.uint8)
    second = torch.full((3, 8, 3), 30.0)
    batch = prepare([first, second])
    assert batch.tensor.shape == (2, 3, 8, 16)
    assert batch.sizes == [(5, 9), (8, 3)]
    assert batch.padded_size == (8, 16)
    assert batch.tensor[0, :, 4, 8].tolist() == [20.0, 7.5, 4.0]
    assert batch.tensor[1, :, 7, 2].tolist() == [10.0, 2.5, 0.0]
    assert batch.tensor[0, :, 5:].abs().max() == 0
    assert batch.tensor[0, :, :, 9:].abs().max() == 0
    assert first.dtype == torch.uint8
    assert (second == 30).all()  # the caller's images stay as they were


def test_fpn_adds_what_comes_from_above() -> None:
    channels, strides = {"c2": 4, "c3": 6, "c4": 8}, {"c2": 4, "c3": 8, "c4": 16}
    fpn = FPNConfig(out_channels=5).build(channels, strides)
    assert fpn.strides == {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
    assert fpn.channels == dict.fromkeys(fpn.strides, 5)
    features = {n: torch.randn(2, c, 32 // strides[n], 48 // strides[n]) for n, c in channels.items()}
    out = fpn(features)
    assert {n: tuple(f.shape) for n, f in out.items()} == {
        "p2": (2, 5, 8, 12), "p3": (2, 5, 4, 6), "p4": (2, 5, 2, 3), "p5": (2, 5, 1, 2),
    }  # fmt: skip
    assert torch.equal(out["p5"], out["p4"][:, :, ::2, ::2])
    top = fpn.lateral["c4"](features["c4"])
    middle = fpn.lateral["c3"](features["c3"]) + top.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(out["p3"], fpn.output["c3"](middle))
    assert list(FPNConfig(top=None).build(channels, strides).strides) == ["p2", "p3", "p4"]
    with pytest.raises(ConfigError, match="strides double"):
        FPNConfig().build({"c2": 4, "c5": 8}, {"c2": 4, "c5": 32})


def test_mask_head_doubles_the_side_and_its_loss_reads_one_class() -> None:
    head = FCNMaskHeadConfig(convs=2, width=8, pool_size=6, norm="gn").build(4, 3)
    logits = head(torch.randn(5, 4, 6, 6))
    assert logits.shape == (5, 3, 12, 12)
    assert head.mask_size == 12
    labels, target = torch.tensor([0, 1, 2, 1, 0]), torch.ones(5, 12, 12)
    logits = logits.detach().requires_grad_()
    head.loss(logits, labels, target).backward()
    assert logits.grad is not None
    touched = logits.grad.abs().amax(dim=(2, 3)) > 0
    assert torch.equal(touched, torch.nn.functional.one_hot(labels, 3).bool())
    assert head.probabilities(torch.zeros(5, 3, 12, 12), labels).unique().tolist() == [0.5]
