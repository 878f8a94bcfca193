"""Train a recipe in a run folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from maskrcnn.config import dump
from maskrcnn.config.plugins import plugins_fingerprint
from maskrcnn.data.loader import BatchLoader, train_loader
from maskrcnn.engine.checkpoint import Checkpoint, load_weights
from maskrcnn.engine.console import Console
from maskrcnn.engine.distributed import Ranks, connect
from maskrcnn.engine.events import Events, format_seconds
from maskrcnn.engine.interrupt import stop_at_once
from maskrcnn.engine.memory import keep_freed_memory
from maskrcnn.engine.metrics_file import read_metrics
from maskrcnn.engine.parts import incomplete, load_parts
from maskrcnn.engine.precision import Precision
from maskrcnn.engine.provenance import describe_run, versions
from maskrcnn.engine.saving import Saving
from maskrcnn.engine.seed import seed_everything
from maskrcnn.engine.step import Step
from maskrcnn.engine.strategy import choose_strategy
from maskrcnn.engine.trainer import LoopPlan, Trainer
from maskrcnn.errors import UserError, few
from maskrcnn.evaluation import save_results
from maskrcnn.files import clear_temporaries, write_image
from maskrcnn.recipe import Recipe, check_same_categories
from maskrcnn.run import preflight, setup
from maskrcnn.run.changes import changes, data_digests
from maskrcnn.run.evaluate import (
    BrokenOff,
    Evaluation,
    draw_pictures,
    run_evaluation,
    write_figures,
)
from maskrcnn.run.expect import compare
from maskrcnn.run.folder import RunFolder, changed_keys
from maskrcnn.run.learnable import check_frozen, epoch_doubts, norm_doubts, solver_doubts
from maskrcnn.run.lock import RunLock
from maskrcnn.run.room import check_folder
from maskrcnn.weights.restore import drop_head, initialize_model


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    folder: everything it wrote.
    step: finished steps.
    metrics: of its last evaluation, name -> value; empty without evaluation (and on ranks other than 0).
    best: name and value of the best metric, and its step.
    seconds: wall time of this call.
    """

    folder: RunFolder
    step: int
    metrics: dict[str, float]
    best: dict[str, float]
    seconds: float


def train(
    recipe: Recipe,
    output: Path,
    *,
    resume: bool = False,
    resume_hint: str = "train again with --resume",
    strict: bool = False,
    console: Console | None = None,
) -> TrainResult:
    """Train to the recipe's last step, with evaluations and checkpoints.

    Args:
        recipe: all that decides the run.
        output: run folder; must be new or empty unless ``resume``.
        resume: go on from the folder's newest readable checkpoint; from the start where there is none.
        resume_hint: how to go on, for messages.
        strict: refuse to go on where data, code, config, torch or devices are not what they were.
        console: where lines go; by default a new one.

    Raises:
        UserError: and its kinds, see :class:`maskrcnn.engine.trainer.Trainer`, ``run.setup``; another process
            works in the folder.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP, once the checkpoint is written; outside of the
            steps SIGTERM or SIGHUP, at once.
    """
    began = time.monotonic()
    kept = keep_freed_memory()
    ranks = connect(recipe.device)
    console = console or setup.new_console(ranks)
    folder = RunFolder(output)

    def stopped(name: str) -> str:
        begun = (
            f"what was saved is kept; to go on: {resume_hint}" if output.is_dir() else "nothing was written"
        )
        return f"stopped by {name} at once; {begun}"

    with closing(console), stop_at_once(stopped) if ranks.size == 1 else nullcontext():
        console.take_logs()
        if not resume:
            setup.one_first(ranks, folder.refuse_if_used)
        setup.main_alone(ranks, lambda: check_folder(output))
        with _locked(folder, ranks, console) as lock:
            if not resume:  # another run may have begun and ended while this one waited
                setup.main_alone(ranks, folder.refuse_if_used)
            run = _Run(recipe, folder, ranks, console, resume_hint, lock)
            run.begin(resume, strict)
            console.line(f"memory kept between steps: {'yes' if kept else 'no'}")
            start = run.trainer.state.step
            with closing(run):
                run.trainer.fit(run.batches())
            ranks.barrier()
            metrics = run.metrics or run.metrics_on_file()
        if console.unwritten.missing:
            console.warn(f"not written to the end: {console.unwritten.names()}")
        seconds = time.monotonic() - began
        state = run.trainer.state
        console.line(_what_was_done(start, state.step, seconds, evaluated=bool(run.metrics)) + f": {output}")
        best = {name: value for name, value in state.best.items() if name != "step"}
        for name, value in best.items():
            console.line(f"best {name} {value:.3f}, after step {state.best['step']:.0f}: checkpoints/best.pt")
        return TrainResult(folder, state.step, metrics, dict(state.best), seconds)


@contextmanager
def _locked(folder: RunFolder, ranks: Ranks, console: Console) -> Iterator[RunLock]:
    """Hold the run's folder; rank 0 does, for all.

    Raises:
        UserError: another process holds it, or it cannot be written; on every rank.
    """
    lock = RunLock(folder.path)
    try:
        setup.main_alone(ranks, lambda: lock.take(console.line))
        yield lock
    finally:
        try:
            lock.release()
        except BaseException:  # a signal came
            lock.release()
            raise


