"""What pip gets: metadata, and the contents of wheels, sdists and editable installs, built for real.

The packages are built from a copy of the project whose C++ sources are two lines, so that it takes a moment.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import pytest

from maskrcnn.native import build as _build
from tools import wheel_contents

ROOT = Path(__file__).resolve().parent.parent

needs_setuptools = pytest.mark.skipif(
    importlib.util.find_spec("setuptools") is None or int(metadata.version("setuptools").split(".")[0]) < 77,
    reason="setuptools >= 77 is not installed (it is in the extra 'test')",
)
needs_checkout = pytest.mark.skipif(
    not (ROOT / "setup.py").is_file(), reason="not a checkout: there is no setup.py"
)
pytestmark = [needs_checkout, needs_setuptools]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of the project with trivial C++ sources."""
    return copied(tmp_path / "project")


def copied(root: Path) -> Path:
    """Make that copy."""
    shutil.copytree(
        ROOT / "maskrcnn", root / "maskrcnn", ignore=shutil.ignore_patterns("_ops_*", "__pycache__", "csrc")
    )
    files = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "Makefile", ".clang-format")
    for name in files:
        shutil.copy(ROOT / name, root)
    for name in (
        "csrc/cpu/kernel.cpp",
        "csrc/ops.h",
        "csrc/ops.cpp",
        "tests/test_x.py",
        "configs/base/x.yaml",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def hook(project: Path, name: str, *, path: str | None = None, **variables: str) -> Path:
    """Run a PEP 517 hook as pip would and return the file it made; ``path`` replaces $PATH."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MASKRCNN_") and k != "CXX"}
    environment |= {"FORCE_CUDA": "0", "PYTHONPATH": ""} | variables
    if path is not None:
        environment["PATH"] = path
    output = project.parent / "dist"
    output.mkdir(exist_ok=True)
    program = f"from setuptools import build_meta; print('made', build_meta.{name}({str(output)!r}))"
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return output / result.stdout.splitlines()[-1].split()[-1]


@pytest.mark.skipif(_build.find_cxx() is None, reason="no C++ compiler (apt-get install g++)")
def test_a_wheel_holds_the_objects_and_the_sources_and_no_python_tag(project: Path) -> None:
    wheel = hook(project, "build_wheel")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wheel.name.startswith("maskrcnn-")
    assert "-py3-none-linux_" in wheel.name
    assert {
        "maskrcnn/native/_ops_cpu.so",
        "maskrcnn/native/_ops_cpu.so.json",
        "maskrcnn/csrc/ops.cpp",
        "maskrcnn/csrc/ops.h",
        "maskrcnn/csrc/cpu/kernel.cpp",
        "maskrcnn/configs/base/x.yaml",
        "maskrcnn/py.typed",
        "maskrcnn/viz/templates/page.html.j2",
        "maskrcnn/weights/published.yaml",
        "maskrcnn/cli/__init__.py",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "tools/", "csrc/", "configs/"))]

    # Installed, the object's stamp fits the sources that came with it: it is not taken for a stale one.
    site = project.parent / "site"
    zipfile.ZipFile(wheel).extractall(site)
    program = (
        "import importlib.util as u, sys\n"
        f"spec = u.spec_from_file_location('b', {str(site / 'maskrcnn/native/build.py')!r})\n"
        "b = u.module_from_spec(spec); sys.modules['b'] = b; spec.loader.exec_module(b)\n"
        "print(b.csrc_dir(), b.read_stamp(b.ahead_of_time('cpu')).source_key == b.source_key('cpu'))\n"
        f"sys.path.insert(0, {str(site)!r})\n"
        "from maskrcnn.config.shipped import shipped_configs; print(shipped_configs())\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "MASKRCNN_SANITIZE"}
    told = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert told.split() == [str(site / "maskrcnn/csrc"), "True", str(site / "maskrcnn/configs")]


def test_without_a_compiler_the_wheel_is_pure_and_carries_the_sources(project: Path) -> None:
    wheel = hook(project, "build_wheel", path="")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "maskrcnn/csrc/cpu/kernel.cpp" in names
    assert not [name for name in names if name.endswith((".so", ".so.json"))]


@pytest.mark.skipif(_build.find_cxx() is None, reason="no C++ compiler (apt-get install g++)")
def test_sources_that_do_not_compile_do_not_stop_an_installation(project: Path) -> None:
    (project / "csrc/ops.cpp").write_text("this is not C++\n")
    names = zipfile.ZipFile(hook(project, "build_wheel")).namelist()
    assert "maskrcnn/csrc/ops.cpp" in names
    assert "maskrcnn/native/_ops_cpu.so" not in names


@pytest.mark.skipif(_build.find_cxx() is None, reason="no C++ compiler (apt-get install g++)")
def test_an_editable_install_puts_the_object_beside_its_driver(project: Path) -> None:
    hook(project, "build_editable")
    library = project / "maskrcnn/native/_ops_cpu.so"
    assert library.is_file()
    stamp = json.loads(_build.stamp_path(library).read_text())
    assert set(stamp) == {"source_key", "compiler", "archs", "torch"}
    assert not (project / "maskrcnn/csrc").exists()  # the checkout's own sources are the ones to edit


def test_an_sdist_can_be_built_from_and_tested(project: Path) -> None:
    with tarfile.open(hook(project, "build_sdist")) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"csrc/ops.cpp", "csrc/ops.h", "csrc/cpu/kernel.cpp", "setup.py", "pyproject.toml"} <= names
    assert "maskrcnn/viz/templates/page.html.j2" in names
    assert {"tests/test_x.py", "configs/base/x.yaml", "Makefile", "maskrcnn/native/build.py"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_the_metadata_asks_for_what_is_needed(project: Path) -> None:
    wheel = hook(project, "build_wheel", path="")
    with zipfile.ZipFile(wheel) as archive:
        folder = next(name for name in archive.namelist() if name.endswith("/METADATA")).rsplit("/", 1)[0]
        lines = archive.read(f"{folder}/METADATA").decode().splitlines()
        entries = archive.read(f"{folder}/entry_points.txt").decode()
    assert "Requires-Python: >=3.10" in lines
    assert "License-Expression: Apache-2.0" in lines and "License-File: LICENSE" in lines
    needs = {line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")}
    assert "torch>=2.10" in needs
    assert "opencv-python-headless" in needs
    assert "jinja2" in needs  # the pages of `maskrcnn ablate`
    assert "matplotlib" in needs  # `maskrcnn explain-roi`, a command of the README
    assert "Provides-Extra: report" in lines  # where matplotlib once was
    assert "opencv-python" not in needs  # it needs libGL at import
    assert "maskrcnn = maskrcnn.cli:main" in entries


def test_torch_is_no_build_requirement() -> None:
    """With torch among them, pip would download a second copy into the build environment."""
    text = (ROOT / "pyproject.toml").read_text()
    requires = next(line for line in text.splitlines() if line.startswith("requires ="))
    assert requires == 'requires = ["setuptools>=77"]'


def test_no_extra_brings_what_calls_home() -> None:
    """openvino depends on openvino-telemetry: the docs and the error say how it is installed without."""
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = content["project"]["optional-dependencies"]
    names = {re.split(r"[\[<>=; ]", wish)[0] for wishes in extras.values() for wish in wishes}
    assert names & {"openvino", "nncf", "openvino-telemetry"} == set() and "onnx" in names
    assert "--no-deps openvino" in (ROOT / "docs/export.md").read_text(encoding="utf-8")


def as_wheel(path: Path, archs: str, held: list[tuple[int, int]]) -> Path:
    """A wheel of one object whose fat binary has entries of (kind, architecture), a byte each."""
    entries = b"".join(
        struct.pack("<HHIQ12sI32sx", kind, 0x101, 64, 1, b"", number, b"") for kind, number in held
    )
    with zipfile.ZipFile(path, "w") as wheel:
        name = "maskrcnn/native/_ops_cuda.so"
        fat = wheel_contents.MAGIC + struct.pack("<HHQ", 1, 16, len(entries)) + entries
        wheel.writestr(name, b"ELF..." + fat + b"...")
        stamp = _build.BuildInfo("key", "nvcc 13", archs, "2.10.0")
        wheel.writestr(f"{name}.json", json.dumps(asdict(stamp)))
    return path


def test_a_wheel_says_what_it_holds_and_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def status(archs: str, *needs: str) -> int:
        held = [(wheel_contents.CODE, 90), (wheel_contents.CODE, 120), (wheel_contents.PTX, 120)]
        path = as_wheel(tmp_path / "maskrcnn-1.whl", archs, held)
        monkeypatch.setattr("sys.argv", ["wheel_contents.py", str(path), "--needs", *needs])
        return wheel_contents.main()

    assert status("9.0;12.0+PTX", "9.0") == 0
    assert capsys.readouterr().out.endswith("headers of torch 2.10.0, GPU code for 9.0, 12.0, 12.0+PTX\n")
    assert status("9.0;12.0+PTX", "9.0", "8.0") == 1
    assert capsys.readouterr().err == "maskrcnn: maskrcnn-1.whl: no GPU code for 8.0\n"
    assert status("8.0;9.0;12.0+PTX", "8.0") == 1
    assert "holds ['12.0', '12.0+PTX', '9.0'], its stamp says 8.0;9.0;12.0+PTX" in capsys.readouterr().err
