"""What a config's training and evaluation take on a machine, and what holds them up; nothing is learnt."""

from __future__ import annotations

import statistics
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from maskrcnn.data import Dataset
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.memory import keep_freed_memory
from maskrcnn.engine.optim import freeze
from maskrcnn.modeling.mask_rcnn import MaskRCNN, without_weights
from maskrcnn.recipe import Recipe
from maskrcnn.run import setup
from maskrcnn.run.benchmark.advice import advise
from maskrcnn.run.benchmark.evaluating import measure_evaluation
from maskrcnn.run.benchmark.figures import PARTS, Benchmark, Tell
from maskrcnn.run.benchmark.loading import measure_loading
from maskrcnn.run.benchmark.peak import measure_peak
from maskrcnn.run.benchmark.steps import measure_steps
from maskrcnn.run.named_weights import is_name, publisher_of, weight_keys, with_local_weights
from maskrcnn.run.preflight import Start, run_checks
from maskrcnn.run.training import BEGINNINGS, CACHES
from maskrcnn.structures.seeds import seed_everything


def benchmark(recipe: Recipe, ranks: Ranks, *, steps: int, profile: Path | None, tell: Tell) -> Benchmark:
    """Make ``steps`` steps with a learning rate of 0, and evaluate as many images.

    Args:
        profile: also write a trace of one more step there, for chrome://tracing or ui.perfetto.dev.
        tell: takes progress.

    Raises:
        UserError: data cannot be read, a step cannot be made, the trace not be written.
    """
    keep_freed_memory()
    recipe = replace(recipe, train=replace(recipe.train, check_data="none"))
    seed_everything(recipe.seed, deterministic=recipe.solver.deterministic)
    tell("reading the data")
    data = setup.build_data(recipe, ranks)
    if recipe.data.cache != "none":
        CACHES.get(recipe.data.cache)(recipe, data, ranks, tell)
    model, weights = _model(recipe, data.train, ranks, tell)
    freeze(model, recipe.solver.freeze)
    console = setup.new_console(ranks)
    with closing(console):
        start = Start(recipe, ranks, console, "data.train", data.train, model=model)
        run_checks([("workers", start), ("batch", start)], "before the first step")
    made = measure_steps(recipe, model, data.train, ranks, steps=steps, profile=profile, tell=tell)
    tell("measuring the peak")
    peak = measure_peak(ranks.device, recipe.solver.precision)
    batch, (heights, widths) = recipe.solver.batch_size, zip(*made.sizes, strict=True)
    found = Benchmark(
        device=torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "CPU",
        threads=torch.get_num_threads(),
        workers=setup.worker_count(recipe, ranks),
        precision=recipe.solver.precision,
        weights=weights,
        ranks=ranks.size,
        batch=batch,
        size=(int(np.median(heights)), int(np.median(widths))),
        steps=steps,
        seconds=statistics.median(made.seconds),
        rate=batch * steps / sum(made.seconds),
        parts={name: made.parts[name] / steps for name in PARTS},
        busy=made.busy,
        flops=made.flops * ranks.size,
        peak=peak,
        memory=made.memory,
        loading=measure_loading(recipe, data.train),
        evaluation=None
        if data.val is None
        else measure_evaluation(recipe, model, data.val, ranks, steps, tell),
    )
    return replace(found, advice=advise(found, recipe, data))


def _model(recipe: Recipe, train: Dataset, ranks: Ranks, tell: Tell) -> tuple[MaskRCNN, str]:
    """With the weights that the recipe begins with, where their files are here; and what to call them."""
    keys = weight_keys(recipe)
    here = [not publisher_of(p).outlook(p.as_posix()) if is_name(p) else p.exists() for _, p in keys]
    if not keys or not all(here):
        why = " (those of the config are not on this machine)" if keys else ""
        bare = replace(recipe, weights=None, model=without_weights(recipe.model))
        return setup.place_model(bare, len(train.categories), ranks.device), f"random{why}"
    tell("reading the weights")
    local = with_local_weights(recipe)
    model = setup.place_model(local, len(train.categories), ranks.device)
    BEGINNINGS.get("weights")(model, recipe, local.weights, train.categories)
    return model, ", ".join(str(path) for _, path in keys)
