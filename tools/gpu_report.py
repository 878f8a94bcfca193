"""Everything that needs a GPU in one go: build, operator tests, benchmarks of the model and of the
operators; a markdown report of all.

    python tools/gpu_report.py [--out gpu_report.md] [--quick]

On a machine without a GPU it says "not run" for what it could not do and exits with status 0; a failed build
or test gives status 1.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def call(command: list[str], **variables: str) -> tuple[int, str, float]:
    """Status, output and seconds of a command, run in the repository with output shown as well."""
    print(f"$ {' '.join(command)}", flush=True)
    start = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        lines = []
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    return process.returncode, "".join(lines), time.monotonic() - start


def verdict(status: int) -> str:
    return "passed" if status == 0 else f"FAILED (status {status})"


def tail(text: str, count: int) -> str:
    return "```\n" + "\n".join(text.rstrip().splitlines()[-count:]) + "\n```"


def describe() -> tuple[bool, str]:
    """Whether there is a GPU, and the machine in words."""
    import torch

    lines = [f"- torch {torch.__version__} (CUDA {torch.version.cuda}), Python {platform.python_version()}"]
    present = torch.cuda.is_available()
    if present:
        properties = torch.cuda.get_device_properties(0)
        lines.append(
            f"- {properties.name}, compute capability {properties.major}.{properties.minor}, "
            f"{properties.multi_processor_count} multiprocessors, {properties.total_memory / 2**30:.0f} GiB"
        )
    else:
        lines.append("- no GPU")
    lines.append(f"- {time.strftime('%Y-%m-%d')}")
    return present, "\n".join(lines)


def main() -> int:
    """Write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("gpu_report.md"))
    parser.add_argument("--quick", action="store_true", help="three repeats a measurement")
    args = parser.parse_args()
    present, machine = describe()
    report = ["# On a GPU", machine]
    failed = False

    if present:
        build = [sys.executable, "-m", "maskrcnn", "doctor"]
        status, text, seconds = call(build, FORCE_CUDA="1")
        failed |= status != 0
        report += ["## Build", f"{verdict(status)}, {seconds:.0f} s", tail(text, 30)]

        # Collecting all of tests/ takes longer than these.
        files = [
            str(p) for p in sorted(ROOT.glob("tests/**/test_*.py")) if "mark.gpu" in p.read_text("utf-8")
        ]
        tests = [sys.executable, "-m", "pytest", *files, "-m", "gpu", "-q", "-p", "no:cacheprovider"]
        status, text, seconds = call(tests, FORCE_CUDA="1", MASKRCNN_REQUIRE_OPS="1")
        # A GPU is there, so a skipped GPU test is not a passed one.
        skipped = " skipped" in (text.rstrip().splitlines() or [""])[-1]
        failed |= status != 0
        words = f"{verdict(status)}, {seconds:.0f} s" + (", some skipped: see below" if skipped else "")
        report += ["## Tests", words, tail(text, 15)]
    else:
        report += ["## Build", "not run: no GPU", "## Tests", "not run: no GPU"]

    quick = {"operators": ["--quick"], "model": ["--rounds", "1"]} if args.quick else {}
    for title, name, command in (
        ("Training and inference", "model", ["benchmarks/gpu_step.py", "--device", "cuda"]),
        ("Speed of the RoI operators", "operators", ["benchmarks/roi_ops.py", "--cuda"]),
        ("Speed of suppression and matching", "operators", ["benchmarks/box_ops.py", "--cuda"]),
        ("Speed of mask targets", "targets", ["benchmarks/mask_targets.py"]),
    ):
        if not present:
            report += [f"## {title}", "not run: no GPU"]
            continue
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "speed.md"
            benchmark = [sys.executable, *command, "--out", str(table), *quick.get(name, [])]
            status, text, seconds = call(benchmark, FORCE_CUDA="1")
            failed |= status != 0
            report += [f"## {title}", f"{verdict(status)}, {seconds:.0f} s"]
            report.append(table.read_text(encoding="utf-8") if table.exists() else tail(text, 30))

    args.out.write_text("\n\n".join(report) + "\n", encoding="utf-8")
    print(f"wrote {args.out}")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
