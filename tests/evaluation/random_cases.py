"""Data sets and results drawn at random, with what makes evaluators differ."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskrcnn.structures import rle

SIDES = [(200, 320), (320, 200), (150, 150)]


def polygon(rng: np.random.Generator, box: list[float]) -> list[float]:
    x, y, w, h = box
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 20))))
    radii = rng.uniform(0.5, 1, len(angles))
    points = np.stack([x + w / 2 * (1 + np.cos(angles) * radii), y + h / 2 * (1 + np.sin(angles) * radii)], 1)
    return np.round(points, 2).reshape(-1).tolist()


def random_case(seed: int, joints: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Images of three shapes with crowds, RLEs, sides at the edges of the area ranges, classes without truth;
    detections with ties in score and box, of classes that do not exist, of images without truth.
    """
    rng = np.random.default_rng(seed)
    images = [
        {"id": int(i), "height": SIDES[k % 3][0], "width": SIDES[k % 3][1]}
        for k, i in enumerate(rng.choice(10**6, 12, replace=False))
    ]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in images[:-1]:
        height, width = image["height"], image["width"]
        for _ in range(int(rng.integers(0, 14))):
            side = rng.choice([8.0, 20.0, 32.0, 32.0, 96.0, 96.0, 130.0])
            box = [*rng.uniform(0, [width - side, height - side]).tolist(), side, side]
            box = np.round(box, 1).tolist()
            shape: Any = [polygon(rng, box)]
            if rng.random() < 0.3:
                shape.append(polygon(rng, [box[0], box[1], side / 2, side / 2]))
            crowd = int(rng.random() < 0.15)
            if crowd:
                code = rle.from_polygons([np.array(shape[0])], height, width)
                shape = {"size": code["size"], "counts": code["counts"].decode()}
            annotation = {
                "id": len(annotations),
                "image_id": image["id"],
                "category_id": int(rng.choice([3, 8, 20])),
                "bbox": box,
                "area": float(side * side),
                "iscrowd": crowd,
                "segmentation": shape,
            }
            if joints:
                flags = rng.integers(0, 3, joints) * (rng.random() < 0.8)
                places = rng.uniform(0, 1, (joints, 2)) * box[2:] + box[:2]
                annotation["keypoints"] = np.column_stack([places, flags]).reshape(-1).tolist()
                annotation["num_keypoints"] = int((flags > 0).sum())
            annotations.append(annotation)
    for image in images:
        height, width = image["height"], image["width"]
        mine = [a for a in annotations if a["image_id"] == image["id"]]
        for _ in range(int(rng.integers(0, 160))):
            if mine and rng.random() < 0.7:
                like = mine[int(rng.integers(len(mine)))]
                box, category = list(like["bbox"]), like["category_id"]
                if rng.random() < 0.7:  # the others are ties in IoU
                    box = (np.array(box) + rng.normal(0, 3, 4)).clip(1).tolist()
            else:
                box, category = rng.uniform(1, 60, 4).tolist(), int(rng.choice([3, 8, 20, 21, 5]))
            code = rle.from_polygons([np.array(polygon(rng, box))], height, width)
            result = {
                "image_id": image["id"],
                "category_id": category,
                "bbox": box,
                "score": float(np.round(rng.random(), 1)),  # many ties
                "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
            }
            if joints:
                like = mine[int(rng.integers(len(mine)))] if mine else {"keypoints": [5.0, 5.0, 1] * joints}
                places = np.array(like["keypoints"]).reshape(-1, 3)[:, :2] + rng.normal(0, 2, (joints, 2))
                result["keypoints"] = np.column_stack([places, np.ones(joints)]).reshape(-1).tolist()
            results.append(result)
    categories: list[dict[str, Any]] = [{"id": i, "name": str(i)} for i in (20, 3, 8, 11)]
    if joints:
        categories[0]["keypoints"] = [f"k{j}" for j in range(joints)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return content, [results[i] for i in rng.permutation(len(results))]


def outline_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Images of two shapes with polygons of two classes, some at the image's edge, and crowds.

    Detections are the same polygons moved by a few pixels, so that outlines agree more or less.
    """
    rng = np.random.default_rng(seed)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
    results = []
    for image_id in range(1, 7):
        height, width = [(240, 320), (480, 400)][image_id % 2]
        content["images"].append({"id": image_id, "height": height, "width": width})
        for _ in range(9):
            side = float(rng.choice([12, 24, 60, 120]))
            x, y = rng.uniform(-side / 3, [width - side * 2 / 3, height - side * 2 / 3])
            flat = np.array(polygon(rng, [x, y, side, side]))
            flat = flat.reshape(-1, 2).clip(0, [width, height]).reshape(-1)
            code = rle.from_polygons([flat], height, width)
            left, top, w, h = rle.box(code)
            if not w or not h:
                continue
            crowd = int(rng.random() < 0.1)
            shape: Any = [flat.tolist()]
            if crowd:
                shape = {"size": code["size"], "counts": code["counts"].decode()}
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.integers(1, 3)),
                    "bbox": [left, top, w, h],
                    "area": float(rle.area(code)),
                    "iscrowd": crowd,
                    "segmentation": shape,
                }
            )
            for _ in range(int(rng.integers(0, 3))):
                moved = flat + rng.normal(0, side / 60) + np.tile(rng.normal(0, side / 40, 2), len(flat) // 2)
                code = rle.from_polygons([moved], height, width)
                results.append(
                    {
                        "image_id": image_id,
                        "category_id": content["annotations"][-1]["category_id"],
                        "bbox": list(rle.box(code)),
                        "score": float(np.round(rng.random(), 2)),
                        "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                    }
                )
    return content, results
