"""Mutations of COCO files, for the fuzz tests.

Run as a script it reads and evaluates them in a process of its own, with limits on memory and time, and
prints what came of each.
"""

from __future__ import annotations

import copy
import json
import random
import sys
from pathlib import Path
from typing import Any

Content = dict[str, Any]
SIZE = (40, 60)


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def sound() -> tuple[Content, list[dict[str, Any]]]:
    """A sound data set of three images (polygons, compressed and uncompressed RLEs, a crowd), and results
    (polygons and compressed RLEs).
    """
    from maskrcnn.structures import rle

    def code(x: float, side: float) -> dict[str, Any]:
        import numpy as np

        found = rle.from_polygons([np.array(square(x, 4, side))], *SIZE)
        return {"size": list(SIZE), "counts": found["counts"].decode()}

    annotations: list[dict[str, Any]] = []
    results = []
    for image in (1, 2, 3):
        for k in range(4):
            x = 2.0 + 14 * k
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image,
                "category_id": (3, 7)[k % 2],
                "bbox": [x, 4.0, 10.0, 10.0],
                "area": 100.0,
                "iscrowd": 0,
                "segmentation": [square(x, 4, 10)],
            }
            if k == 2:
                annotation["segmentation"] = code(x, 10)
            if k == 3 and image == 1:
                annotation.update(iscrowd=1, segmentation=code(x, 12))
            annotations.append(annotation)
            results.append(
                {
                    "image_id": image,
                    "category_id": (3, 7)[k % 2],
                    "bbox": [x, 4.0, 10.0, 9.0 + k],
                    "score": round(0.3 + 0.05 * len(results), 3),
                    "segmentation": code(x, 9.0) if k % 2 else [square(x, 4, 10)],
                }
            )
    runs = [4 * SIZE[0], 30, SIZE[0] * SIZE[1] - 4 * SIZE[0] - 30]
    annotations[5]["segmentation"] = {"size": list(SIZE), "counts": runs}
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in (1, 2, 3)
        ],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}],
    }
    return content, results


