"""The compiler driver of the operators: g++ and nvcc called directly, standard library only.

``setup.py`` uses it to build ahead of time, ``maskrcnn.native.cache`` to build at the first call; setup reads
this file by its path, so that it imports nothing of ours.
It never imports torch: the operators use PyTorch's stable ABI, so it only needs the path of the headers,
and one object serves every torch from 2.10 on and every Python.

There are two objects.  ``cpu`` holds the operator schemas and the CPU kernels, ``cuda`` the CUDA kernels
alone, because an object that links libtorch_cuda cannot be loaded by a CPU-only torch.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["cpu", "cuda"]

HERE = Path(__file__).resolve().parent

#: The stable ABI of torch 2.10, the oldest torch that is supported (see docs/build.md).
TORCH_TARGET = "0x020a000000000000"

#: What is built where no GPU is present and TORCH_CUDA_ARCH_LIST does not say otherwise.
DEFAULT_ARCHS = "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"

# No contraction into fma: it changes RoIAlign's adaptive sample count ceil(size / bins) for boxes whose
# size is an exact multiple of the bin.
CXX_FLAGS = ("-std=c++17", "-O3", "-g0", "-fPIC", "-Wall", "-ffp-contract=off", "-fvisibility=hidden")
# cudart is linked statically so that the object does not depend on which CUDA release torch brings.
NVCC_FLAGS = (
    "-std=c++17",
    "-O3",
    "-DUSE_CUDA",
    "--fmad=false",
    "--expt-relaxed-constexpr",
    "-cudart=static",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
)
_ARCH = re.compile(r"(\d+)\.(\d+)([af]?)(\+PTX)?")
SANITIZE_FLAGS = ("-fno-omit-frame-pointer", "-O1", "-g")


class BuildError(Exception):
    """An object cannot be built here; the message says why and what to do."""


@dataclass(frozen=True)
class BuildInfo:
    """What stands beside an object, in a file of the same name with ``.json`` appended."""

    #: Hash of the sources and flags (:func:`source_key`); an object with another key is stale.
    source_key: str
    #: First line of ``<compiler> --version``.
    compiler: str
    #: GPU architectures in it, as in TORCH_CUDA_ARCH_LIST; empty for the CPU object.
    archs: str
    #: Version of the torch whose headers were used.
    torch: str


# ---------------------------------------------------------------- what is on this machine


def csrc_dir() -> Path:
    """Folder of the C++ sources: inside the package when installed from a wheel, else the checkout's."""
    inside = HERE.parent / "csrc"
    return inside if inside.is_dir() else HERE.parent.parent / "csrc"


def find_torch() -> Path | None:
    """Return torch's package folder without importing it, or None.

    Under pip's build isolation torch is not importable, but ``sysconfig``'s platlib still names the
    environment that is being installed into.
    """
    spec = importlib.util.find_spec("torch")
    candidates = list(spec.submodule_search_locations or []) if spec else []
    candidates += [str(Path(sysconfig.get_path(name)) / "torch") for name in ("platlib", "purelib")]
    for candidate in map(Path, candidates):
        if (candidate / "include/torch/csrc/stable/library.h").is_file() and (candidate / "lib").is_dir():
            return candidate
    return None


def torch_version(torch_dir: Path) -> str:
    """Return the version of the torch in ``torch_dir``, read from its ``version.py``."""
    return _version_field(torch_dir, "__version__") or "unknown"


def torch_cuda(torch_dir: Path) -> str | None:
    """Return the CUDA version that the torch in ``torch_dir`` was built with, None for a CPU-only one."""
    return _version_field(torch_dir, "cuda")


