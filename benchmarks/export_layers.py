"""Where an OpenVINO file's time goes: milliseconds of the kinds of layers by part, and of the slowest layers.

    python benchmarks/export_layers.py runs/export/r50.int8.xml --threads 2 [--size 800 1216] [--layers 20]

The runtime's own counters, of each layer the least of ``--rounds`` runs on a drawn image.  Parts are
``before`` and ``behind`` the ``network`` (see ``maskrcnn/run/export/onnx_parts.py``).
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.export import drawn
from maskrcnn.run.export.needed import needed


def layers(file: Path, threads: int, size: tuple[int, int], rounds: int) -> dict[tuple[str, str, str], float]:
    """By name, kind and implementation of a layer: milliseconds."""
    runtime = needed("openvino")
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERF_COUNT": True}
    request = runtime.Core().compile_model(file, "CPU", options).create_infer_request()
    (image,) = drawn(1, *size)
    least: dict[tuple[str, str, str], float] = {}
    for _ in range(rounds + 1):
        request.infer({"image": image[None]}, share_outputs=True)
        for layer in request.get_profiling_info():
            name = (layer.node_name, layer.node_type, layer.exec_type)
            took = 1000 * layer.real_time.total_seconds()
            least[name] = min(took, least.get(name, took))
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path, help="an .xml of `maskrcnn export` or of benchmarks/export.py")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1216), help="default 800 1216")
    parser.add_argument("--threads", type=int, default=2, help="default 2")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--kinds", type=int, default=15, help="how many are shown; default 15")
    parser.add_argument("--layers", type=int, default=10, help="how many are shown; default 10")
    args = parser.parse_args()
    found = layers(args.file, args.threads, tuple(args.size), args.rounds)
    whole = sum(found.values())
    kinds: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for (name, kind, _), took in found.items():
        kinds[name.split("/")[0] if "/" in name else "", kind].append(took)
    print(f"{whole:.0f} ms in layers\n\n| part | kind | layers | ms | share |\n|---|---|---:|---:|---:|")
    for (part, kind), times in sorted(kinds.items(), key=lambda item: -sum(item[1]))[: args.kinds]:
        print(f"| {part} | {kind} | {len(times)} | {sum(times):.1f} | {sum(times) / whole:.1%} |")
    print("\n| layer | by | ms |\n|---|---|---:|")
    for (name, _, by), took in sorted(found.items(), key=lambda item: -item[1])[: args.layers]:
        print(f"| {name} | {by} | {took:.1f} |")


if __name__ == "__main__":
    main()
