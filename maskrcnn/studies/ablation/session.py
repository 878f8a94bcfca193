"""One call of the command: what is there, what is stale, what is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from maskrcnn.engine.console import Console
from maskrcnn.engine.provenance import code_fingerprint
from maskrcnn.errors import UserError, few
from maskrcnn.studies.ablation.plan import Run
from maskrcnn.studies.ablation.processes import Scheduler, claim, find_slots


def train_missing(
    runs: Sequence[Run], folder: Path, processes: int, rerun_stale: bool, resume_hint: str
) -> dict[str, str]:
    """Train every run that is not finished; begun ones go on from their checkpoint.

    Args:
        folder: the suite's.
        processes: of each run.
        rerun_stale: set stale runs aside and train them again, instead of refusing.
        resume_hint: the command that goes on, for messages.

    Returns:
        what went wrong, by the name of the run.

    Raises:
        UserError: there are stale runs, the folder is in use, or there are too few GPUs.
        Interrupted: see :class:`maskrcnn.studies.ablation.processes.Scheduler`.
    """
    code = code_fingerprint()
    slots = find_slots(runs, processes)
    console = Console()
    with claim(folder) as lock:
        stale = {run.name: why for run in runs if (why := run.why_stale(code))}
        if stale and not rerun_stale:
            raise UserError(
                f"{len(stale)} of {len(runs)} runs in {folder} are not of this code and config, and are not"
                " mixed with new ones; --rerun-stale sets them aside and trains them again, another --output"
                " keeps both, --report reports the old ones of one code:\n  "
                + few((f"{name}: {why}" for name, why in stale.items()), 10, "\n  ")
            )
        for run in runs:
            if run.name in stale:
                console.line(f"set aside: {run.set_aside()}")
        states = Counter(run.state(code) for run in runs)
        console.line(
            f"{len(runs)} runs in {folder}: {states['done']} finished, {states['partial']} begun,"
            f" {states['new']} to begin; {len(slots)} at a time, code {code}"
        )
        missing = [run for run in runs if run.state(code) != "done"]
        return Scheduler(slots, processes, console.line, code=code, lock=lock).train(missing, resume_hint)
