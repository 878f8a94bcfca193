"""What the environment says about the processes of this run: torchrun's variables, read with care."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from maskrcnn.errors import UserError

#: What torchrun sets; all of them go together.
VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
#: More processes than any cluster has GPUs for one training.
_MOST = 100_000


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
