"""Reading ``.pkl`` weights without running anything that they hold.

A pickle is a program: it may name any importable callable and call it.  This reader knows the handful of
names that a file of numpy arrays needs and refuses all others.  None of those names leads to numpy itself:
arrays, data types and scalars are rebuilt here from their bytes, so that not even numpy's own restoring code
sees what a file made up.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from maskrcnn.errors import CheckpointError
from maskrcnn.weights.safe_load import check_is_file, first_line

#: What a numpy type code may begin with: bool, integers, floats.  No objects, no structures, no text.
_KINDS = ("b1", "?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


class _Refused(pickle.UnpicklingError):
    pass


class _Type:
    """A numpy data type, as the file describes it."""

    __slots__ = ("dtype",)

    def __init__(self, code: object, *_: object) -> None:
        if code not in _KINDS:
            raise _Refused(f"an array of the type {code!r}; only numbers are read")
        self.dtype = np.dtype(str(code))

    def __setstate__(self, state: object) -> None:
        # (version, byte order, subarray, names, fields, size, alignment, flags[, metadata])
        if not isinstance(state, tuple) or len(state) < 3 or any(part is not None for part in state[2:5]):
            raise _Refused("an array of a structured type; only numbers are read")
        if state[1] not in ("<", ">", "=", "|"):
            raise _Refused(f"the byte order {state[1]!r}")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """A numpy array, as the file describes it; ``value`` once its bytes have been read."""

    __slots__ = ("value",)

    def __init__(self, *_: object) -> None:
        self.value: npt.NDArray[Any] | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Refused("an array without its five parts")
        _, shape, kind, fortran, data = state
        self.value = _values(data, kind, shape, "F" if fortran else "C")


def _values(data: object, kind: object, shape: object, order: object) -> npt.NDArray[Any]:
    if isinstance(data, str):  # a Python 2 string, read as latin1
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)) or not isinstance(kind, _Type):
        raise _Refused("an array whose content is no plain bytes (an array of objects?)")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise _Refused(f"an array of shape {shape!r}")
    flat = np.frombuffer(data, kind.dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C").astype(kind.dtype.newbyteorder("="))


def _from_buffer(data: object, kind: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.value = _values(data, kind, shape, order)
    return array


def _scalar(kind: object, data: object) -> _Array:
    return _from_buffer(data, kind, (), "C")


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused("bytes in another encoding than latin1")
    return text.encode("latin1")


class _Global:
    """A callable that a file may call, but neither alter nor look into."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: object) -> None:
        raise _Refused("a pickle that alters what it calls")


def _never(*_: object) -> None:
    raise _Refused("a call of numpy.ndarray")


def _no_bytes(*args: object) -> bytes:
    if args:
        raise _Refused("a call of bytes with arguments")
    return b""


_ALLOWED: dict[tuple[str, str], _Global] = {
    ("collections", "OrderedDict"): _Global(OrderedDict),
    ("_codecs", "encode"): _Global(_encode),
    ("__builtin__", "bytes"): _Global(_no_bytes),  # how protocols 0 to 2 write empty bytes
    ("numpy", "ndarray"): _Global(_never),  # named as an argument of _reconstruct only
    ("numpy", "dtype"): _Global(_Type),
}
for _package in ("numpy.core", "numpy._core"):  # the name before and after numpy 2
    _ALLOWED[f"{_package}.multiarray", "_reconstruct"] = _Global(_Array)
    _ALLOWED[f"{_package}.multiarray", "scalar"] = _Global(_scalar)
    _ALLOWED[f"{_package}.numeric", "_frombuffer"] = _Global(_from_buffer)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}; only numpy arrays and plain containers are read") from None


def load_pickle(path: Path) -> Any:
    """The content of a ``.pkl`` file: plain containers, numbers and text; arrays as tensors.

    Files of Python 2 (Caffe2's, Detectron2's) are read as latin1, as their makers do.

    Raises:
        CheckpointError: no such file, damaged, or it names anything but arrays and containers.
    """
    check_is_file(path)
    try:
        with path.open("rb") as file:
            return _plain(_Unpickler(file, encoding="latin1").load())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; give the path of a downloaded checkpoint") from None
    except _Refused as error:
        raise CheckpointError(
            f"{path}: holds {error}; nothing was run. Export plain arrays where the file was made"
        ) from None
    except Exception as error:  # a made-up pickle can fail in any way that Python knows
        raise CheckpointError(f"{path}: not a readable pickle of arrays ({first_line(error)})") from None


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.value is None:
            raise _Refused("an array without content")
        array = value.value
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)
        return torch.from_numpy(array.copy())
    if isinstance(value, Mapping):
        return {_plain(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v) for v in value)
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    raise _Refused(f"an object of type {type(value).__name__}")