VALUES: list[Any] = [
    *(None, float("nan"), float("inf"), -float("inf"), 2**31, 2**63, 2**64 + 1, -1, -(2**63) - 1),
    *(0, 1e308, 10**400, 0.5, True, "", "x", "7", "b'3o0'", "\ud800", "a\0b"),
    *([], [[]], [None], {}, [10**30] * 4, [[1, 2, 3]], [[1e9] * 8], [[0, 0] * 3], [[5, 5, 1e300, 5, 5, 9]]),
    {"counts": [], "size": []},
    {"counts": [0.5], "size": list(SIZE)},
    {"counts": "o" * 40, "size": list(SIZE)},
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every entry inside a json value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [p for k in keys for p in ((*path, k), *places(value[k], (*path, k)))]


def mutate(content: Any, rng: random.Random) -> tuple[Any, tuple[Any, ...]]:
    """``content`` with one entry changed, and the way to it."""
    content = copy.deepcopy(content)
    every = places(content)
    deep = rng.random() < 0.6
    way = rng.choice([p for p in every if deep or not isinstance(p[-1], int)])
    at = content
    for key in way[:-1]:
        at = at[key]
    kind = rng.randrange(6)
    if kind == 0 and isinstance(at, dict):
        del at[way[-1]]
    elif kind == 1 and isinstance(at, list):
        at.insert(way[-1], copy.deepcopy(rng.choice(at)))  # a record or a number twice
    elif kind == 2 and isinstance(at, list) and len(at) == 2:
        at.reverse()  # sizes exchanged
    elif kind == 3 and isinstance(at[way[-1]], str) and at[way[-1]]:
        text = at[way[-1]]
        place = rng.randrange(len(text))
        at[way[-1]] = text[:place] + chr(rng.randrange(30, 130)) + text[place + 1 :]
    elif kind == 4:
        at[way[-1]] = [at[way[-1]]]
    else:
        at[way[-1]] = copy.deepcopy(rng.choice(VALUES))
    return content, way


def mutate_bytes(text: str, rng: random.Random) -> bytes:
    """``text`` damaged as files are."""
    data = bytearray(text.encode())
    match rng.randrange(5):
        case 0:
            return bytes(data[: rng.randrange(len(data))])
        case 1:
            return b"\xef\xbb\xbf" + bytes(data).replace(b"\n", b"\r\n")
        case 2:
            place = rng.randrange(len(data))
            return bytes(data[:place]) + b"[" * 100_000 + bytes(data[place:])
        case 3:
            data[rng.randrange(len(data))] = rng.randrange(256)
            return bytes(data)
        case _:
            return bytes(data).replace(b"100.0", b"1" + b"0" * 5000, 1)


def case(kind: str, seed: int) -> tuple[bytes, bytes, tuple[Any, ...] | None]:
    """Annotation file, results file, and the way to what was changed (None: bytes)."""
    rng = random.Random(f"{kind} {seed}")
    content, results = sound()
    files: dict[str, Any] = {"data": content, "results": results}
    texts = {name: json.dumps(value).encode() for name, value in files.items()}
    way = None
    if rng.random() < 0.12:
        texts[kind] = mutate_bytes(texts[kind].decode(), rng)
    else:
        changed, way = mutate(files[kind], rng)
        texts[kind] = json.dumps(changed).encode()
    return texts["data"], texts["results"], way


def without(kind: str, way: tuple[Any, ...] | None) -> tuple[Content, list[dict[str, Any]]] | None:
    """The sound files without the record that ``way`` leads into; None where it leads into none."""
    content, results = sound()
    if kind == "results":
        if not way:
            return None
        del results[way[0]]
        return content, results
    if way is None or len(way) < 2 or way[0] == "categories":
        return None
    gone = content[way[0]].pop(way[1])
    if way[0] == "images":
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != gone["id"]]
        results = [r for r in results if r["image_id"] != gone["id"]]
    return content, results


def figures(content: Any, results: Any) -> dict[str, Any]:
    from maskrcnn.evaluation import evaluate_coco

    found = evaluate_coco(content, results)
    return {"figures": found.figures, "notes": list(found.notes)}


def outcome(folder: Path) -> dict[str, Any]:
    """What training's reader and the evaluation make of ``annotations.json`` and ``results.json``."""
    from maskrcnn.data import CocoDataset
    from maskrcnn.errors import UserError
    from maskrcnn.evaluation import load_results

    out: dict[str, Any] = {}
    try:
        dataset = CocoDataset(folder, folder / "annotations.json", training=True)
        for i in range(len(dataset)):
            targets = dataset.index.targets(int(dataset.kept[i]))
            assert targets.masks is not None
            targets.masks.to_bitmaps()
        out["train"] = [len(dataset), len(dataset.index.rows)]
    except UserError as error:
        out["train"] = str(error)
    try:
        results = load_results(folder / "results.json")
        out["file"] = figures(folder / "annotations.json", results)
        out["data set"] = figures(CocoDataset(folder, folder / "annotations.json").ground_truth(), results)
    except UserError as error:
        out["error"] = str(error)
    return out


def main() -> None:
    """``fuzz.py KIND FIRST LAST FOLDER``: the outcome of each seed as a json line, each within a time."""
    import resource
    import signal

    import maskrcnn.evaluation  # noqa: F401 - so that its import does not count against a case

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    kind, first, last, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 2**30, used + 2 * 2**30))
    for seed in range(first, last):
        data, results, _ = case(kind, seed)
        (folder / "annotations.json").write_bytes(data)
        (folder / "results.json").write_bytes(results)
        signal.alarm(20)  # kills this process
        print(json.dumps({"seed": seed, **outcome(folder)}), flush=True)
        signal.alarm(0)


if __name__ == "__main__":
    main()
