"""One training run on one rank: its objects, how it begins or goes on, and its evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from maskrcnn.config import dump
from maskrcnn.config.encode import flatten
from maskrcnn.config.registry import Named
from maskrcnn.data import Dataset
from maskrcnn.data.loader import BatchLoader
from maskrcnn.data.schedule import Repeats, repeat_factors
from maskrcnn.engine.checkpoint import Checkpoint, Part, Parts, incomplete, load_parts
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks
from maskrcnn.engine.events import Events
from maskrcnn.engine.optim import freeze, set_rates
from maskrcnn.engine.provenance import versions
from maskrcnn.engine.saving import Saving
from maskrcnn.engine.step import AVERAGES, Step
from maskrcnn.engine.strategy import choose_strategy
from maskrcnn.engine.trainer import BUDGETS, Budget, LoopPlan, Trainer
from maskrcnn.engine.watchdog import Watchdog
from maskrcnn.errors import few, plural
from maskrcnn.files import clear_temporaries
from maskrcnn.modeling.mask_rcnn import RECOMPUTATIONS, MaskRCNN, without_weights
from maskrcnn.recipe import Recipe
from maskrcnn.run import preflight, setup
from maskrcnn.run.changes import changes, check_resumed, run_facts
from maskrcnn.run.folder import RunFolder
from maskrcnn.run.learnable import check_fresh
from maskrcnn.run.lock import RunLock
from maskrcnn.run.named_weights import FirstWeights, weight_keys, with_local_weights
from maskrcnn.structures.categories import Categories
from maskrcnn.structures.seeds import seed_everything

#: How a run whose config names evaluation data judges its model, by a name: COCO's figures.
EVALUATIONS: Named[Callable[[TrainingRun, Dataset, int, Callable[[], bool]], Mapping[str, float] | None]] = (
    Named("evaluation", "maskrcnn.run", coco="evaluations")
)
#: What a run reports (``eval.report``): ``best`` keeps what its best evaluation found, ``page`` draws it.
REPORTS: Named[Callable[..., None]] = Named("report", "maskrcnn.run.report", best="best", page="origins")
#: How a run whose config names weights begins: they are taken over, and what belongs to them is compared.
BEGINNINGS: Named[Callable[[MaskRCNN, Recipe, Path | None, Categories], FirstWeights]] = Named(
    "beginning", "maskrcnn.run", weights="initial_weights"
)
#: What keeps decoded images, by ``data.cache``.
CACHES: Named[Callable[[Recipe, setup.Data, Ranks, Callable[[str], None]], None]] = Named(
    "cache", "maskrcnn.run", ram="image_caching", disk="image_caching"
)
#: Batches are drawn one by one: where it is decided on the way how many there are, there may be any number.
_NO_END = 2**40
#: What keeps the batch and the state of a step whose figures are not finite.
EVIDENCE: Named[Callable[[TrainingRun, Checkpoint, list[str]], str]] = Named(
    "evidence", "maskrcnn.run", batch="kept_batch"
)
#: Classes that a line of the log names.
_CLASSES = 10


class TrainingRun:
    """The objects of one training run on one rank."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        ranks: Ranks,
        console: Console,
        lock: RunLock,
        *,
        resume: bool,
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.ranks = ranks
        self.console = console
        #: Of the last evaluation of this call, on rank 0.
        self.metrics: dict[str, float] = {}
        #: On rank 0, once the run has begun.
        self.events: Events | None = None
        self.lock = lock
        setup.images_per_pass(recipe, ranks)  # a batch that cannot be dealt out is told before data are read
        seed_everything(recipe.seed, deterministic=recipe.solver.deterministic)
        self.data = setup.build_data(recipe, ranks)
        if recipe.data.cache != "none":
            CACHES.get(recipe.data.cache)(recipe, self.data, ranks, console.line)
        # What a run goes on with is whole: names and files that it began with are not asked for again.
        goes_on = resume and bool(folder.checkpoints().steps())
        self._local = replace(recipe, model=without_weights(recipe.model))
        if not goes_on:
            self._local = setup.one_first(ranks, lambda: with_local_weights(recipe))
        self._taken = FirstWeights()
        #: Whether a run goes on as it was when it made the steps that it makes again.
        self._unchanged = True
        self.model = setup.place_model(self._local, len(self.data.train.categories), ranks.device)
        solver = recipe.solver
        self.model.roi.class_weights = setup.class_weights(recipe.model.roi, self.data.train, ranks.device)
        self._repeats = self._repeat_factors()
        self._frozen = set(freeze(self.model, solver.freeze))
        strategy = choose_strategy(ranks, self.model, "fsdp" if solver.strategy == "fsdp" else "ddp")
        self._recomputed = 0
        if solver.checkpoint_activations:  # a copy that a strategy made before is not trained
            self._recomputed = RECOMPUTATIONS.get("backbone")(self.model)
        optimizer = solver.optimizer.build(self.model, solver.learning_rate)
        set_rates(optimizer, self.model, solver.rates)
        strategy.adopt(optimizer)
        average = None
        if solver.ema is not None:
            average = AVERAGES.get("ema")(strategy, **solver.ema.arguments())
        self._budget: Budget | None = None
        if recipe.train.hours is not None:
            self._budget = BUDGETS.get("hours")(recipe.train.hours, solver.steps, ranks)
        self.step = Step(
            strategy,
            optimizer,
            self._rate_at,
            seed=recipe.seed,
            precision=solver.precision,
            accumulate=solver.accumulate,
            clip_grad_norm=solver.clip_grad_norm,
            average=average,
            max_skipped=recipe.train.max_skipped if recipe.train.on_nonfinite == "skip" else 0,
        )
        self._start = preflight.Start(
            recipe,
            ranks,
            console,
            "data.train",
            self.data.train,
            folders={"--output": folder.path},
            model=cast(MaskRCNN, strategy.built),
            optimizer=optimizer,
            held=self._frozen,
        )
        preflight.before_training(self._start, self.data.val)

    def _rate_at(self, step: int) -> float:
        budget = self._budget
        return self.recipe.solver.rate_at(step if budget is None else budget.place(step))

    def _parts(self) -> Parts:
        """What a checkpoint of this run holds."""
        budget = self._budget
        if budget is None:
            return self.step.parts()
        part = Part(budget.state, lambda state, _: budget.load(state), default=dict)
        return {**self.step.parts(), "budget": part}

    def begin(self, resume: bool, resume_hint: str, strict: bool) -> Trainer:
        """Take up the newest checkpoint or start afresh, and open the run's files."""
        recipe, folder, ranks = self.recipe, self.folder, self.ranks
        found = folder.checkpoints(recipe.train.keep).latest() if resume else None
        start = None if found is None else found[0]
        facts: dict[str, Any] = {}
        setup.main_alone(ranks, lambda: facts.update(run_facts(recipe, self.data, ranks)))
        if found is not None:
            self._load(*found, facts, strict)
        else:
            file, categories = self._local.weights, self.data.train.categories
            if weight_keys(recipe):
                with self.step.strategy.whole(write=True) as model:
                    self._taken = BEGINNINGS.get("weights")(cast(MaskRCNN, model), recipe, file, categories)
                if self.step.average is not None:
                    self.step.average.restart()
            if not recipe.train.allow_frozen_random:
                if recipe.weights is None:
                    preflight.tell("frozen", replace(self._start, recipe=self._local))
                else:
                    check_fresh(self._frozen.intersection(self._taken.fresh), recipe.weights)
        ranks.barrier()
        setup.main_alone(ranks, lambda: self._open(start.step if start else 0, facts))
        self._describe(start, resume)
        return self._trainer(start or Checkpoint(model={}), resume_hint)

    def _open(self, step: int, facts: dict[str, Any]) -> None:
        folder, console = self.folder, self.console
        left = clear_temporaries(folder.path)
        folder.begin(self.recipe, {**facts, "step": step})
        console.open(folder.log)
        if left:
            console.line(f"removed {plural(len(left), 'temporary file')} of writes that were cut short")
        self.events = Events(
            folder.path,
            console,
            start_step=step,
            tensorboard=self.recipe.train.tensorboard,
            trackers=self.recipe.train.trackers,
            unchanged=self._unchanged,
            settings=flatten(self.recipe) if self.recipe.train.trackers else {},
            epoch_images=self._epoch_images(),
        )

    def _load(
        self, checkpoint: Checkpoint, path: Path, complaints: list[str], facts: dict[str, Any], strict: bool
    ) -> None:
        parts = self._parts()
        other = self.ranks.share(changes(self.folder.history(), facts)) + incomplete(parts, checkpoint, path)
        self._warn(f"{complaint}; going on from {path} instead" for complaint in complaints)
        changed = [*check_resumed(self.recipe, checkpoint, path, self.data, other, strict=strict)]
        self._unchanged = not changed
        self._warn(changed)
        load_parts(parts, checkpoint, path)

    def _warn(self, sentences: Iterable[str]) -> None:
        for sentence in sentences if self.ranks.is_main else ():
            self.console.warn(sentence)

    def _describe(self, start: Checkpoint | None, resume: bool) -> None:
        recipe, ranks, solver = self.recipe, self.ranks, self.recipe.solver
        line = self.console.line
        images = len(self.data.train)
        val = "none" if self.data.val is None else plural(len(self.data.val), "image")
        line(f"run folder {self.folder.path}  seed {recipe.seed}  device {ranks.device}  ranks {ranks.size}")
        line(f"training images {images}, classes {len(self.data.train.categories)}, evaluation {val}")
        parameters = dict(self.model.named_parameters())
        trained = sum(p.numel() for p in parameters.values() if p.requires_grad)
        threads = torch.get_num_threads()
        line(f"{trained / 1e6:.2f} M trainable parameters, {solver.precision}, {plural(threads, 'thread')}")
        if solver.freeze:
            held = _count(parameters[name] for name in self._frozen)
            line(f"frozen by solver.freeze: {held} ({few(solver.freeze)})")
        reference = solver.reference_batch_size or solver.batch_size
        line(
            f"learning rate {solver.learning_rate:.6g} = {solver.optimizer.lr:.6g} x {solver.batch_size}"
            f" / {plural(reference, 'image')} (batch_size / reference_batch_size)"
        )
        for pattern, factor in solver.rates.items():
            groups = (g["params"] for g in self.step.optimizer.param_groups if g.get("pattern") == pattern)
            line(f"learning rate x {factor:g}: {pattern}, {_count(p for group in groups for p in group)}")
        if self._recomputed:
            blocks = plural(self._recomputed, "block is", "blocks are")
            line(f"{blocks} computed anew in the backward pass (solver.checkpoint_activations)")
        if solver.ema is not None:
            line(
                f"average of the weights: decay {solver.ema.decay:g}, warm-up {solver.ema.warmup:g}"
                " (solver.ema)"
            )
        steps = solver.steps if self._budget is None else self._budget.steps
        if steps is None:
            each = plural(solver.batch_size, "image")
            line(f"steps of {each} for {recipe.train.hours:g} hours (train.hours)")
        else:
            epochs = steps * solver.batch_size / max(images, 1)
            line(f"{plural(steps, 'step')} of {plural(solver.batch_size, 'image')}: {epochs:.3g} epochs")
        for told in self._balance():
            line(told)
        if start is not None:
            line(f"going on after step {start.step} of {steps or solver.steps}")
        elif resume:
            line("no checkpoint in the run folder yet: starting at step 0")
        for text in self._taken.lines:
            line(text)
        if start is None:
            self._warn(self._taken.doubts)
            preflight.tell("learning", self._start)

    def _repeat_factors(self) -> Repeats | None:
        threshold, train = self.recipe.data.repeat_threshold, self.data.train
        return None if threshold is None else repeat_factors(train.ground_truth(), train.image_ids, threshold)

    def _epoch_images(self) -> int:
        """Images that make an epoch, or windows of them."""
        drawn, repeats = setup.trained_on(self.recipe, self.data.train), self._repeats
        if repeats is None:
            return len(drawn)
        factors = repeats.images if drawn is self.data.train else repeats.images[drawn.images]
        return round(float(factors.sum()))

    def _balance(self) -> Iterator[str]:
        """What is done for rare classes, a line each."""
        names, repeats = self.data.train.categories.names, self._repeats
        weights = self.model.roi.class_weights
        if repeats is not None:
            rare = sorted((float(r), name) for r, name in zip(repeats.classes, names, strict=True) if r > 1)
            told = few((f"{name} x {r:.2f}" for r, name in reversed(rare)), _CLASSES) or "no class is rare"
            yield (
                f"images of rare classes come more often (data.repeat_threshold): {told};"
                f" an epoch is about {repeats.images.sum():.0f} draws of"
                f" {plural(len(repeats.images), 'image')}"
            )
        if weights is not None:
            pairs = zip((*names, setup.BACKGROUND), weights.tolist(), strict=True)
            told = few((f"{name} {w:.3g}" for name, w in pairs if w != 1), _CLASSES)
            yield f"weights of the classes' losses: {told or 'all 1'}{'; others 1' if told else ''}"

    def _trainer(self, start: Checkpoint, resume_hint: str) -> Trainer:
        recipe, solver, train = self.recipe, self.recipe.solver, self.recipe.train
        return Trainer(
            self.step,
            Saving(
                self.ranks,
                self._parts(),
                self.folder.checkpoints(train.keep),
                console=self.console,
                weights=self.step.strategy.own_parts(),
                best_metric=recipe.eval.best_metric,
                guard=self.lock.check,
                background=train.save_in_background,
            ),
            LoopPlan(solver.steps, train.log_every, train.checkpoint_every, train.eval_every, train.patience),
            console=self.console,
            state=replace(
                start.with_states({}),
                config=dump(recipe),
                category_ids=self.data.train.categories.ids,
                category_names=self.data.train.categories.names,
                image_size=setup.median_size(self.data.train),
                object_sides=setup.SIDES.get("quartiles")(self.data.train, recipe),
                versions=versions(recipe.data.train_transforms),
            ),
            evaluate=None if self.data.val is None else partial(self._evaluate, self.data.val),
            events=self.events,
            resume_hint=resume_hint,
            budget=self._budget,
            keep_evidence=lambda state, what: EVIDENCE.get("batch")(self, state, what),
            watchdog=Watchdog(self.folder.path / f"stacks{self.ranks.suffix}.txt", self.console.warn),
        )

    def batches(self, start_step: int, steps: int | None = None) -> BatchLoader:
        """Those of the steps that are left, or of so many of them: those are loaded by this process."""
        repeats = None if self._repeats is None else self._repeats.images
        total = self.recipe.solver.steps if self._budget is None else _NO_END
        recipe = self.recipe
        if steps is not None:
            recipe = replace(recipe, data=replace(recipe.data, workers=0))
            total = min(start_step + steps, total)
        given = (self.data.train, recipe, self.ranks, range(start_step, total), repeats)
        return setup.train_batches(*given, shared=self.step.passes.shared)

    def _evaluate(self, val: Dataset, step: int, stopping: Callable[[], bool]) -> Mapping[str, float] | None:
        metrics = EVALUATIONS.get("coco")(self, val, step, stopping)
        self.metrics = dict(metrics or self.metrics)
        return metrics


def _count(parameters: Iterable[torch.Tensor]) -> str:
    sizes = [p.numel() for p in parameters]
    return f"{plural(sum(sizes), 'parameter', spec=',')} in {plural(len(sizes), 'tensor')}"
