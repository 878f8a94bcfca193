"""Write the proposals of a trained RPN to a file, which Fast R-CNN then trains on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

import torch

from maskrcnn.data import Dataset
from maskrcnn.data.proposal_file import ProposalSpool, write_proposals
from maskrcnn.data.tiles import TiledDataset
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks, connect
from maskrcnn.engine.memory import keep_freed_memory
from maskrcnn.errors import UserError, plural
from maskrcnn.evaluation.recall import average_recall, best_overlaps
from maskrcnn.files import scratch, unwritten
from maskrcnn.inference.loop import PredictionProgress, evaluating
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.modeling.precision import autocast
from maskrcnn.modeling.rpn.rpn import RPN
from maskrcnn.recipe import Recipe
from maskrcnn.run.evaluation import progress_lines
from maskrcnn.run.preflight import PROPOSALS, Start, run_checks
from maskrcnn.run.setup import (
    eval_batches,
    load_model,
    load_state,
    new_console,
    one_first,
)
from maskrcnn.viz.tables import aligned

Split = Literal["train", "val"]

#: Average recall is told for so many proposals an image (Detectron, COCO's own evaluation of proposals).
RECALL_AT = (100, 1000)


def propose(
    checkpoint: Path,
    output: Path,
    recipe: Recipe | None = None,
    *,
    split: Split = "val",
    limit: int | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, float] | None:
    """Run a checkpoint's RPN over a data set and write its proposals, in the original frame.

    All images count, also those without ground truth, with ``data.eval_transforms``.

    Args:
        checkpoint: a checkpoint file, or a run's folder (its best).
        output: the file, see :mod:`maskrcnn.data.proposal_file`; replaced if it exists.
        recipe: how; None: as the checkpoint says.
        split: over ``data.train`` or ``data.val``.
        limit: only so many images, those of the smallest ids.
        overrides: ``key.path=value`` on the checkpoint's recipe, where ``recipe`` is None.

    Returns:
        the average recall by name ("AR@100", "AR@1000") on rank 0, None on the others.

    Raises:
        UserError: the model has no RPN, the split is not set, or the file cannot be written.
        CheckpointError: the checkpoint is unreadable or belongs to another model.
        DataError: the data are wrong.
    """
    keep_freed_memory()
    path, state, recipe = load_state(checkpoint, recipe, overrides)
    config = recipe.data.train if split == "train" else recipe.data.val
    if recipe.model.rpn is None:
        raise UserError("this model has no RPN (model.rpn is null), so it cannot propose anything")
    if config is None:
        raise UserError("data.val is not set; set it in the config, or take --split train")
    ranks = connect(recipe.device)
    with closing(new_console(ranks)) as console:
        console.take_logs()
        dataset = one_first(ranks, lambda: recipe.data.build(config, False))
        start = Start(recipe, ranks, console, f"data.{split}", dataset, files={"--output": output})
        run_checks([(name, start) for name in PROPOSALS], "before the proposals")
        model = load_model(recipe, state, path, ranks.device)
        total = min(len(dataset), limit or len(dataset))
        console.line(f"{path}: step {state.step}, {plural(total, 'image')} of {dataset.annotation_file}")
        with _spool(output) as spool:
            overlaps = _run(model, dataset, recipe, ranks, console, total, spool)
            spool.close()
            parts = ranks.gather((spool.path, spool.image_ids, spool.counts))
            gathered = ranks.gather(overlaps)
            count = write_proposals(output, parts) if ranks.is_main else 0
            ranks.barrier()  # the raw files stay until they are joined
        if not ranks.is_main:
            return None
        console.line(f"{plural(count, 'proposal')} written to {output}")
        figures = _recalls(gathered)
        console.line("average recall, IoU 0.5 to 0.95, of proposals an image:")
        for line in aligned([(f"  {name}", f"{value:.3f}") for name, value in figures.items()]):
            console.line(line)
        return figures


def recall(
    model: MaskRCNN, dataset: Dataset, recipe: Recipe, ranks: Ranks, console: Console, most: int
) -> dict[str, float]:
    """The average recall of proposals as :func:`propose` tells it, on the first ``most`` images at most, or
    windows of them (``data.tiles``); on rank 0, on the others empty.
    """
    if recipe.data.tiles is not None:
        dataset = TiledDataset(dataset, recipe.data.tiles, training=False)
    overlaps = _run(model, dataset, recipe, ranks, console, min(len(dataset), most))
    gathered = ranks.gather(overlaps)
    return _recalls(gathered) if ranks.is_main else {}


def _recalls(gathered: Sequence[Sequence[torch.Tensor]]) -> dict[str, float]:
    """By number of proposals, of what each rank found."""
    return {
        f"AR@{k}": average_recall(torch.cat([found[i] for found in gathered]))
        for i, k in enumerate(RECALL_AT)
    }


@contextmanager
def _spool(output: Path) -> Iterator[ProposalSpool]:
    """This rank's raw file beside the output, removed at the end.

    Raises:
        OutputError: it, or the output in the body, cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with scratch(output) as file:
            yield ProposalSpool(file)
    except OSError as error:
        raise unwritten(output, error) from error


def _run(
    model: MaskRCNN,
    dataset: Dataset,
    recipe: Recipe,
    ranks: Ranks,
    console: Console,
    total: int,
    spool: ProposalSpool | None = None,
) -> list[torch.Tensor]:
    """This rank's images, into ``spool``; for each of ``RECALL_AT`` the IoUs of all ground truths."""
    loader = eval_batches(dataset, recipe, ranks, limit=total)
    overlaps: list[list[torch.Tensor]] = [[torch.zeros(0)] for _ in RECALL_AT]
    tell = progress_lines(console, "proposing")
    begin, done, share = time.perf_counter(), 0, -(-total // ranks.size)
    rpn: RPN | None = model.rpn
    assert rpn is not None
    with evaluating(model), torch.inference_mode():
        for batch in loader:
            with autocast(ranks.device, recipe.eval.precision):
                images = model.preprocess([image.to(ranks.device) for image in batch.images])
                proposed = rpn.propose(images, model.features(images.tensor))
            assert batch.targets is not None
            for i, (info, size, target) in enumerate(
                zip(batch.infos, images.sizes, batch.targets, strict=True)
            ):
                found, score = proposed[i].float().cpu(), proposed.scores_of(i).float().cpu()
                for values, count in zip(overlaps, RECALL_AT, strict=True):
                    values.append(best_overlaps(found[:count], target.boxes))
                factor = torch.tensor([info.width / size[1], info.height / size[0]]).repeat(2)
                if spool is not None:
                    spool.add(info.image_id, found * factor, score)
            done += len(batch)
            rate = done / max(time.perf_counter() - begin, 1e-9)
            tell(PredictionProgress(done, share, rate, max(share - done, 0) / rate))
    return [torch.cat(values) for values in overlaps]
