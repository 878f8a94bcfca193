"""Where the processes of one start meet, whatever an earlier start left there.

When torchrun starts the processes of a run again (``--max-restarts``), they get the store of the first start,
and in it the addresses of processes that are gone.  A process that reads those first waits for the dead
without end.  Counting the starts does not help: over several machines each of torchrun's agents has a count
of its own.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

#: Seconds between two looks.
_LOOK = 0.05


def fresh_part(store: Store, rank: int, size: int, seconds: float) -> Store:
    """A part of ``store`` that only processes of this start know, the same for all of them.

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
    raise TimeoutError(f"not all of {size} processes came within {seconds:.0f} s")