def _what_was_done(start: int, end: int, seconds: float, *, evaluated: bool) -> str:
    took = format_seconds(seconds)
    if start == end and evaluated:
        return f"all {end} steps were finished before; evaluated in {took}"
    if start == end:
        return f"already finished: all {end} steps were done before, nothing to do (solver.steps: {end})"
    return f"finished {end} steps{f', {end - start} of them in this call,' if start else ''} in {took}"


class _Run:
    """The objects of one training run on one rank."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        ranks: Ranks,
        console: Console,
        resume_hint: str,
        lock: RunLock,
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.ranks = ranks
        self.console = console
        self.metrics: dict[str, float] = {}
        self._resume_hint = resume_hint
        self._lock = lock
        self._per_pass = setup.images_per_pass(recipe, ranks)
        seed_everything(recipe.seed, deterministic=recipe.solver.deterministic)
        self.data = setup.build_data(recipe, ranks, training=True)
        assert self.data.train is not None
        self._epoch_images = len(self.data.train)
        self.model = setup.place_model(recipe, len(self.data.categories), ranks.device)
        strategy, solver = choose_strategy(ranks, self.model), recipe.solver
        optimizer = solver.optimizer.build(self.model, solver.learning_rate)
        self.step = Step(
            strategy,
            optimizer,
            solver.rate_at,
            seed=recipe.seed,
            precision=Precision(solver.precision, ranks.device),
            accumulate=solver.accumulate,
            clip_grad_norm=solver.clip_grad_norm,
        )
        self.parts = self.step.parts()
        preflight.before_training(recipe, folder.path, self.data, self.model, optimizer, ranks, console)
        self.events: Events | None = None
        self.trainer: Trainer

    def begin(self, resume: bool, strict: bool = False) -> None:
        """Take up the newest checkpoint or start afresh, and open the run's files."""
        recipe, folder, ranks, console = self.recipe, self.folder, self.ranks, self.console
        found = folder.checkpoints(recipe.train.keep).latest() if resume else None
        start = None if found is None else found[0]
        facts: dict[str, Any] = {}

        def look() -> None:
            facts.update(describe_run(ranks.device, ranks.size), step=start.step if start else 0)
            facts["data"] = data_digests(self.data.train, self.data.val)
            if recipe.plugins:
                facts["plugins"] = plugins_fingerprint(recipe.plugins)

        setup.main_alone(ranks, look)
        if found is not None:
            self._check_resumed(*found, facts, strict)
        elif recipe.weights is not None:
            weights = load_weights(recipe.weights)
            if recipe.drop_head:
                weights, _ = drop_head(weights, self.model)
            fresh = initialize_model(self.model, weights, recipe.weights)
            console.line(f"weights from {recipe.weights}" + (f"; fresh: {few(fresh)}" if fresh else ""))
        elif not recipe.train.allow_frozen_random:
            check_frozen(self.model, recipe.model)
        ranks.barrier()
        setup.main_alone(ranks, lambda: self._open(start, facts))
        self._describe(start, resume)
        self.trainer = self._trainer(start)

    def _open(self, start: Checkpoint | None, facts: dict[str, Any]) -> None:
        recipe, folder, console = self.recipe, self.folder, self.console
        left = clear_temporaries(folder.path)
        folder.begin(recipe, facts)
        console.open(folder.log)
        if left:
            console.line(f"removed {len(left)} temporary files of writes that were cut short")
        self.events = Events(
            folder.path,
            console,
            start_step=start.step if start else 0,
            tensorboard=recipe.train.tensorboard,
            epoch_images=self._epoch_images,
        )

    def _check_resumed(
        self, checkpoint: Checkpoint, path: Path, complaints: list[str], facts: dict[str, Any], strict: bool
    ) -> None:
        for complaint in complaints:
            self._warn(f"{complaint}; going on from {path} instead")
        known = setup.checkpoint_categories(checkpoint)
        if known.ids:
            check_same_categories(known, self.data.categories, "data.train")
        if checkpoint.step > self.recipe.solver.steps:
            raise UserError(
                f"{path}: already at step {checkpoint.step}, past solver.steps"
                f" {self.recipe.solver.steps}; set solver.steps to {checkpoint.step} or more"
            )
        stored = checkpoint.config
        changed = changed_keys(self.recipe, stored, f"the config in {path}") if stored else []
        other = self.ranks.share(changes(self.folder.history(), facts))
        other += incomplete(self.parts, checkpoint, path)
        if changed:
            values = few(changed, separator="; ")
            other.insert(0, f"resuming with other values than the run began with ({values})")
        if other and strict:
            raise UserError(
                f"{self.folder.path}: --strict, and this would not be one run: {'; '.join(other)}. Restore"
                " what it began with, or leave --strict out; nothing was written"
            )
        for sentence in other:
            self._warn(f"{sentence}; the result is not that of one run")
        load_parts(self.parts, checkpoint, path)

    def _warn(self, sentence: str) -> None:
        if self.ranks.is_main:
            self.console.warn(sentence)

    def _describe(self, start: Checkpoint | None, resume: bool) -> None:
        recipe, ranks, solver = self.recipe, self.ranks, self.recipe.solver
        line = self.console.line
        assert self.data.train is not None
        val = "none" if self.data.val is None else f"{len(self.data.val)} images"
        line(f"run folder {self.folder.path}  seed {recipe.seed}  device {ranks.device}  ranks {ranks.size}")
        line(f"training images {len(self.data.train)}, classes {len(self.data.categories)}, evaluation {val}")
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        line(
            f"{sum(p.numel() for p in parameters) / 1e6:.2f} M trainable parameters, {solver.precision},"
            f" {torch.get_num_threads()} threads"
        )
        reference = solver.reference_batch_size or solver.batch_size
        line(
            f"learning rate {solver.learning_rate:.6g} = {solver.optimizer.lr:.6g} x {solver.batch_size}"
            f" / {reference} images (batch_size / reference_batch_size)"
        )
        images = self._epoch_images
        epochs = solver.steps * solver.batch_size / max(images, 1)
        line(f"{solver.steps} steps of {solver.batch_size} images: {epochs:.3g} epochs")
        if start is not None:
            line(f"going on after step {start.step} of {solver.steps}")
        elif resume:
            line("no checkpoint in the run folder yet: starting at step 0")
        if start is None and ranks.is_main:
            doubts = [*solver_doubts(solver), *epoch_doubts(solver, images)]
            for doubt in [*doubts, *norm_doubts(self.model, self._per_pass, ranks.size)]:
                self.console.warn(doubt)

    def _trainer(self, start: Checkpoint | None) -> Trainer:
        recipe, solver, train = self.recipe, self.recipe.solver, self.recipe.train
        begin = start or Checkpoint(model={})
        return Trainer(
            self.step,
            Saving(
                self.ranks,
                self.parts,
                self.folder.checkpoints(train.keep),
                console=self.console,
                weights=self.step.parameters,
                best_metric=recipe.eval.best_metric,
                guard=self._lock.check,
            ),
            LoopPlan(solver.steps, train.log_every, train.checkpoint_every, train.eval_every),
            console=self.console,
            start=replace(
                begin.with_states({}),
                config=dump(recipe),
                category_ids=self.data.categories.ids,
                category_names=self.data.categories.names,
                versions=versions(),
            ),
            evaluate=None if self.data.val is None else self._evaluate,
            events=self.events,
            resume_hint=self._resume_hint,
        )

    def batches(self) -> BatchLoader:
        """Those of the steps that are left."""
        recipe, ranks = self.recipe, self.ranks
        assert self.data.train is not None
        return train_loader(
            self.data.train,
            setup.build_transforms(recipe, training=True),
            images_per_rank=self._per_pass,
            accumulate=recipe.solver.accumulate,
            start_step=self.trainer.state.step,
            total_steps=recipe.solver.steps,
            seed=recipe.seed,
            rank=ranks.rank,
            world_size=ranks.size,
            workers=setup.worker_count(recipe, ranks),
            pin_memory=ranks.device.type == "cuda",
            copy_paste=recipe.data.copy_paste,
        )

    def close(self) -> None:
        """Write out the files of logs."""
        if self.events is not None:
            self.events.close()

    def metrics_on_file(self) -> dict[str, float]:
        """Those of the last evaluation, which a run that was finished before has on file."""
        records = [r for r in read_metrics(self.folder.path / "metrics.jsonl") if r.get("kind") == "eval"]
        last = records[-1] if records else {}
        return {k: v for k, v in last.items() if "/" in k}

    def _evaluate(self, step: int, stopping: Callable[[], bool]) -> Mapping[str, float] | None:
        assert self.data.val is not None
        self.console.line(f"evaluating after step {step} on {len(self.data.val)} images")
        try:
            found = run_evaluation(self.model, self.data.val, self.recipe, self.ranks, self.console, stopping)
        except BrokenOff:
            return None
        if found is None:
            return {}
        self.console.line(found.result.table())
        self.metrics = found.result.scalars()
        with suppress(UserError):  # a folder that is ours no more is the trainer's to tell
            self._lock.check()
            self._write(step, found)
        for line in compare(self.recipe.expect, self.metrics)[1]:
            self.console.line(line)
        return self.metrics

    def _write(self, step: int, found: Evaluation) -> None:
        """Results, figures and pictures; what cannot be written is told, and the run goes on."""
        assert self.data.val is not None
        folder, attempt = self.folder, self.console.unwritten.attempt
        attempt(folder.results, lambda: save_results(folder.results, found.records))
        attempt(folder.figures, lambda: write_figures(folder.figures, found.result, step))
        for name, image in draw_pictures(self.data.val, found.records, self.recipe, self.data.categories):
            path = folder.pictures / f"{name}.png"
            attempt(folder.pictures, partial(write_image, path, image))
            if self.events is not None:
                self.events.picture(step, f"eval/{name}", image)
