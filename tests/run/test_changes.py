from __future__ import annotations

from typing import Any

from maskrcnn.run.changes import changes, data_digests

THEN: dict[str, Any] = {
    "versions": {"torch": "2.10"},
    "code": "aaa",
    "device": "cpu",
    "device_name": "x86_64",
    "threads": 2,
    "world_size": 1,
    "data": {"train": "123", "val": "456"},
}


def test_each_change_is_a_sentence() -> None:
    now = {
        **THEN,
        "versions": {"torch": "2.11"},
        "code": "bbb",
        "threads": 1,
        "data": {"train": "124", "val": "456"},
    }
    assert changes([THEN], THEN) == []
    since = "changed since the run was last started:"
    assert changes([THEN], now) == [
        f"torch {since} 2.10 -> 2.11",
        f"the package's code (fingerprint) {since} aaa -> bbb",
        f"the number of threads {since} 2 -> 1",
        f"the training data (digest of annotations and image sizes) {since} 123 -> 124",
    ]


def test_what_an_earlier_version_did_not_write_is_not_compared() -> None:
    earlier = {k: v for k, v in THEN.items() if k not in ("data", "code")}
    assert changes([earlier], THEN) == []
    assert changes([], THEN) == []
    assert len(changes([{**THEN, "code": "0"}, earlier], THEN)) == 1


def test_threads_do_not_matter_on_a_gpu() -> None:
    gpu = {**THEN, "device": "cuda:0"}
    assert changes([gpu], {**gpu, "threads": 9}) == []


def test_a_data_set_of_a_plugin_may_have_no_digest() -> None:
    class With:
        def digest(self) -> str:
            return "9"

    known: Any = With()
    unknown: Any = object()
    assert data_digests(unknown, known) == {"val": "9"}
    assert data_digests(known, None) == {"train": "9"}
