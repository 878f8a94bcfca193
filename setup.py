"""Builds the compiled operators ahead of time where torch and a compiler are already there.

Where they are not, nothing is lost: the package carries the C++ sources and builds them at the first import
(see docs/build.md).  MASKRCNN_REQUIRE_OPS=1 makes a missing object an error, for making wheels.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def _load_driver() -> ModuleType:
    """Import the compiler driver by path: importing the package would import torch."""
    spec = importlib.util.spec_from_file_location("_build", ROOT / "maskrcnn/native/build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_build"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


driver = _load_driver()
torch_dir = driver.find_torch()
required = os.environ.get("MASKRCNN_REQUIRE_OPS", "0") not in ("", "0")


def _extensions() -> list[Extension]:
    """Return the objects that can be built here; say why not for the others."""
    extensions = []
    for kind in ("cpu", "cuda"):
        try:
            reason = driver.cuda_reason(torch_dir) if kind == "cuda" else None
            if reason is None:
                driver.plan(kind, torch_dir)
        except driver.BuildError as error:
            reason = str(error)
        if reason is None:
            extensions.append(Extension(f"maskrcnn.native._ops_{kind}", sources=[]))
            continue
        print(f"maskrcnn: the {kind} operators are not built now: {reason}", file=sys.stderr)
        if required and (kind == "cpu" or os.environ.get("FORCE_CUDA") == "1"):
            raise SystemExit(
                f"maskrcnn: MASKRCNN_REQUIRE_OPS is set, but the {kind} operators cannot be built"
            )
    return extensions


class BuildOps(build_ext):
    """Hands each object to the driver instead of to setuptools' compiler classes."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the file name without Python's ABI tag: the objects do not depend on Python."""
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: Extension) -> None:
        """Build one object; a failure is a warning, since the first import tries again and falls back."""
        kind = ext.name.rsplit("_", 1)[1]
        destination = Path(self.get_ext_fullpath(ext.name))
        try:
            driver.build(driver.plan(kind, torch_dir), destination)
        except driver.BuildError as error:
            if required:
                raise
            print(f"maskrcnn: the {kind} operators are not built now: {error}", file=sys.stderr)
            ext.optional = True

    def copy_extensions_to_source(self) -> None:
        """In an editable install, put the objects and their stamps beside the driver."""
        for ext in self.extensions:
            built = Path(self.build_lib) / self.get_ext_filename(ext.name)
            wanted = ROOT / self.get_ext_filename(ext.name)
            for source, target in ((built, wanted), (driver.stamp_path(built), driver.stamp_path(wanted))):
                if source.is_file():
                    # A running process may have the old object mapped: replace it, never write into it.
                    partial = target.with_name(target.name + ".new")
                    shutil.copy2(source, partial)
                    partial.replace(target)

    def get_outputs(self) -> list[str]:
        """Return the objects that were built, with their stamps."""
        built = [Path(self.get_ext_fullpath(ext.name)) for ext in self.extensions]
        return [str(path) for obj in built for path in (obj, driver.stamp_path(obj)) if path.is_file()]


class BuildPython(build_py):
    """Copies csrc and configs into the package: an installation builds the operators at its first import, and
    has the recipes at hand.
    """

    def run(self) -> None:
        """Copy the Python files, then the two folders (an editable install reads the checkout's)."""
        super().run()
        for folder in () if self.editable_mode else ("csrc", "configs"):
            target = Path(self.build_lib) / "maskrcnn" / folder
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / folder, target)


class Wheel(bdist_wheel):
    """Tags the wheel py3-none: the objects use torch's stable ABI and nothing of Python's."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return (python, abi, platform)."""
        return ("py3", "none", super().get_tag()[2])


setup(
    ext_modules=_extensions(),
    cmdclass={"build_ext": BuildOps, "build_py": BuildPython, "bdist_wheel": Wheel},
)
