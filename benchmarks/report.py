"""A report of many images: seconds, memory, size of the page, and how fast a browser opens it.

    python benchmarks/report.py                  # 5,000 images, 100 detections each, 200 pictures
    python benchmarks/report.py --images 300

The data are drawn as in benchmarks/evaluation.py, on pictures of a few kinds of noise.  The page is made in a
process of its own, from what an evaluation has at hand: data set, records, COCO's figures of them.  It is
opened in headless Chromium, where there is one: until all is loaded, and until the gallery is filtered.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2
import numpy as np

from benchmarks.evaluation import SIZES, draw
from tests.browser import chromium

ROOT = Path(__file__).resolve().parents[1]
#: Different pictures of each size, of which every image is one.
PICTURES = 8


def picture(rng: np.random.Generator, height: int, width: int) -> Any:
    """Noise of several scales, as large as a photograph when it is compressed: uint8 [h, w, 3]."""
    out = np.zeros((height, width, 3))
    for cells in (4, 16, 64, 256):
        coarse = rng.normal(0, 60 / np.log2(cells), (cells, cells, 3))
        out += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(out + 128, 0, 255).astype(np.uint8)


def write_images(folder: Path, content: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    kinds: dict[tuple[int, int], list[Path]] = {}
    for height, width in SIZES:
        for number in range(PICTURES):
            path = folder / f"kind_{height}_{width}_{number}.jpg"
            cv2.imwrite(str(path), picture(rng, height, width))
            kinds.setdefault((height, width), []).append(path)
    for image in content["images"]:
        ways = kinds[image["height"], image["width"]]
        os.link(ways[image["id"] % len(ways)], folder / image["file_name"])


def make(folder: Path) -> dict[str, Any]:
    """The page, in this process: what it took."""
    from maskrcnn.data.formats.coco import CocoConfig
    from maskrcnn.evaluation import load_results
    from maskrcnn.recipe import load_recipe
    from maskrcnn.run.report.evaluated import Evaluated, judge
    from maskrcnn.run.report.page import write_report

    recipe = load_recipe(ROOT / "configs/nuclei/mask_rcnn_r18_fpn_gn.yaml", ["model.roi.max_detections=100"])
    dataset = CocoConfig(images=folder, annotations=folder / "annotations.json").build(False)
    seen = Evaluated("a report of drawn data", recipe, dataset, load_results(folder / "results.json"))
    began = time.perf_counter()
    judged = judge(seen)
    evaluated = time.perf_counter() - began
    before = memory()
    began, worked = time.perf_counter(), time.process_time()
    page = folder / "page.html"
    write_report(page, Evaluated(seen.title, recipe, dataset, seen.records, judged), print, print)
    took = time.perf_counter() - began
    return {
        "seconds of COCO's figures": evaluated,
        "seconds of the page": took,
        "of these of the processor": time.process_time() - worked,
        "MB before": before,
        "MB at most": memory(),
        "MB of the page": page.stat().st_size / 2**20,
        "pictures": page.read_text(encoding="utf-8").count("<article"),
    }


def memory() -> float:
    """The most that this process has had, MB."""
    status = Path("/proc/self/status").read_text()  # ru_maxrss begins at the size of the process before
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


def look(folder: Path, repeats: int) -> dict[str, Any]:
    """The page in a browser: seconds until it is loaded, and until a filter has acted; its complaints."""
    opened, filtered = [], []
    with chromium(folder) as browser:
        for _ in range(repeats):
            began = time.perf_counter()
            browser.open(folder / "page.html")
            browser.do("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            opened.append(time.perf_counter() - began)
            box = "[...document.querySelectorAll('#gallery select')][0]"
            value = browser.do(f"[...{box}.options].at(-1).value")
            began = time.perf_counter()
            browser.do(f"{box}.value = {json.dumps(value)}; {box}.dispatchEvent(new Event('change'))")
            browser.do("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            filtered.append(time.perf_counter() - began)
        complaints = browser.complaints()
    return {
        "seconds until it is open": statistics.median(opened),
        "seconds until it is filtered": statistics.median(filtered),
        "complaints of the browser": complaints,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help="default 5000")
    parser.add_argument("--repeats", type=int, default=5, help="how often the page is opened; default 5")
    parser.add_argument("--keep", type=Path, help="a folder for data and page; default one that is removed")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(make(args.one)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = args.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        instances, detections = draw(folder, args.images)
        write_images(folder, json.loads((folder / "annotations.json").read_text()))
        facts: dict[str, Any] = {"images": args.images, "objects": instances, "detections": detections}
        command = [sys.executable, __file__, "--one", str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        facts |= json.loads(done.stdout.splitlines()[-1])
        print(json.dumps(facts | look(folder, args.repeats), indent=1))


if __name__ == "__main__":
    main()
