"""``.pkl`` files are read as arrays; whatever else they hold is refused, and nothing in them runs."""

from __future__ import annotations

import collections
import functools
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.errors import CheckpointError
from maskrcnn.weights.state_dict import read_checkpoint, read_state_dict
from maskrcnn.weights.unpickle import load_pickle


class Calls:
    """Pickles into a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def write(path: Path, content: Any, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    content = {
        "model": collections.OrderedDict(
            plain=np.arange(6, dtype=np.float32).reshape(2, 3),
            big=np.arange(6, dtype=">f4").reshape(2, 3),
            fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            empty=np.zeros((0, 3), np.float32),
            scalar=np.float64(3.5),
        ),
        "__author__": "somebody",
        "numbers": (1, 2.5, True, None),
    }
    found = load_pickle(write(tmp_path / "x.pkl", content, protocol))
    assert found["model"]["plain"].dtype == torch.float32
    for name in ("plain", "big", "fortran"):
        assert found["model"][name].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], name
    assert found["model"]["empty"].shape == (0, 3)
    assert found["model"]["scalar"] == 3.5
    assert (found["__author__"], found["numbers"]) == ("somebody", (1, 2.5, True, None))


def test_names_of_before_numpy_2_and_of_python_2(tmp_path: Path) -> None:
    data = pickle.dumps({"a": np.arange(3.0)}, protocol=2).replace(b"numpy._core", b"numpy.core")
    (tmp_path / "x.pkl").write_bytes(data)
    assert load_pickle(tmp_path / "x.pkl")["a"].tolist() == [0.0, 1.0, 2.0]
    # What Python 2 writes: the bytes are a byte string, read as latin1.
    old = b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    old += b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
    old += b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    old += b"\x89U\x08" + np.array([1.5, -2.0], "<f4").tobytes() + b"tbs."
    (tmp_path / "x.pkl").write_bytes(old)
    assert load_pickle(tmp_path / "x.pkl")["a"].tolist() == [1.5, -2.0]


def test_detectron2_and_caffe2_files(tmp_path: Path) -> None:
    arrays = {"a": np.ones(2, np.float32)}
    state, meta = read_checkpoint(write(tmp_path / "d2.pkl", {"model": arrays, "__author__": "x"}))
    assert list(state) == ["a"] and meta == {"__author__": "x"}
    blobs = {**arrays, "a_momentum": np.ones(2, np.float32), "lr": 0.1}
    assert list(read_state_dict(write(tmp_path / "c2.pkl", {"blobs": blobs, "cfg": "text"}))) == ["a"]
    assert list(read_state_dict(write(tmp_path / "flat.pkl", arrays))) == ["a"]
    with pytest.raises(CheckpointError, match="no mapping of names to tensors"):
        read_state_dict(write(tmp_path / "other.pkl", {"model": {}}))
    torch.save({"a": torch.ones(1)}, tmp_path / "torch.pkl")  # a zip, whatever it is called
    assert list(read_state_dict(tmp_path / "torch.pkl")) == ["a"]


def hostile(mark: Path) -> dict[str, Any]:
    """Contents that would make the file ``mark``."""
    command = f"touch {mark}"
    smuggled = np.empty(1, dtype=object)
    smuggled[0] = Calls(os.system, command)
    return {
        "system": Calls(os.system, command),
        "inside": {"model": {"a": np.ones(2), "b": Calls(os.system, command)}},
        "object array": smuggled,
        "eval": Calls(eval, f"__import__('os').system({command!r})"),
        "getattr": Calls(getattr, {}, "get"),
        "partial": Calls(functools.partial, print),
        "class": Calls(Path, str(mark)),
        "key": {Calls(os.system, command): 1},
        "record array": np.zeros(2, dtype=[("a", "O")]),
        "text array": np.array(["a"]),
        "set": {1, 2},
    }


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("kind", list(hostile(Path())))
def test_a_hostile_file_raises_and_runs_nothing(tmp_path: Path, kind: str, protocol: int) -> None:
    mark = tmp_path / "ran"
    path = write(tmp_path / "x.pkl", hostile(mark)[kind], protocol)
    with pytest.raises(CheckpointError, match=r"x\.pkl.*(nothing was run|not a readable pickle)"):
        load_pickle(path)
    assert not mark.exists()


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
DTYPE = b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR"


@pytest.mark.parametrize(
    "data",
    [
        b"cposix\nsystem\n(U\x0atouch /tmptR.",  # by hand
        b"cbuiltins\ngetattr\n(cos\n\nU\x06systemtR.",
        b"\x80\x02cnumpy\nload\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x10core.multiarray.x\x93.",
        RECONSTRUCT + b"(K\x00K\x00K\x00tR.",  # an array that never got its bytes
        RECONSTRUCT + b"(tR(K\x01(J\xff\xff\xff\x7ftK\x00K\x00tb.",  # ... or too few
        RECONSTRUCT + b"(tR(K\x01(K\x02t" + DTYPE + b"I00\nU\x04abcdtb.",
        DTYPE + b"(K\x03U\x01|NNNK\x00K\x00K?tb.",  # a bare type as content
        b"cnumpy\ndtype\n(U\x02O8K\x00K\x01tR.",
        b"cnumpy\nndarray\n(K\x02tR.",  # a call of what may only be named
        b"ccollections\nOrderedDict\n}U\x08__call__K\x01sb.",  # writing to what may be called
        b"c_codecs\nencode\n(U\x01aU\x06base64tR.",
        b"I1\nQ.",  # a persistent id
        b"\x80\x02",
        b"",
        b"no pickle",
    ],
)
def test_made_up_pickles_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="x.pkl"):
        load_pickle(path)


@pytest.mark.parametrize("kind", ["system", "inside", "getattr", "partial"])
def test_a_hostile_pytorch_file_raises_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    mark = tmp_path / "ran"
    torch.save({"state_dict": hostile(mark)[kind]}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth.*never loaded since they could run code"):
        read_checkpoint(tmp_path / "x.pth")
    assert not mark.exists()


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_pickle(tmp_path / "x.pkl")
