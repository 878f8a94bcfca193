"""Building and loading the operators, on tiny sources of our own so that each build takes a moment."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path

import pytest
import torch

from maskrcnn.native import build as _build
from maskrcnn.native import library as _library
from tests.native.house import House, needs_compiler

# ---------------------------------------------------------------- from sources to a loaded object


@needs_compiler
def test_the_first_import_builds_and_later_ones_do_not(
    house: House, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    house.log_compiler(monkeypatch)
    first = house.start_again(monkeypatch)
    assert first.loaded
    assert first.reason == "built at this import"
    assert house.compiler_runs() == 3  # two files and the link
    assert capfd.readouterr().err.count("compiling the RoI operators (once, about") == 1

    second = house.start_again(monkeypatch)
    assert second.path == first.path
    assert second.reason == "built at an earlier import"
    assert house.compiler_runs() == 3
    assert capfd.readouterr().err == ""
    assert house.loaded == [first.path, first.path]
    # Nothing but the object, its stamp and the lock stays behind.
    assert first.path is not None
    left = {path.name for path in first.path.parent.iterdir()}
    assert left == {first.path.name, first.path.name + ".json", "cpu.lock"}


@needs_compiler
def test_an_object_built_ahead_of_time_is_used_until_the_sources_change(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = house.build_ahead_of_time()
    assert house.start_again(monkeypatch) == _library.LoadState(True, library, "built ahead of time")
    assert not house.cache.exists()

    (house.csrc / "one.h").write_text("#define ONE 11\n")
    state = house.start_again(monkeypatch)
    assert state.loaded
    assert state.path is not None
    assert house.cache in state.path.parents
    assert "other sources or flags" in state.reason


@needs_compiler
def test_an_object_whose_stamp_is_lost_is_not_used(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    library = house.build_ahead_of_time()
    _build.stamp_path(library).unlink()
    state = house.start_again(monkeypatch)
    assert state.path != library
    assert state.loaded


@needs_compiler
def test_an_object_that_does_not_load_is_built_anew(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    library = house.build_ahead_of_time()

    def load(path: Path) -> None:
        if path == library:
            raise OSError("GLIBC_9.99 not found")

    monkeypatch.setattr(torch.ops, "load_library", load)
    state = house.start_again(monkeypatch)
    assert state.loaded
    assert state.path is not None
    assert house.cache in state.path.parents
    assert "GLIBC_9.99 not found" in state.reason


# ---------------------------------------------------------------- when it cannot be built


def test_without_a_compiler_one_warning_names_the_package(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.warns(
        RuntimeWarning, match="slow ones in plain torch take over.*apt-get install g\\+\\+"
    ) as caught:
        assert not _library.compiled()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not _library.compiled()
        assert not _library.cuda_compiled()
    assert house.loaded == []


@needs_compiler
def test_a_failing_compiler_is_quoted_and_leaves_nothing(house: House) -> None:
    (house.csrc / "cpu/two.cpp").write_text("int two() { return undeclared_name; }\n")
    with pytest.warns(RuntimeWarning, match="undeclared_name"):
        assert not _library.compiled()
    assert [path.name for path in house.cache.rglob("*") if path.is_file()] == ["cpu.lock"]


def test_other_ranks_do_not_repeat_the_warning(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not _library.compiled()


def test_the_reference_operators_can_be_asked_for_in_silence(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKRCNN_REFERENCE_OPS", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not _library.compiled()
    assert not house.cache.exists()
    monkeypatch.setenv("MASKRCNN_REFERENCE_OPS", "0")
    monkeypatch.setenv("PATH", "")
    with pytest.warns(RuntimeWarning, match="no compiler"):
        house.start_again(monkeypatch)


def test_the_compiled_operators_can_be_required(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKRCNN_REQUIRE_OPS", "1")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="MASKRCNN_REQUIRE_OPS is set, but no compiler is found"):
        _library.load()


# ---------------------------------------------------------------- keys


def test_the_key_follows_sources_headers_names_and_flags(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [_build.source_key("cpu")]
    (house.csrc / "one.h").write_text("#define ONE 3\n")
    keys.append(_build.source_key("cpu"))
    (house.csrc / "cpu/two.cpp").rename(house.csrc / "cpu/zwei.cpp")
    keys.append(_build.source_key("cpu"))
    (house.csrc / "cpu/three.cpp").touch()
    keys.append(_build.source_key("cpu"))
    monkeypatch.setenv("MASKRCNN_SANITIZE", "address")
    keys.append(_build.source_key("cpu"))
    assert len(set(keys)) == 5


def test_the_key_of_the_cpu_object_ignores_cuda_sources(house: House) -> None:
    before = _build.source_key("cpu")
    (house.csrc / "cuda").mkdir()
    (house.csrc / "cuda/kernel.cu").touch()
    assert _build.source_key("cpu") == before
    assert [path.name for path in _build.sources("cuda")] == ["kernel.cu"]
    assert [path.name for path in _build.sources("cpu")] == ["two.cpp", "ops.cpp"]


@needs_compiler
def test_another_compiler_release_is_another_object(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    script = house.root / "g++-next"
    script.write_text("#!/bin/sh\necho 'g++ 99.1'\n")
    script.chmod(0o755)
    ours = _build.plan("cpu", house.torch_dir)
    monkeypatch.setenv("CXX", str(script))
    theirs = _build.plan("cpu", house.torch_dir)
    assert theirs.info.compiler == "g++ 99.1"
    assert theirs.key != ours.key
    assert theirs.info.source_key == ours.info.source_key


@needs_compiler
def test_a_sanitizer_reaches_compiler_and_linker(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKRCNN_SANITIZE", "address")
    plan = _build.plan("cpu", house.torch_dir)
    assert {"-fsanitize=address", "-fno-omit-frame-pointer", "-O1", "-g"} <= set(plan.compile_flags)
    assert plan.compile_flags.index("-O1") > plan.compile_flags.index("-O3")  # the last one counts
    assert "-fsanitize=address" in plan.link_flags


# ---------------------------------------------------------------- CUDA: what is built, and for which GPUs


@pytest.fixture
def cuda_house(house: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """Return a house with a CUDA torch, a CUDA source, an nvcc and no GPU."""
    (house.csrc / "cuda").mkdir()
    (house.csrc / "cuda/kernel.cu").touch()
    (house.torch_dir / "version.py").write_text("__version__ = '2.99.0'\ncuda: Optional[str] = '13.0'\n")
    monkeypatch.setattr(_build, "gpu_present", lambda: False)
    monkeypatch.setattr(_build, "gpu_capabilities", tuple)
    monkeypatch.setattr(_build, "find_nvcc", lambda: "/opt/cuda/bin/nvcc")
    return house


def test_cuda_is_built_for_a_gpu_or_on_demand(cuda_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_dir = cuda_house.torch_dir
    assert "no GPU is present" in str(_build.cuda_reason(torch_dir))
    monkeypatch.setenv("FORCE_CUDA", "1")
    assert _build.cuda_reason(torch_dir) is None
    monkeypatch.delenv("FORCE_CUDA")
    monkeypatch.setattr(_build, "gpu_present", lambda: True)
    assert _build.cuda_reason(torch_dir) is None
    monkeypatch.setenv("FORCE_CUDA", "0")
    assert "FORCE_CUDA=0" in str(_build.cuda_reason(torch_dir))


def test_what_is_missing_for_cuda_is_said(cuda_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_CUDA", "1")
    monkeypatch.setattr(_build, "find_nvcc", lambda: None)
    assert "nvcc is not found" in str(_build.cuda_reason(cuda_house.torch_dir))
    (cuda_house.torch_dir / "version.py").write_text("__version__ = '2.99.0+cpu'\ncuda = None\n")
    assert _build.cuda_reason(cuda_house.torch_dir) == "torch 2.99.0+cpu is a CPU-only build"
    assert "headers are not found" in str(_build.cuda_reason(None))


def test_architectures_are_the_users_else_this_machines_else_all(
    cuda_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _build.architectures() == _build.DEFAULT_ARCHS
    monkeypatch.setattr(_build, "gpu_capabilities", lambda: ("8.6", "9.0"))
    assert _build.architectures() == "8.6;9.0"
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 9.0+PTX")
    assert _build.architectures() == "8.0;9.0+PTX"
    assert _build.arch_flags("8.0;9.0+PTX") == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    assert _build.arch_flags("9.0a") == ["-gencode=arch=compute_90a,code=sm_90a"]
    with pytest.raises(_build.BuildError, match="TORCH_CUDA_ARCH_LIST: 'Hopper' is not an architecture"):
        _build.arch_flags("Hopper")


def test_only_an_nvcc_that_knows_it_is_asked_to_compress() -> None:
    assert _build.size_flags("Cuda compilation tools, release 13.0, V13.0.88") == ["--compress-mode=size"]
    assert _build.size_flags("Cuda compilation tools, release 12.4, V12.4.131") == []
    assert _build.size_flags("unknown") == []


@pytest.mark.parametrize(
    ("archs", "capability", "expected"),
    [
        ("8.0", "8.6", True),  # binaries run on later minors of their major
        ("8.6", "8.0", False),
        ("8.0", "9.0", False),
        ("8.0+PTX", "9.0", True),  # PTX is compiled by the driver for anything later
        ("9.0a", "9.0", True),
        ("9.0a", "10.0", False),
        ("12.0+PTX", "10.3", False),
        ("", "9.0", False),
        (_build.DEFAULT_ARCHS, "7.5", True),
        (_build.DEFAULT_ARCHS, "10.3", True),
        (_build.DEFAULT_ARCHS, "12.1", True),
        (_build.DEFAULT_ARCHS, "7.0", False),
    ],
)
def test_which_gpus_an_object_serves(archs: str, capability: str, expected: bool) -> None:
    assert _build.covers(archs, capability) is expected


def test_a_cuda_object_for_other_gpus_is_not_used(cuda_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    library = _build.ahead_of_time("cuda")
    library.touch()
    for archs, gpu, wanted in (("8.0", "9.0", "not for this machine's 9.0"), ("9.0", "9.0", None)):
        stamp = _build.BuildInfo(_build.source_key("cuda"), "nvcc", archs, "2.99.0")
        _build.stamp_path(library).write_text(json.dumps(dataclasses.asdict(stamp)))
        assert _build.read_stamp(library) == stamp
        monkeypatch.setattr(_build, "gpu_capabilities", lambda gpu=gpu: (gpu,))
        said = _library._stale("cuda", library)
        assert (wanted in str(said)) if wanted else said is None


# ---------------------------------------------------------------- finding things


def test_torch_is_found_through_the_environment_when_it_cannot_be_imported(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_build.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(_build.sysconfig, "get_path", lambda name: str(house.root))
    assert _build.find_torch() == house.torch_dir
    monkeypatch.setattr(_build.sysconfig, "get_path", lambda name: str(house.root / "elsewhere"))
    assert _build.find_torch() is None


def test_the_installed_torch_is_read_without_importing_it() -> None:
    torch_dir = _build.find_torch()
    assert torch_dir == Path(torch.__file__).parent
    assert _build.torch_version(torch_dir) == torch.__version__
    assert _build.torch_cuda(torch_dir) == torch.version.cuda


def test_nvcc_of_the_toolkit_comes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("home/bin", "path"):
        nvcc = tmp_path / folder / "nvcc"
        nvcc.parent.mkdir(parents=True)
        nvcc.write_text("#!/bin/sh\n")
        nvcc.chmod(0o755)
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert _build.find_nvcc() == str(tmp_path / "home/bin/nvcc")
    monkeypatch.setenv("CUDACXX", str(tmp_path / "path/nvcc"))
    assert _build.find_nvcc() == str(tmp_path / "path/nvcc")
