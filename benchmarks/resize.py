"""What the ways to resize an image cost, and how far each is from PIL's bilinear.

    python benchmarks/resize.py --images COCO/val2017 [--limit 20] [--sides 160 320 400 800] [--repeats 5]

One thread, as in a loader's worker.  Every image is scaled to each shorter side by all ways in turn; printed
are the median over the images of each one's median processor time (which other processes do not lengthen), in
ms, and the largest and the mean difference of a value (0..255) from PIL's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import PIL.Image

from maskrcnn.data.images import read_image
from maskrcnn.data.transforms.moving import Resample, resample


def main() -> None:
    parser = argparse.ArgumentParser(description="speed and exactness of resampling")
    parser.add_argument("--images", type=Path, required=True, help="a folder of images")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--sides", type=int, nargs="+", default=[160, 320, 400, 800])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    cv2.setNumThreads(0)
    images = [read_image(p) for p in sorted(args.images.iterdir())[: args.limit]]
    print(f"{len(images)} images, OpenCV {cv2.__version__}, Pillow {PIL.__version__}")
    print("side  resample   ms      largest  mean difference from PIL's bilinear")
    for side in args.sides:
        sizes = [tuple(round(v * side / min(i.shape[:2])) for v in i.shape[:2]) for i in images]
        for how in get_args(Resample):
            times, largest, means = [], 0, []
            for image, (height, width) in zip(images, sizes, strict=True):
                theirs = PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BILINEAR)
                own = []
                for _ in range(args.repeats):
                    began = time.thread_time()
                    ours = resample(image, height, width, how)
                    own.append(time.thread_time() - began)
                times.append(statistics.median(own))
                difference = np.abs(ours.astype(np.int16) - np.asarray(theirs))
                largest, means = max(largest, int(difference.max())), [*means, float(difference.mean())]
            ms = 1e3 * statistics.median(times)
            print(f"{side:4d}  {how:9s}  {ms:6.2f}  {largest:7d}  {statistics.fmean(means):.2f}")


if __name__ == "__main__":
    main()