def _version_field(torch_dir: Path, name: str) -> str | None:
    try:
        text = (torch_dir / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(rf"^{name}\b[^=]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return match.group(1) if match else None


def find_cxx() -> str | None:
    """Return the C++ compiler: $CXX, else g++, else clang++; None if there is none."""
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and shutil.which(name.split()[0]):
            return name
    return None


def find_nvcc() -> str | None:
    """Return the CUDA compiler, None if there is none.

    /usr/local/cuda comes before the PATH: an nvcc on the PATH may be a wrapper of another release.
    """
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    for name in (os.environ.get("CUDACXX"), *(f"{home}/bin/nvcc" for home in homes if home), "nvcc"):
        path = shutil.which(name) if name else None
        if path:
            return path
    return None


def compiler_version(compiler: str) -> str:
    """Return the line of ``compiler --version`` that names the release."""
    try:
        out = _output([*compiler.split(), "--version"])
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"`{compiler} --version` fails: {error}") from error
    lines = [line.strip() for line in out.splitlines() if line.strip()]
    release = [line for line in lines if "release" in line]  # nvcc's first lines name no release
    return (release or lines or ["unknown"])[0]


def gpu_present() -> bool:
    """Whether this machine has an NVIDIA GPU, judged by its device files (so that CUDA is not started)."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


@functools.cache
def gpu_capabilities() -> tuple[str, ...]:
    """Return the compute capabilities of this machine's GPUs, such as ``("9.0",)``; empty if unknown."""
    tool = shutil.which("nvidia-smi")
    if not tool or not gpu_present():
        return ()
    try:
        out = _output([tool, "--query-gpu=compute_cap", "--format=csv,noheader"])
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(sorted(set(re.findall(r"^\s*(\d+\.\d+)\s*$", out, re.MULTILINE))))


# ---------------------------------------------------------------- what is asked for


def cuda_reason(torch_dir: Path | None) -> str | None:
    """Return why no CUDA object is to be built here, None when one is."""
    force = os.environ.get("FORCE_CUDA")
    if force == "0":
        return "FORCE_CUDA=0 turns it off"
    if torch_dir is None:
        return "torch's headers are not found"
    if torch_cuda(torch_dir) is None:
        return f"torch {torch_version(torch_dir)} is a CPU-only build"
    if sanitizer():
        return "MASKRCNN_SANITIZE builds the CPU object alone"
    if not sources("cuda"):
        return "there are no CUDA sources"
    if force != "1" and not gpu_present():
        return "no GPU is present (FORCE_CUDA=1 builds it all the same)"
    if find_nvcc() is None:
        return "nvcc is not found: install the CUDA toolkit or set CUDA_HOME"
    return None


def sanitizer() -> str:
    """Return MASKRCNN_SANITIZE: sanitizers to compile in, such as ``address``; empty normally."""
    return os.environ.get("MASKRCNN_SANITIZE", "")


def architectures() -> str:
    """Return the GPU architectures to build for: TORCH_CUDA_ARCH_LIST, this machine's, or the default."""
    asked = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(",", ";").replace(" ", ";").strip(";")
    return asked or ";".join(gpu_capabilities()) or DEFAULT_ARCHS


def arch_flags(archs: str) -> list[str]:
    """Return nvcc's ``-gencode`` flags for a list such as ``"8.0;9.0+PTX"``."""
    flags = []
    for arch in filter(None, archs.split(";")):
        match = _ARCH.fullmatch(arch)
        if match is None:
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST: '{arch}' is not an architecture; write numbers such as 8.0;9.0+PTX"
            )
        number = "".join(match.group(1, 2, 3))
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match.group(4):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def size_flags(version: str) -> list[str]:
    """Return what halves the object: the best compression, from nvcc 13.0 on, whose drivers all read it."""
    match = re.search(r"release (\d+)\.", version)
    return ["--compress-mode=size"] if match and int(match.group(1)) >= 13 else []


def covers(archs: str, capability: str) -> bool:
    """Whether an object built for ``archs`` runs on a GPU of compute capability ``capability``."""
    major, minor = map(int, capability.split("."))
    for arch in filter(None, archs.split(";")):
        match = _ARCH.fullmatch(arch)
        if match is None:
            continue
        built = (int(match.group(1)), int(match.group(2)))
        if match.group(3):
            if built == (major, minor):
                return True
        elif built <= (major, minor) and (built[0] == major or match.group(4)):
            return True
    return False


# ---------------------------------------------------------------- sources, commands, keys


def sources(kind: Kind) -> list[Path]:
    """Return the translation units of an object, sorted by name."""
    root = csrc_dir()
    patterns = {"cpu": ("*.cpp", "cpu/*.cpp"), "cuda": ("cuda/*.cu",)}[kind]
    return sorted(path for pattern in patterns for path in root.glob(pattern))


