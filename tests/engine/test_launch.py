"""torchrun's variables: sane, or a sentence whose advice works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from maskrcnn.engine.distributed import VARIABLES, Launch, read_launch
from maskrcnn.errors import UserError

GOOD = {
    "WORLD_SIZE": "4",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


def test_what_torchrun_sets_is_read() -> None:
    assert read_launch(GOOD) == Launch(3, 4, 1, 2)
    assert read_launch({}) == Launch()
    assert read_launch({"WORLD_SIZE": "", "RANK": " 0 "}) == Launch()
    assert read_launch({k: v for k, v in GOOD.items() if k != "LOCAL_WORLD_SIZE"}) == Launch(3, 4, 1, 1)
    one = {**GOOD, "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    assert read_launch(one) == Launch()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', not a whole number"),
        ({"WORLD_SIZE": "2.0"}, r"WORLD_SIZE is '2\.0', not a whole number"),
        ({"WORLD_SIZE": "9" * 5000}, "not a whole number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is 0; it must be 1"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is -2"),
        ({"RANK": "-1"}, "RANK is -1"),
        ({"RANK": "4"}, "RANK is 4, but WORLD_SIZE is 4"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK is 2, but LOCAL_WORLD_SIZE is 2"),
        ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE is 0"),
        ({"LOCAL_WORLD_SIZE": "5"}, "LOCAL_WORLD_SIZE is 5, but WORLD_SIZE is 4"),
        ({"MASTER_ADDR": None}, "WORLD_SIZE is 4, but MASTER_ADDR not set"),
        ({"RANK": None, "MASTER_PORT": ""}, "but RANK, MASTER_PORT not set"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT is 99999, which is no port"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        ({"WORLD_SIZE": None}, "RANK is 3, but WORLD_SIZE is not set"),
        ({"WORLD_SIZE": None, "RANK": None}, "LOCAL_RANK is 1, but WORLD_SIZE is not set"),
    ],
)
def test_what_makes_no_sense_is_told_and_the_advice_works(
    changes: dict[str, str | None], sentence: str
) -> None:
    environment = {k: v for k, v in {**GOOD, **changes}.items() if v is not None}
    with pytest.raises(UserError, match=sentence) as found:
        read_launch(environment)
    assert len(str(found.value)) < 500
    advice = re.search(r"unset ([A-Z_ ]+)$", str(found.value))
    assert advice is not None
    for name in advice[1].split():
        del environment[name]
    assert read_launch(environment) == Launch()


def test_a_command_under_leftover_variables_ends_in_a_sentence(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    (tmp_path / "a.yaml").write_text(f"data: {{train: {{type: synthetic, num_images: 2, root: {tmp_path}}}}}")
    done = subprocess.run(
        [
            *shlex.split(f"env WORLD_SIZE=2 RANK=0 {sys.executable} -m maskrcnn train"),
            str(tmp_path / "a.yaml"),
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert "LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set" in done.stderr
    assert "Traceback" not in done.stderr
    assert set(done.stderr.rpartition("unset ")[2].split()) <= set(VARIABLES)
