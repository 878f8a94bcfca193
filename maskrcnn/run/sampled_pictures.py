"""Pictures for trackers of what the heads train on: proposals, and the RoIs that are sampled of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from maskrcnn.data import Dataset
from maskrcnn.data.loader import eval_loader
from maskrcnn.errors import DataError
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.modeling.precision import autocast
from maskrcnn.recipe import Recipe
from maskrcnn.run.evaluations import SAMPLED
from maskrcnn.run.setup import build_transforms
from maskrcnn.structures import Batch, box_iou
from maskrcnn.structures.padded import pad_proposals, pad_targets
from maskrcnn.viz.box_sets import WITH, WITHOUT, draw_box_sets
from maskrcnn.viz.labels import Image
from maskrcnn.viz.panels import titled
from maskrcnn.viz.picture_names import PictureNames

#: Proposals that are drawn of an image, those of the highest scores.
MOST = 100


@SAMPLED.register("proposals")
@SAMPLED.register("rois")
@torch.no_grad()
def sampled_pictures(
    model: MaskRCNN, val: Dataset, recipe: Recipe, device: torch.device
) -> list[tuple[str, Image]]:
    """``train.pictures_of`` the first ``train.pictures`` images of ``val``, by names of their own.

    The images stand as the network sees them in evaluations.  Proposals are those of a training step; RoIs
    are sampled of them by seeds of the images.  The model is left in evaluation mode, torch's generators as
    they were.

    Args:
        device: the model's.
    """
    model.eval()
    names, made = PictureNames(), list[tuple[str, Image]]()
    transforms = build_transforms(recipe, training=False)
    forked = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with forked, suppress(DataError):  # told by the evaluation, which reads the same images
        for batch in islice(eval_loader(val, transforms), recipe.train.pictures):
            name = names.take(batch.infos[0].file_name)
            made += [(f"train/{kind}/{name}", image) for kind, image in _of(model, batch.to(device), recipe)]
    return made


def _of(model: MaskRCNN, batch: Batch, recipe: Recipe) -> Iterator[tuple[str, Image]]:
    """The pictures of the one image of a batch, by their kinds."""
    assert batch.targets is not None
    targets = pad_targets(batch.targets)
    with autocast(batch.images[0].device, recipe.solver.precision):
        images = model.preprocess(batch.images)
        if model.rpn is not None:
            proposals, _ = model.rpn(images, model.features(images.tensor), targets, batch.seeds)
        else:
            assert batch.proposals is not None
            proposals = pad_proposals(batch.proposals)
        sampled = model.roi.sample(proposals, targets, batch.seeds)
    picture = np.ascontiguousarray(batch.images[0].permute(1, 2, 0).cpu().numpy())
    truth = batch.targets[0].boxes
    for kind in recipe.train.pictures_of:
        if kind == "rois":
            what, boxes, with_object = "RoIs", sampled.boxes, sampled.labels < model.num_classes
        else:
            what, boxes = "proposals", proposals[0][:MOST]
            with_object = _best_iou(boxes, truth) >= model.roi.positive_iou
        yield kind, _draw(picture, what, boxes, with_object, truth)


def _best_iou(boxes: Tensor, truth: Tensor) -> Tensor:
    """[M] of boxes [M, 4] with the nearest of ``truth`` [G, 4]; 0 without any."""
    return box_iou(boxes, truth).amax(dim=1) if len(truth) and len(boxes) else boxes.new_zeros(len(boxes))


def _draw(picture: Image, what: str, boxes: Tensor, with_object: Tensor, truth: Tensor) -> Image:
    """Boxes [M, 4] over a picture, those ``with_object`` (bool [M]) over the others."""
    sets = [
        (boxes[mask].float().cpu().numpy(), colour)
        for mask, colour in ((~with_object, WITHOUT), (with_object, WITH))
    ]
    drawn = draw_box_sets(picture, sets, truth.float().cpu().numpy())
    return titled(drawn, f"{what}: {int(with_object.sum())} of {len(boxes)} with an object (orange)")