def source_key(kind: Kind) -> str:
    """Return a hash of all that an object is made from, but for the machine: sources, headers and flags."""
    root = csrc_dir()
    headers = [path for pattern in ("*.h", "*.cuh", "*/*.h", "*/*.cuh") for path in root.glob(pattern)]
    digest = hashlib.sha256(" ".join([TORCH_TARGET, sanitizer(), *_flags(kind)]).encode())
    for path in sorted({*sources(kind), *headers}):
        digest.update(f"\0{path.relative_to(root).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _flags(kind: Kind) -> list[str]:
    if kind == "cuda":
        return list(NVCC_FLAGS)
    extra = [f"-fsanitize={sanitizer()}", *SANITIZE_FLAGS] if sanitizer() else []
    return [*CXX_FLAGS, *extra]


@dataclass(frozen=True)
class Plan:
    """How to build one object here: the compiler, its flags and what the object is stamped with."""

    kind: Kind
    compiler: tuple[str, ...]
    compile_flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    info: BuildInfo

    @property
    def key(self) -> str:
        """Hash of this machine's part of the build: compiler, architectures, processor."""
        parts = [self.info.compiler, self.info.archs, platform.machine(), sys.platform]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def plan(kind: Kind, torch_dir: Path | None) -> Plan:
    """Return how to build an object here.

    Raises:
        BuildError: something is missing; the message names what to install.
    """
    if torch_dir is None:
        raise BuildError("torch's headers are not found; torch >= 2.10 is needed")
    compiler = find_cxx() if kind == "cpu" else find_nvcc()
    if compiler is None:
        missing = "a C++ compiler (`apt-get install g++`)" if kind == "cpu" else "the CUDA toolkit (nvcc)"
        raise BuildError(f"no compiler is found; install {missing}")
    if not sources(kind):
        raise BuildError(f"there are no {kind} sources in {csrc_dir()}")
    archs = architectures() if kind == "cuda" else ""
    link = ["-shared", f"-L{torch_dir / 'lib'}", "-ltorch_cpu"]
    version = compiler_version(compiler)
    flags = [*_flags(kind), *arch_flags(archs), *(size_flags(version) if kind == "cuda" else [])]
    if kind == "cuda":
        link += ["-ltorch_cuda", "-cudart=static"]
    elif sanitizer():
        link += [f"-fsanitize={sanitizer()}"]
    include = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", f"-I{torch_dir / 'include'}", f"-I{csrc_dir()}"]
    info = BuildInfo(source_key(kind), version, archs, torch_version(torch_dir))
    return Plan(kind, tuple(compiler.split()), (*flags, *include), tuple(link), info)


# ---------------------------------------------------------------- building


def build(plan: Plan, destination: Path) -> None:
    """Compile and link an object and put it at ``destination`` in one step, its stamp beside it.

    Raises:
        BuildError: the compiler failed; the message ends with what it said.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=destination.parent) as folder:
        work = Path(folder)
        units = sources(plan.kind)
        objects = [work / f"{i}-{unit.stem}.o" for i, unit in enumerate(units)]
        commands = [
            [*plan.compiler, *plan.compile_flags, "-c", str(unit), "-o", str(obj)]
            for unit, obj in zip(units, objects, strict=True)
        ]
        with ThreadPoolExecutor(max(1, min(len(units), os.cpu_count() or 1))) as pool:
            list(pool.map(_run, commands))
        library = work / destination.name
        _run([*plan.compiler, *map(str, objects), "-o", str(library), *plan.link_flags])
        stamp = work / "stamp"
        stamp.write_text(json.dumps(asdict(plan.info), indent=2) + "\n", encoding="utf-8")
        library.chmod(0o755)
        # The stamp goes first: an object without its own stamp is stale, never the other way round.
        stamp_path(destination).unlink(missing_ok=True)
        library.replace(destination)
        stamp.replace(stamp_path(destination))


def _compiler_environment() -> dict[str, str]:
    """Return our environment less LD_PRELOAD: a sanitizer's runtime is meant for us, not for compilers."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def _output(command: list[str]) -> str:
    """What a tool prints that tells of itself."""
    environment = _compiler_environment()
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
    return done.stdout


def _run(command: list[str]) -> None:
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, env=_compiler_environment()
        )
    except OSError as error:
        raise BuildError(f"`{command[0]}` cannot be run: {error}") from error
    if result.returncode:
        said = (result.stderr + result.stdout).strip()[-4000:]
        raise BuildError(f"the compiler failed (status {result.returncode}): {' '.join(command)}\n{said}")


def stamp_path(library: Path) -> Path:
    """Return where the stamp of an object lies."""
    return library.with_name(library.name + ".json")


def read_stamp(library: Path) -> BuildInfo | None:
    """Return the stamp of an object; None when the object or its stamp is missing or unreadable."""
    try:
        values = json.loads(stamp_path(library).read_text(encoding="utf-8"))
        return BuildInfo(**values) if library.is_file() else None
    except (OSError, ValueError, TypeError):
        return None


def ahead_of_time(kind: Kind) -> Path:
    """Return where ``setup.py`` puts an object (it may not be there)."""
    return HERE / f"_ops_{kind}.so"
