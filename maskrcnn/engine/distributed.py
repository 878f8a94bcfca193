"""Several processes as torchrun starts them, or just this one: the same calls serve both.

Tensors travel over the device's own backend (nccl on CUDA, gloo on the CPU); Python objects and barriers
over a gloo group, so that nothing small has to visit a GPU.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from maskrcnn.config.registry import Named
from maskrcnn.engine.faults import LostRankError, is_lost_rank
from maskrcnn.errors import UserError, plural
from maskrcnn.weights.safe_load import first_line

T = TypeVar("T")

#: How long a rank waits for the others.  Long, since rank 0 alone computes the COCO figures meanwhile.
_TIMEOUT = timedelta(hours=2)
#: Seconds after which a process that waits for the others says so.
_PATIENCE = 30.0
#: Seconds within which it is heard which process is gone, where a library noticed that one is.
_HEARSAY = 12.0
#: What a run that lost a rank is told besides.
TO_GO_ON = "what was saved is kept; to go on: train again with --resume"
#: Seconds between two looks at the others' words.
_LOOK = 0.05

#: What torchrun sets; all of them go together.
VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
#: More processes than any cluster has GPUs for one training.
_MOST = 100_000

#: How ranks hear of each other's end, and end with torchrun; loaded where there are several.
WATCHES: Named[Callable[..., Any]] = Named("watch", "maskrcnn.engine", ranks="heartbeat", parent="heartbeat")
#: This process's, where it is one of several.
_watch: Any = None

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Launch:
    """rank of size over all machines; local_rank of local_size on this one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def read_launch(environment: Mapping[str, str] | None = None) -> Launch:
    """What ``environment`` (default: this process's) says; one process where it says nothing.

    Raises:
        UserError: the variables are no numbers, contradict each other, or some of them are missing.
    """
    env = os.environ if environment is None else environment
    size = _number(env, "WORLD_SIZE", 1, 1)
    local_size = _number(env, "LOCAL_WORLD_SIZE", 1 if size == 1 else None, 1)
    launch = Launch(
        rank=_number(env, "RANK", 0, 0) or 0,
        size=size or 1,
        local_rank=_number(env, "LOCAL_RANK", 0, 0) or 0,
        local_size=local_size or 1,
    )
    for name, value, bound, most in (
        ("RANK", launch.rank, "WORLD_SIZE", launch.size),
        ("LOCAL_RANK", launch.local_rank, "WORLD_SIZE", launch.size),
        ("LOCAL_RANK", launch.local_rank, "LOCAL_WORLD_SIZE", local_size),
        ("LOCAL_WORLD_SIZE", local_size, "WORLD_SIZE", launch.size + 1),
    ):
        if value is not None and most is not None and value >= most:
            said = f"{bound} is {env[bound]}" if env.get(bound) else f"{bound} is not set"
            raise UserError(_sentence(f"{name} is {value}, but {said}", env))
    if launch.size > 1:
        needed = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        missing = [name for name in needed if not env.get(name)]
        if missing:
            raise UserError(_sentence(f"WORLD_SIZE is {launch.size}, but {', '.join(missing)} not set", env))
        port = _number(env, "MASTER_PORT", None, 0)
        if port is not None and port > 65_535:
            raise UserError(_sentence(f"MASTER_PORT is {port}, which is no port", env))
    return launch


def leftover_hint(environment: Mapping[str, str] | None = None) -> str:
    """What to do where no other process answers: variables of an earlier start may still be set."""
    env = os.environ if environment is None else environment
    found = [name for name in VARIABLES if name in env]
    return (
        "these variables are torchrun's; start several processes as torchrun --nproc-per-node <processes>"
        f" -m maskrcnn ..., or for one process take them away: unset {' '.join(found)}"
    )


def _number(env: Mapping[str, str], name: str, default: int | None, low: int) -> int | None:
    text = env.get(name, "").strip()
    if not text:
        return default
    if not (text.lstrip("+-").isascii() and text.lstrip("+-").isdigit()) or len(text) > 10:
        raise UserError(_sentence(f"{name} is {text[:40]!r}, not a whole number", env))
    value = int(text)
    if not low <= value <= _MOST:
        raise UserError(_sentence(f"{name} is {value}; it must be {low} to {_MOST}", env))
    return value


def _sentence(problem: str, env: Mapping[str, str]) -> str:
    return f"the environment variable {problem}; {leftover_hint(env)}"


@dataclass(frozen=True)
class Ranks:
    """This process among all.

    rank, size: from 0, and how many processes there are over all machines.
    local_rank: from 0, within this machine.
    device: where this process computes.
    group: the gloo group for objects, None when there is one process.
    """

    rank: int
    size: int
    local_rank: int
    device: torch.device
    group: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def say(self, what: str) -> None:
        """What this process does now: the others are told the last of it where this one is lost."""
        if self.group is not None and _watch is not None:
            _watch.say(what)

    @property
    def suffix(self) -> str:
        """Of the names of files that each process writes: empty on rank 0, ``_rank_1`` and so on."""
        return f"_rank_{self.rank}" if self.rank else ""

    def barrier(self) -> None:
        """Wait for all processes.

        Raises:
            LostRankError: here and in the calls below, where one of them is gone.
        """
        if self.group is not None:
            with _loss_is_told():
                dist.barrier(group=self.group)

    def sum(self, tensor: Tensor) -> Tensor:
        """``tensor`` summed over the processes, in place; what torch raises is for the step to judge."""
        if self.group is not None:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, item: T) -> list[T]:
        """On rank 0 every rank's ``item``, by rank; on the others an empty list."""
        if self.group is None:
            return [item]
        found: list[Any] | None = [None] * self.size if self.is_main else None
        with _loss_is_told():
            dist.gather_object(item, found, dst=0, group=self.group)
        return found or []

    def share(self, item: T) -> T:
        """Rank 0's ``item``, on every rank."""
        if self.group is None:
            return item
        box = [item]
        with _loss_is_told():
            dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]


