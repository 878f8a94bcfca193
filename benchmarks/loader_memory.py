"""Memory of a loader's worker over epochs of a set as large as COCO, and what its json takes

    python benchmarks/loader_memory.py [--images 118000] [--annotations 860000] [--epochs 2] [--each 20000]

A json of so many images and annotations (polygons of COCO's length) is written; the images are a handful of
small files, so that reading them takes little time while all of the data set's memory is touched.  Printed,
by processes of their own: processor seconds and growth of resident memory of loading the json, by us and by
pycocotools' ``COCO``; and the private memory of one worker (what it does not share with its parent:
``Private_*`` of ``/proc/PID/smaps_rollup``), at its first images and after each epoch, of our loader, and of
a torch ``DataLoader`` over pycocotools' lists as torchvision's CocoDetection reads them.  An epoch here is
``--each`` images, drawn over the whole set.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

FILES = 16
MIB = 2**20


def write_data(folder: Path, images: int, annotations: int) -> Path:
    """The json, written in pieces, and the files; every image record has a file that is one of a few."""
    rng = np.random.default_rng(0)
    for k in range(FILES):
        cv2.imwrite(str(folder / f"{k}.jpg"), np.full((60, 80, 3), 10 * k, dtype=np.uint8))
    path = folder / "annotations.json"
    with path.open("w", encoding="utf-8") as file:
        file.write('{"categories": ')
        json.dump([{"id": k, "name": f"class {k}"} for k in range(1, 81)], file)
        file.write(', "images": [')
        for i in range(images):
            record = {"id": i + 1, "file_name": f"{i % FILES}.jpg", "height": 60, "width": 80}
            record |= {"license": 1, "coco_url": f"http://images.cocodataset.org/train2017/{i:012d}.jpg"}
            file.write((", " if i else "") + json.dumps(record))
        file.write('], "annotations": [')
        angles = np.linspace(0, 2 * np.pi, 23, endpoint=False)  # COCO: 46 numbers an annotation
        shape = np.stack((np.cos(angles), np.sin(angles)), 1)
        for a in range(annotations):
            radius = rng.uniform(5, 20, 2)
            centre = rng.uniform(radius, np.array([80, 60]) - radius)
            record = {
                "id": a + 1,
                "image_id": a * images // annotations + 1,
                "category_id": int(rng.integers(1, 81)),
                "bbox": [*(centre - radius).round(2).tolist(), *(2 * radius).round(2).tolist()],
                "area": float((np.pi * radius.prod()).round(2)),
                "iscrowd": 0,
                "segmentation": [(centre + shape * radius).round(2).ravel().tolist()],
            }
            file.write((", " if a else "") + json.dumps(record))
        file.write("]}")
    return path


def resident() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def private(pid: int) -> int:
    """Bytes of a process that no other shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


class Lists(Dataset[Any]):
    """As torchvision's CocoDetection: pycocotools' dictionaries, read in the worker."""

    def __init__(self, coco: Any, folder: Path) -> None:
        self.coco, self.folder = coco, folder
        self.ids = sorted(coco.imgs)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Any:
        image_id = self.ids[index]
        image = cv2.imread(str(self.folder / self.coco.loadImgs(image_id)[0]["file_name"]))
        found = self.coco.loadAnns(self.coco.getAnnIds(image_id))
        return image, torch.tensor([a["bbox"] for a in found])


def worker_of(before: set[int]) -> int:
    """The child process that came since."""
    return next(iter(children() - before))


def children() -> set[int]:
    found = set[int]()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text(encoding="ascii").split()}
    return found


def watch(batches: Callable[[], Iterator[Any]], epochs: int, count: int) -> list[float]:
    """Private MiB of the one worker: at the first batches and after each epoch."""
    before, found = children(), []
    source = batches()
    for done, _ in enumerate(source, start=1):
        if done == 5 or done % count == 0:
            found.append(private(worker_of(before)) / MIB)
        if done == epochs * count:
            break
    return found


def single(kind: str, folder: Path, epochs: int, each: int) -> dict[str, Any]:
    """One measurement, in this process."""
    path, batch = folder / "annotations.json", 4
    began, base = time.process_time(), resident()
    if kind == "ours":
        from maskrcnn.data import CocoDataset, train_loader

        began, base = time.process_time(), resident()
        dataset = CocoDataset(folder, path, training=True)
        load = time.process_time() - began, (resident() - base) / MIB
        loader = train_loader(
            dataset, [], images_per_rank=batch, total_steps=epochs * (each // batch) + 8, workers=1
        )
        memory = watch(lambda: iter(loader), epochs, each // batch)
    else:
        from pycocotools.coco import COCO

        began, base = time.process_time(), resident()
        coco = COCO(str(path))
        load = time.process_time() - began, (resident() - base) / MIB
        lists = Lists(coco, folder)
        order = np.random.default_rng(0).permutation(len(lists)).tolist()
        order = (order * (epochs * each // len(order) + 2))[: epochs * each + 8 * batch]
        other = DataLoader(lists, batch, sampler=order, num_workers=1, collate_fn=lambda items: items)
        memory = watch(lambda: iter(other), epochs, each // batch)
    return {"seconds": load[0], "loaded": load[1], "worker": memory}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--annotations", type=int, default=860_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--each", type=int, help="images an epoch; default: all")
    parser.add_argument("--single", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    each = args.each or args.images
    if args.single:
        found = single(args.single[0], Path(args.single[1]), args.epochs, each)
        print("FOUND " + json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as name:
        path = write_data(Path(name), args.images, args.annotations)
        print(
            f"{args.images:,} images, {args.annotations:,} annotations, {path.stat().st_size / 1e6:.0f} MB\n"
        )
        head = "| | processor s to load | resident MiB by loading | worker's private MiB: at the start, "
        print(head + "after each epoch | grown by |\n|---|---:|---:|---:|---:|")
        for kind in ("ours", "pycocotools"):
            command = [sys.executable, __file__, "--single", kind, name]
            command += ["--epochs", str(args.epochs), "--each", str(each)]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            line = next(text for text in out.splitlines() if text.startswith("FOUND "))
            found = json.loads(line.removeprefix("FOUND "))
            memory = found["worker"]
            told = ", ".join(f"{value:.0f}" for value in memory)
            grown = f"{memory[-1] - memory[0]:.0f}"
            print(
                f"| {kind} | {found['seconds']:.1f} | {found['loaded']:.0f} | {told} | {grown} |", flush=True
            )


if __name__ == "__main__":
    main()
