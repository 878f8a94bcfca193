"""Runs a file of ``maskrcnn export --to onnx`` with numpy and onnxruntime alone.

    python examples/onnx_predict.py MODEL.onnx IMAGE.ppm|IMAGE.npy [--score 0.5] [--masks MASKS.npy]

The image is uint8 [H, W, 3] RGB: an array, or a binary PPM (``convert photo.jpg photo.ppm`` makes one).
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def read_image(path):
    if path.endswith(".npy"):
        return np.load(path)
    with Path(path).open("rb") as file:
        kind, size, most = (file.readline() for _ in range(3))
        if kind.strip() != b"P6" or size.startswith(b"#") or most.strip() != b"255":
            sys.exit(f"{path}: not a binary PPM of 8 bits (P6) without comments; convert photo.jpg photo.ppm")
        width, height = map(int, size.split())
        return np.frombuffer(file.read(), np.uint8).reshape(height, width, 3)


parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("image")
parser.add_argument("--score", type=float, default=0.5)
parser.add_argument("--masks", help="write the masks there, bool [K, H, W]")
args = parser.parse_args()
session = onnxruntime.InferenceSession(args.model, providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
names = [output.name for output in session.get_outputs()]
found = dict(zip(names, session.run(None, {"image": read_image(args.image)[None]}), strict=True))
kept = found["scores"] >= args.score
for box, score, label in zip(
    found["boxes"][kept], found["scores"][kept], found["classes"][kept], strict=True
):
    print(f"{classes[label]} {score:.3f} " + " ".join(f"{side:.1f}" for side in box))
if args.masks and "masks" in found:
    np.save(args.masks, found["masks"][kept])