@contextmanager
def _loss_is_told() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not is_lost_rank(error):
            raise
        raise LostRankError(f"{lost_rank()}; {TO_GO_ON}") from None


def tell_the_others(error: str) -> None:
    """That this process ends by an error, so that they need not wait for it."""
    if _watch is not None:
        _watch.fail(error)


def lost_rank() -> str:
    """Which process of this run is gone, as a phrase, for one that noticed that one is."""
    told: str = "" if _watch is None else _watch.lost(_HEARSAY)
    return told or "another process of this run is gone, see its messages"


def choose_device(wish: str, local_rank: int = 0) -> torch.device:
    """``auto``, ``cpu`` or ``cuda`` to a device; ``auto`` is a GPU where there is one.

    Raises:
        UserError: ``cuda`` where PyTorch sees no GPU, or fewer GPUs than processes.
    """
    if wish == "cpu" or (wish == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("device: cuda was asked for, but PyTorch sees no GPU; use device: cpu, or auto")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} of this machine has no GPU of its own ({torch.cuda.device_count()} found);"
            " start as many processes as GPUs: torchrun --nproc-per-node <GPUs>"
        )
    return torch.device("cuda", local_rank)


def connect(device: str) -> Ranks:
    """Join the processes that torchrun started (its environment says so), or be alone.

    The connection lasts as long as the process, and a second call uses the same: torchrun's meeting point
    serves one connection alone.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: see :func:`choose_device` and :func:`read_launch`; or the others
            cannot be met.
    """
    launch = read_launch()
    size, local_rank = launch.size, launch.local_rank
    if "TORCHELASTIC_RUN_ID" in os.environ:
        WATCHES.get("parent")()
    place = choose_device(device, local_rank)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if size == 1 and not dist.is_initialized():
        return Ranks(0, 1, 0, place)
    group = _object_group()
    return Ranks(dist.get_rank(), dist.get_world_size(), local_rank, place, group)


def _tell_that_nobody_comes() -> None:
    launch = read_launch()
    logger.warning(
        "process %d waits for the others of %d (WORLD_SIZE) since %d s; %s",
        *(launch.rank, launch.size, _PATIENCE, leftover_hint()),
    )


def leave() -> None:
    """Leave the others and end gloo's threads: at the end of the process, before Python is taken down.

    A thread that drops a message's tensor after that aborts the process, seldom and when all is done.
    """
    global _watch
    if _watch is not None:
        _watch.leave()
        _watch = None
    if dist.is_initialized():
        dist.destroy_process_group()
    _object_group.cache_clear()
    gc.collect()  # a group ends its threads with the last object that holds it


@cache
def _object_group() -> Any:
    """The gloo group over all processes; joins them on the first call, and begins to watch them."""
    global _watch
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        wait = threading.Timer(_PATIENCE, _tell_that_nobody_comes)
        wait.daemon = True
        wait.start()
        try:
            store, rank, size = next(rendezvous("env://", timeout=_TIMEOUT))
            store.set_timeout(_TIMEOUT)
            part = fresh_part(store, rank, size, _TIMEOUT.total_seconds())
            dist.init_process_group(backend, store=part, rank=rank, world_size=size, timeout=_TIMEOUT)
            group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
        except (RuntimeError, ValueError, TimeoutError) as error:  # torch's DistError is a RuntimeError
            where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise UserError(
                f"the other processes cannot be met at {where} ({first_line(error)}); {leftover_hint()}"
            ) from error
        finally:
            wait.cancel()
        atexit.register(leave)
        alone = Ranks(rank, size, 0, torch.device("cpu"), group)
        _watch = WATCHES.get("ranks")(rank, size, alone.share, read_launch().local_size == size)
        return group
    return dist.new_group(backend="gloo", timeout=_TIMEOUT)


def fresh_part(store: Store, rank: int, size: int, seconds: float) -> Store:
    """A part of ``store`` that only processes of this start know, the same for all of them.

    When torchrun starts the processes of a run again (``--max-restarts``), they get the store of the first
    start, and in it the addresses of processes that are gone.  A process that reads those first waits for
    the dead without end.  Counting the starts does not help: over several machines each of torchrun's agents
    has a count of its own.

    Each process writes a word that it has just drawn.  Rank 0 publishes the words that it finds, anew when
    one changes; a process agrees to a list that has its own word, and the list that all agree to names the
    part.  So nothing that was left there can be in it.

    Args:
        store: shared by ``size`` processes, of which this is number ``rank``.
        seconds: how long the others are waited for.

    Raises:
        TimeoutError: they did not come.
    """
    word = secrets.token_hex(8)
    store.set(f"meeting/word/{rank}", word)
    words = [f"meeting/word/{r}" for r in range(size)]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if rank == 0 and store.check(words):
            store.set("meeting/words", json.dumps([store.get(name).decode() for name in words]))
        if store.check(["meeting/words"]):
            listed = store.get("meeting/words")
            place = f"meeting/{hashlib.sha256(listed).hexdigest()[:16]}"
            if json.loads(listed)[rank : rank + 1] == [word]:
                store.set(f"{place}/agreed/{rank}", "")
                if rank == 0 and store.check([f"{place}/agreed/{r}" for r in range(size)]):
                    store.set(f"{place}/met", "")
                if store.check([f"{place}/met"]):
                    return PrefixStore(place, store)
        time.sleep(_LOOK)
    raise TimeoutError(f"not all of {plural(size, 'process')} came within {seconds:.0f} s")
