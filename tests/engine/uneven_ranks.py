"""What ranks of unequal shares do; started by test_uneven_ranks.py under torchrun."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from maskrcnn.data.loader import train_loader
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks, connect, leave
from maskrcnn.engine.outcomes import Wishes
from maskrcnn.recipe import load_recipe
from maskrcnn.run import setup, train
from maskrcnn.structures import Batch
from tests.engine.line import ALONE
from tests.engine.sharded_ranks import make

#: Images of one size, since padding is to the largest of a rank.
EQUAL = ["data.train_transforms=[hflip]", "solver.batch_size=6"]
#: Of which few images have as many masks, RoIs and visible keypoints as others.
KEYPOINTS = [
    "model.keypoint_head={type: conv, num_keypoints: 4, convs: 1, width: 16, pool_size: 7}",
    "data.train={type: synthetic, keypoints: true, size: 64, num_images: 9, root: FOLDER}",
    "data.val=null",
]


def pick(batch: Batch, places: Sequence[int]) -> Batch:
    """A batch of some of the images of another."""
    assert batch.targets is not None and batch.seeds is not None
    return Batch(
        [batch.images[k] for k in places],
        [batch.infos[k] for k in places],
        [batch.targets[k] for k in places],
        seeds=batch.seeds[list(places)],
    )


def check_parts_are_the_whole(
    recipe_file: str, ranks: Ranks, keys: list[str], kind: str = "ddp", pieces: int = 1
) -> None:
    """Ranks with a part of the images each take the step of one process with all, to rounding."""
    recipe = load_recipe(recipe_file, keys)
    step, data = make(recipe_file, ranks, kind, keys, False)
    alone, _ = make(recipe_file, ALONE, kind, keys, False)
    step.passes.pieces = pieces
    for one in (step, alone):
        one.strategy.module.train()
    source = train_loader(
        data.train,
        setup.build_transforms(recipe, training=True),
        images_per_rank=6,
        accumulate=1,
        start_step=0,
        total_steps=3,
        seed=0,
        rank=0,
        world_size=1,
        workers=0,
    )
    labelled = []
    for i, batch in enumerate(source):
        batch.targets[:2] = [t.select(torch.zeros(0, dtype=torch.int64)) for t in batch.targets[:2]]
        mine = range(ranks.rank * 6 // ranks.size, (ranks.rank + 1) * 6 // ranks.size)
        part = pick(batch, mine)
        labelled += ranks.gather(sum(len(t.labels) for t in part.targets))
        found, want = step.take(i, iter([part]), Wishes), alone.take(i, iter([batch]), Wishes)
        assert found.losses.keys() == want.losses.keys()
        for name, value in want.losses.items():
            assert abs(found.losses[name] - value) <= 1e-4 * abs(value) + 1e-6, (
                *(kind, pieces, i, name),
                found.losses,
                want.losses,
            )
        assert abs(found.grad_norm - want.grad_norm) <= 1e-3 * want.grad_norm
    assert not ranks.is_main or min(labelled) == 0, labelled  # a rank without any object


def main(recipe_file: str, *more: str) -> None:
    ranks = connect("cpu")
    points = [*EQUAL, *(key.replace("FOLDER", str(Path(recipe_file).parent)) for key in KEYPOINTS)]
    check_parts_are_the_whole(recipe_file, ranks, EQUAL)
    check_parts_are_the_whole(recipe_file, ranks, [*points, "model.static_shapes=true"])
    check_parts_are_the_whole(recipe_file, ranks, points, "fsdp")
    check_parts_are_the_whole(recipe_file, ranks, points, pieces=2)
    for folder, keys in zip(more[::2], more[1::2], strict=True):
        train(load_recipe(recipe_file, keys.split()), Path(folder), console=Console(quiet=True))


if __name__ == "__main__":
    faulthandler.dump_traceback_later(200, exit=True)  # a hang shows where
    torch.set_num_threads(1)
    main(*sys.argv[1:])
    leave()
