from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore, PrefixStore, Store

from maskrcnn.engine.distributed import fresh_part


def meet(store: Store, size: int) -> list[Store]:
    """All processes of one start, as threads."""
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: fresh_part(store, rank, size, 20.0), range(size)))


def test_all_share_a_part_that_an_earlier_start_does_not_know() -> None:
    store = HashStore()
    first = meet(store, 3)
    first[0].set("address", "of the dead")
    assert [part.get("address") for part in first] == [b"of the dead"] * 3
    second = meet(store, 3)
    assert not any(part.check(["address"]) for part in second)
    second[1].set("address", "of the living")
    assert [part.get("address") for part in second] == [b"of the living"] * 3


def test_starts_that_got_half_way_leave_no_trap() -> None:
    store = HashStore()
    for rank in (0, 1):  # each was alone, for the others were ended before they came
        with pytest.raises(TimeoutError, match="not all of 3 processes came"):
            fresh_part(store, rank, 3, 0.2)
    store.set("meeting/words", json.dumps(["a", "b", "c"]))
    parts = meet(store, 3)
    parts[2].set("address", "here")
    assert [part.get("address") for part in parts] == [b"here"] * 3


def test_other_parts_of_the_store_are_left_alone() -> None:
    store = HashStore()
    store.set("address", "theirs")
    assert not fresh_part(PrefixStore("ours", store), 0, 1, 20.0).check(["address"])
    assert store.get("address") == b"theirs"
