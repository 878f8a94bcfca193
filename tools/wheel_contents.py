"""Says which compiled objects a wheel holds, and holds what their stamps say against the objects themselves.

    python tools/wheel_contents.py dist/*.whl [--needs 9.0]

Ends with status 1 where an object has no stamp, holds other GPU code than its stamp says, or does not run on
GPUs of a compute capability that is needed.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import struct
import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from maskrcnn.native.build import covers

#: The first bytes of a fat binary, in which nvcc keeps an entry an architecture; kinds of entries.
MAGIC = struct.pack("<I", 0xBA55ED50)
PTX, CODE = 1, 2


def gpu_code(library: bytes) -> set[str]:
    """Return the architectures of an object's code, as TORCH_CUDA_ARCH_LIST writes them: 9.0, 12.0+PTX."""
    found = set()
    start = library.find(MAGIC)
    while start >= 0:
        header, size = struct.unpack_from("<HQ", library, start + 6)
        entry, end = start + header, start + header + size
        while entry < end:
            kind, _, skip, payload = struct.unpack_from("<HHIQ", library, entry)
            (number,) = struct.unpack_from("<I", library, entry + 28)
            if kind in (PTX, CODE):
                found.add(f"{number // 10}.{number % 10}" + ("+PTX" if kind == PTX else ""))
            entry += skip + payload
        start = library.find(MAGIC, max(end, start + 4))
    return found


def asked_for(archs: str) -> set[str]:
    """Return what an object built for ``archs`` holds: ``12.0+PTX`` is code and PTX."""
    names = [name for name in archs.split(";") if name]
    return {name.removesuffix("+PTX") for name in names} | {name for name in names if name.endswith("+PTX")}


def main() -> int:
    """Print a line an object; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument(
        "--needs", nargs="*", default=[], help="compute capabilities that its CUDA object must run on"
    )
    args = parser.parse_args()
    faults = []
    archs = ""
    with zipfile.ZipFile(args.wheel) as wheel:
        for name in sorted(fnmatch.filter(wheel.namelist(), "maskrcnn/native/_ops_*.so")):
            library = wheel.read(name)
            try:
                stamp = json.loads(wheel.read(f"{name}.json"))
            except KeyError:
                faults.append(f"{name} has no stamp")
                continue
            held = gpu_code(library)
            archs = stamp["archs"] or archs
            built = f"{stamp['compiler']}, headers of torch {stamp['torch']}"
            gpu = f", GPU code for {', '.join(sorted(held, key=_order))}" if held else ""
            print(f"{name}: {len(library) / 1e6:.1f} MB, {built}{gpu}")
            if held != asked_for(stamp["archs"]):
                faults.append(f"{name} holds {sorted(held)}, its stamp says {stamp['archs'] or 'none'}")
    faults += [f"no GPU code for {wanted}" for wanted in args.needs if not covers(archs, wanted)]
    for fault in faults:
        print(f"maskrcnn: {args.wheel.name}: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _order(name: str) -> tuple[float, str]:
    return float(name.partition("+")[0]), name


if __name__ == "__main__":
    sys.exit(main())
