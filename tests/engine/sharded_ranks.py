"""What several processes do with a model that is dealt out over them; started by test_sharded.py."""

from __future__ import annotations

import faulthandler
import sys
from copy import deepcopy
from pathlib import Path

import torch

from maskrcnn.engine.checkpoint import Checkpoint, load, load_parts
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks, connect, leave
from maskrcnn.engine.outcomes import Wishes
from maskrcnn.engine.step import AVERAGES, Step
from maskrcnn.engine.strategy import Strategy, choose_strategy
from maskrcnn.modeling.mask_rcnn import RECOMPUTATIONS
from maskrcnn.recipe import load_recipe
from maskrcnn.run import setup, train
from tests.engine.line import ALONE
from tests.test_resume import equal

KINDS = ("ddp", "fsdp")
#: Images of one size, since padding is to the largest of a rank.
CHANGES = ("solver.batch_size=6", "data.train_transforms=[hflip]")


def make(
    recipe_file: str, ranks: Ranks, kind: str, keys: list[str], deferred: bool
) -> tuple[Step, setup.Data]:
    recipe = load_recipe(recipe_file, keys)
    data = setup.build_data(recipe, ranks)
    torch.manual_seed(7)
    model = setup.place_model(recipe, len(data.train.categories), ranks.device)
    solver, average = recipe.solver, None
    strategy = choose_strategy(ranks, model, kind)
    if solver.checkpoint_activations:
        assert RECOMPUTATIONS.get("backbone")(model) > 4
    optimizer = recipe.solver.optimizer.build(model, 0.01)
    strategy.adopt(optimizer)
    if solver.ema is not None:
        average = AVERAGES.get("ema")(strategy, **solver.ema.arguments())
    step = Step(
        strategy,
        optimizer,
        lambda step: 0.01,
        seed=0,
        precision=recipe.solver.precision,
        accumulate=recipe.solver.accumulate,
        clip_grad_norm=recipe.solver.clip_grad_norm,
        deferred=deferred,
        average=average,
    )
    return step, data


def make_steps(
    recipe_file: str, ranks: Ranks, kind: str, keys: list[str], deferred: bool
) -> list[Checkpoint]:
    """States after no step and after three, with the losses of these in place of a config."""
    from maskrcnn.data.loader import train_loader

    recipe = load_recipe(recipe_file, keys)
    step, data = make(recipe_file, ranks, kind, keys, deferred)
    step.strategy.module.train()
    source = iter(
        train_loader(
            data.train,
            setup.build_transforms(recipe, training=True),
            images_per_rank=setup.images_per_pass(recipe, ranks),
            accumulate=recipe.solver.accumulate,
            start_step=0,
            total_steps=3,
            seed=0,
            rank=ranks.rank,
            world_size=ranks.size,
            workers=0,
        )
    )
    found = []
    for i in range(4):
        states = deepcopy({name: part.save() for name, part in step.parts().items()})
        found.append(Checkpoint(model={}, step=i).with_states(states))
        if i < 3:
            step.take(i, source, Wishes)
    return [found[0], found[-1]]


def check_equal_steps(recipe_file: str, ranks: Ranks) -> None:
    """Three steps are those of whole models, to rounding, in each form that a step has."""
    adam = "solver.optimizer={type: adamw, lr: 0.001, eps: 1.0e-3}"
    forms: list[tuple[list[str], bool]] = [
        (["solver.clip_grad_norm=0.5"], False),
        # In one layout of memory: half precision rounds differently in others, and ranks proposals by that.
        (["solver.accumulate=3", "solver.precision=float16", "model.channels_last=false"], True),
        ([adam, "model.neck.norm=gn"], True),
    ]
    for keys, deferred in forms:
        (first, whole), (same, sharded) = (
            make_steps(recipe_file, ranks, kind, [*keys, "solver.batch_size=6"], deferred) for kind in KINDS
        )
        assert list(whole.model) == list(sharded.model)
        moved = 0.0
        for name, value in whole.model.items():
            assert first.model[name].equal(same.model[name]), name
            assert not type(sharded.model[name]).__name__.startswith("DTensor")
            torch.testing.assert_close(sharded.model[name], value, rtol=1e-3, atol=2e-5, msg=f"{keys} {name}")
            moved = max(moved, float((value - first.model[name]).abs().max()))
        assert moved > 1e-4
        assert whole.optimizer["state"].keys() == sharded.optimizer["state"].keys()
        assert whole.scaler == sharded.scaler


