"""A small schema with every kind of field, and helpers that load a text into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import pytest

from maskrcnn.config import Loaded, Registry, load_traced
from maskrcnn.errors import ConfigError


class PartConfig(Protocol):
    """Stands for any slot's protocol."""


BACKBONES: Registry[PartConfig] = Registry("backbone")
OPS: Registry[PartConfig] = Registry("RoI op")
TRANSFORMS: Registry[PartConfig] = Registry("transform")


@BACKBONES.register("resnet")
@dataclass(frozen=True, kw_only=True)
class ResNet:
    depth: Literal[18, 50, 101] = 50
    norm: Literal["bn", "gn"] = "bn"


@BACKBONES.register("vgg")
@dataclass(frozen=True, kw_only=True)
class Vgg:
    width: int = 4096


@OPS.register("roi_align")
@dataclass(frozen=True, kw_only=True)
class RoIAlign:
    sampling_ratio: int = -1
    aligned: bool = True


@OPS.register("roi_pool")
@dataclass(frozen=True, kw_only=True)
class RoIPool:
    pass


@TRANSFORMS.register("resize")
@dataclass(frozen=True, kw_only=True)
class Resize:
    min_sizes: tuple[int, ...] = (800,)


@TRANSFORMS.register("hflip")
@dataclass(frozen=True, kw_only=True)
class HFlip:
    p: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Solver:
    lr: float = 0.02
    steps: tuple[int, ...] = (60, 80)
    max_iter: int = 90
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.steps and max(self.steps) >= self.max_iter:
            raise ValueError(f"steps {self.steps} must all be below max_iter {self.max_iter}")


@dataclass(frozen=True, kw_only=True)
class Expect:
    ap: float
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Model:
    backbone: Annotated[PartConfig, BACKBONES] = field(default_factory=lambda: ResNet(depth=18, norm="gn"))
    roi_op: Annotated[PartConfig, OPS] = field(default_factory=RoIAlign)
    neck: Annotated[PartConfig, BACKBONES] | None = None
    size: tuple[int, float] = (7, 0.5)
    ratio: Literal["auto"] | int = "auto"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    images: Path
    model: Model = field(default_factory=Model)
    solver: Solver = field(default_factory=lambda: Solver(lr=0.01))
    transforms: tuple[Annotated[PartConfig, TRANSFORMS], ...] = (Resize(), HFlip())
    plugins: tuple[str, ...] = ()
    name: str = ""
    seed: int | None = None
    deterministic: bool = False
    expect: dict[str, Expect] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=lambda: {"box": 1.0})


@pytest.fixture
def schema() -> type[Recipe]:
    """The root class."""
    return Recipe


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, so that messages show short file names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trace(folder: Path) -> Callable[..., Loaded[Recipe]]:
    """``trace(text, *overrides)``: load ``c.yaml`` with this text, ``images`` given unless it is there."""

    def run(text: str, *overrides: str) -> Loaded[Recipe]:
        text = text if "images" in text else text + "\nimages: x\n"
        (folder / "c.yaml").write_text(text, encoding="utf-8")
        return load_traced(Recipe, "c.yaml", overrides)

    return run


@pytest.fixture
def resolve(trace: Callable[..., Loaded[Recipe]]) -> Callable[..., Any]:
    """``resolve(text, *overrides)``: the loaded object."""
    return lambda text, *overrides: trace(text, *overrides).value


@pytest.fixture
def fault(trace: Callable[..., Loaded[Recipe]]) -> Callable[..., str]:
    """``fault(text, *overrides)``: the message of the error that this config gives."""

    def run(text: str, *overrides: str) -> str:
        with pytest.raises(ConfigError) as e:
            trace(text, *overrides)
        return str(e.value)

    return run