def check_average_and_recomputation(recipe_file: str, ranks: Ranks) -> None:
    """With an average of the weights, and activations computed anew: the steps of one process, to rounding;
    the average goes through a checkpoint, and is what evaluations see.
    """
    backbone = "model.backbone={type: resnet, depth: 18, width: 8, norm: gn, freeze_at: 0}"
    keys = [*CHANGES, backbone, "solver.ema={decay: 0.5}", "solver.accumulate=3"]
    again = [*keys, "solver.checkpoint_activations=true"]
    first, alone = make_steps(recipe_file, ALONE, "ddp", keys, False)
    for options, kind, deferred in ((again, "ddp", False), (again, "fsdp", True)):
        _, shared = make_steps(recipe_file, ranks, kind, options, deferred)
        moved = 0.0
        for name, value in alone.more["ema"].items():
            found = shared.more["ema"][name]
            torch.testing.assert_close(found, value, rtol=1e-3, atol=2e-5, msg=f"{kind} {name}")
            torch.testing.assert_close(shared.model[name], alone.model[name], rtol=1e-3, atol=2e-5)
            apart = (found - shared.model[name]).abs().max(), (found - first.model[name]).abs().max()
            moved = max(moved, float(min(apart)))
        assert moved > 1e-4  # it is neither the weights nor what they were
    step, _ = make(recipe_file, ranks, "fsdp", again, False)
    load_parts(step.parts(), shared, Path("x.pt"))
    assert step.average is not None and equal(step.average.state(), shared.more["ema"])
    with step.average.applied(), step.strategy.whole() as model:
        seen = dict(model.state_dict())
    assert all(seen[name].equal(value) for name, value in shared.more["ema"].items())
    assert equal(step.strategy.model_state(), shared.model)


def check_round_trip(recipe_file: str, ranks: Ranks) -> None:
    """What is dealt out and gathered again is what it was, to the bit; evaluation sees the whole."""
    for keys in ([], ["solver.optimizer={type: adamw, lr: 0.001}"]):
        keys = [*keys, "solver.batch_size=6"]
        _, state = make_steps(recipe_file, ranks, "ddp", keys, False)
        step, _ = make(recipe_file, ranks, "fsdp", keys, False)
        load_parts(step.parts(), state, Path("x.pt"))
        assert equal(step.strategy.model_state(), state.model)
        saved = step.strategy.optimizer_state(step.optimizer)
        assert equal(saved["state"], state.optimizer["state"])
        own = step.strategy.own_parts()
        count = sum(p.numel() for p in own)
        assert count < 0.7 * sum(p.numel() for p in step.parameters)
        with step.strategy.whole(write=True) as model:
            assert equal(dict(model.state_dict()), dict(state.model))
            for _ in range(ranks.rank + 1):  # ranks may make different numbers of passes
                model.eval()([torch.rand(3, 64, 64)])
            with torch.no_grad():
                next(iter(model.parameters())).fill_(0.25)
        name = next(iter(dict(model.named_parameters())))
        assert step.strategy.model_state()[name].eq(0.25).all()


def main(what: str, recipe_file: str, *more: str) -> None:
    ranks = connect("cpu")
    if what == "check":
        check_equal_steps(recipe_file, ranks)
        check_round_trip(recipe_file, ranks)
        check_average_and_recomputation(recipe_file, ranks)
        assert isinstance(choose_strategy(ALONE, torch.nn.Linear(2, 2), "fsdp"), Strategy)
    for folder, kind, steps in zip(more[::3], more[1::3], more[2::3], strict=True):
        keys = [f"solver.strategy={kind}", f"solver.steps={steps}", *CHANGES]
        result = train(load_recipe(recipe_file, keys), Path(folder), resume=True, console=Console(quiet=True))
        assert result.step == int(steps)
        assert load(Path(folder) / "checkpoints" / "last.pt").step == int(steps)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(200, exit=True)  # a hang shows where
    torch.set_num_threads(1)
    main(*sys.argv[1:])
    leave()
