"""A model in every form that it can leave in: AP, milliseconds an image, megabytes.

    OMP_NUM_THREADS=2 python benchmarks/export.py --checkpoint runs/nuclei --threads 2 --folder runs/export

Two models: that of ``--checkpoint`` on the images of its ``data.val`` (or of ``NUCLEI_ROOT``, the folder that
holds train/, val/ and the two jsons), with AP; and R50-FPN of random weights, whose last layers are scaled so
that it finds a hundred objects, on drawn images of 800 x 1216 px.  Each is eager in float32 and bfloat16,
compiled, an ONNX file, and OpenVINO's in float32, bfloat16 and int8.  The forms run image by image in turn,
``--rounds`` times; told is the median over the images of an image's best time: to run-length encoded masks
in the eager forms, to bitmaps in the files.

``compiled`` is what ``solver.compile`` compiles, for the commonest size alone, and runs on the images of that
size; where compiling takes more than ``--patience`` seconds, the table says so.

Files and figures stay in ``--folder``, and what is there is not made again: the command goes on where it was
stopped.  ``--only nuclei`` or ``r50`` does one model, ``--images`` and ``--large`` say on how many images.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._inductor.async_compile import shutdown_compile_workers

from maskrcnn.config import dump
from maskrcnn.engine.checkpoint import Checkpoint, save
from maskrcnn.engine.distributed import connect
from maskrcnn.evaluation import evaluate_coco
from maskrcnn.modeling import MaskRCNN
from maskrcnn.recipe import load_recipe
from maskrcnn.run.export.int8 import CALIBRATION
from maskrcnn.run.export.onnx_file import made
from maskrcnn.run.export.openvino_file import converted
from maskrcnn.run.export.running import OnnxRunner, OpenVinoRunner
from maskrcnn.run.predictor import Predictor
from maskrcnn.run.setup import build_val, compile_layers
from maskrcnn.structures import ImageInfo

ROOT = Path(__file__).resolve().parents[1]
TITLES = {"nuclei": "Nuclei", "r50": "R50-FPN at 800 x 1216 px"}
PRECISIONS = ("float32", "bfloat16", "int8")
FORMS = (
    "eager",
    "eager bfloat16",
    "compiled",
    "ONNX",
    *(f"OpenVINO {precision}" for precision in PRECISIONS),
)
Array = Any


def calibrate(model: MaskRCNN, images: Sequence[Tensor]) -> MaskRCNN:
    """A model of random weights whose scores and masks are spread as a trained one's, not all near 0.5.

    From front to back the last layers are drawn anew and scaled so that their outputs on ``images`` [3, h, w]
    have a deviation of 2 (deltas: 0.3).
    """
    for end in ("objectness", "predictor.logits", "predictor.deltas", "head.deltas", "mask_head.logits"):
        for name, layer in model.named_modules():
            if not name.endswith(end) or not isinstance(layer, (nn.Conv2d, nn.Linear)):
                continue
            seen: list[Tensor] = []
            nn.init.normal_(layer.weight)
            hook = layer.register_forward_hook(lambda *found, seen=seen: seen.append(found[2]))
            model.predict(images)
            hook.remove()
            # A layer that is not called as one, but for its weights, sees nothing.
            spread = torch.cat([values.flatten() for values in seen]).std() if seen else torch.tensor(16.0)
            with torch.no_grad():
                layer.weight.mul_((0.3 if "deltas" in end else 2.0) / spread.clamp(min=1e-6))
    return model


def drawn(count: int, height: int = 800, width: int = 1216) -> list[Array]:
    """Images of coarse noise, uint8 [H, W, 3]."""
    rng = np.random.default_rng(0)
    small = (rng.integers(0, 256, (height // 16, width // 16, 3)) for _ in range(count))
    return [np.kron(values, np.ones((16, 16, 1))).astype(np.uint8) for values in small]


def random_r50(folder: Path) -> Path:
    """A checkpoint of R50-FPN with calibrated random weights."""
    file = folder / "r50.pt"
    if not file.is_file():
        recipe = load_recipe(ROOT / "configs/coco/mask_rcnn_r50_fpn_1x.yaml", ["model.backbone.weights=null"])
        torch.manual_seed(0)
        image = torch.from_numpy(drawn(1)[0]).permute(2, 0, 1)
        model = calibrate(recipe.model.build(80).eval(), [image])
        ids = tuple(range(1, 81))
        names = tuple(f"class{i}" for i in ids)
        config = dump(recipe)
        save(
            Checkpoint(model=model.state_dict(), config=config, category_ids=ids, category_names=names), file
        )
    return file


def exported(predictor: Predictor, name: str, folder: Path, samples: Callable[[], list[Array]]) -> None:
    """Write the ONNX file and OpenVINO's, those that are not there."""
    source = folder / f"{name}.onnx"
    if not source.is_file():
        began = time.perf_counter()
        partial = source.with_suffix(".part")
        partial.write_bytes(made(predictor, (), {}).SerializeToString())
        partial.replace(source)
        print(f"{source}: {time.perf_counter() - began:.0f} s", flush=True)
    import openvino

    for precision in PRECISIONS:
        file = folder / f"{name}.{precision}.xml"
        if not file.is_file():
            began = time.perf_counter()
            openvino.save_model(converted(source, precision, samples), file, compress_to_fp16=False)
            print(f"{file}: {time.perf_counter() - began:.0f} s", flush=True)


def compiled_for(checkpoint: Path, image: Array, patience: int) -> Predictor | None:
    """A predictor compiled for images of this size; None: it was not done after ``patience`` seconds."""
    expired = []

    def late(*_: object) -> None:
        expired.append(True)
        raise TimeoutError

    predictor = Predictor(checkpoint, device="cpu", score=0.0)
    compile_layers(predictor.model, predictor.device, sizes=1)
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(patience)
    began = time.perf_counter()
    try:
        predictor(image)
        print(f"compiled in {time.perf_counter() - began:.0f} s", flush=True)
        return predictor
    except Exception:  # the compiler makes its own of ours
        if not expired:
            raise
        shutdown_compile_workers()
        print(f"not compiled in {patience} s", flush=True)
        return None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def measure(
    checkpoint: Path,
    name: str,
    folder: Path,
    images: Sequence[tuple[ImageInfo, Array]],
    rounds: int,
    threads: int,
    only: Sequence[str],
    patience: int,
    clock: Callable[[], float],
) -> dict[str, dict[str, Any]]:
    """By the form: milliseconds, megabytes, and the records of all images."""
    eager = Predictor(checkpoint, device="cpu", score=0.0)
    half = Predictor(checkpoint, device="cpu", score=0.0, precision="bfloat16")
    bare = sum(v.numel() * v.element_size() for v in eager.model.state_dict().values())

    def ours(found: Any, info: ImageInfo) -> list[Any]:
        return [{**r, "image_id": info.image_id} for r in found.records]

    def theirs(found: Any, info: ImageInfo) -> list[Any]:
        return found.records(info, eager.categories)

    source = folder / f"{name}.onnx"
    forms = {
        "eager": (eager, ours, bare),
        "eager bfloat16": (half, ours, bare),
        "ONNX": (OnnxRunner(source, threads), theirs, source.stat().st_size),
    }
    for precision in PRECISIONS:
        file = folder / f"{name}.{precision}.xml"
        size = file.stat().st_size + file.with_suffix(".bin").stat().st_size
        forms[f"OpenVINO {precision}"] = (OpenVinoRunner(file, threads), theirs, size)
    common = Counter(image.shape for _, image in images).most_common(1)[0][0]
    some = next(image for _, image in images if image.shape == common)
    if "compiled" in only and (compiled := compiled_for(checkpoint, some, patience)) is not None:
        forms["compiled"] = (compiled, ours, bare)
    forms = {form: how for form, how in forms.items() if form in only}
    best: dict[str, dict[int, float]] = {form: {} for form in forms}
    records: dict[str, list[Any]] = {form: [] for form in forms}
    for number in range(rounds):
        for index, (info, image) in enumerate(images):
            for form, (run, records_of, _) in forms.items():
                if form == "compiled" and image.shape != common:
                    continue
                began = clock()
                found = run(image)
                took = clock() - began
                best[form][index] = min(took, best[form].get(index, took))
                records[form] += records_of(found, info) if number == 0 else []
        print(f"{name}: round {number + 1} of {rounds}", flush=True)
    return ({} if "compiled" in forms or "compiled" not in only else {"compiled": {"late": patience}}) | {
        form: {
            "ms": 1000 * statistics.median(best[form].values()),
            "mb": size / 1e6,
            "found": len(records[form]) / len(best[form]),
            "records": records[form],
        }
        for form, (_, _, size) in forms.items()
    }


def table(results: dict[str, dict[str, Any]], title: str) -> str:
    """As Markdown."""
    lines = [
        f"{title}\n",
        "| form | box AP | mask AP | ms an image | times eager | MB |",
        "|---|---|---|---|---|---|",
    ]
    slow = results["eager"]["ms"] if "eager" in results else float("nan")
    for form in (form for form in FORMS if form in results):
        row = results[form]
        if "late" in row:
            lines.append(f"| {form} | | | not compiled in {row['late']} s | | |")
            continue
        figures = [f"{row[kind]:.4f}" if kind in row else "" for kind in ("bbox", "segm")]
        numbers = f"{row['ms']:.0f} | {slow / row['ms']:.2f} | {row['mb']:.1f}"
        lines.append(f"| {form} | {' | '.join(figures)} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="of a model that was trained on the nuclei")
    parser.add_argument("--folder", type=Path, default=Path("runs/export"), help="default runs/export")
    parser.add_argument("--only", choices=("nuclei", "r50"), help="one of the two models")
    parser.add_argument(
        "--forms", nargs="+", default=FORMS, choices=FORMS, help="default: all", metavar="FORM"
    )
    parser.add_argument("--images", type=int, default=40, help="of the nuclei; default 40")
    parser.add_argument("--large", type=int, default=6, help="drawn ones for R50-FPN; default 6")
    parser.add_argument("--calibration", type=int, default=CALIBRATION, help="images for int8")
    parser.add_argument("--rounds", type=int, default=2, help="default 2")
    parser.add_argument("--processor", action="store_true", help="tell processor time, beside other work")
    parser.add_argument("--patience", type=int, default=300, help="seconds to compile in; default 300")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: torch's")
    args = parser.parse_args()
    if args.only != "r50" and args.checkpoint is None:
        parser.error("--checkpoint is needed for the nuclei (--only r50 does without)")
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    tables = []
    for name in ("nuclei", "r50") if args.only is None else (args.only,):
        kept = args.folder / f"{name}.json"
        if not kept.is_file():
            checkpoint = args.checkpoint if name == "nuclei" else random_r50(args.folder)
            root, overrides = os.environ.get("NUCLEI_ROOT"), []
            if name == "nuclei" and root is not None:
                overrides = [
                    f"data.{part}={{type: coco, images: {root}/{part},"
                    f" annotations: {root}/instances_{part}.json}}"
                    for part in ("train", "val")
                ]
            predictor = Predictor(checkpoint, device="cpu", score=0.0, overrides=overrides)
            recipe = predictor.recipe
            if name == "nuclei":
                val, train = build_val(recipe, connect("cpu")), recipe.data.build(recipe.data.train, False)
                few = sorted({i * len(train) // args.calibration for i in range(args.calibration)})
                exported(predictor, name, args.folder, lambda d=train, f=few: [d.load(i).image for i in f])
                loaded = [val.load(i) for i in range(min(args.images, len(val)))]
                images = [(sample.info, sample.image) for sample in loaded]
            else:
                exported(predictor, name, args.folder, lambda: drawn(min(args.calibration, 8)))
                images = [(ImageInfo(i, "", *x.shape[:2]), x) for i, x in enumerate(drawn(args.large))]
            clock = time.process_time if args.processor else time.perf_counter
            options = args.rounds, args.threads, args.forms, args.patience, clock
            results = measure(checkpoint, name, args.folder, images, *options)
            for form, row in results.items():
                records = row.pop("records", [])
                if name == "nuclei" and form != "compiled":
                    ids = [info.image_id for info, _ in images]
                    cap = recipe.model.roi.max_detections
                    kinds = ["bbox", "segm"]
                    figures = evaluate_coco(
                        val.ground_truth(), records, kinds, max_detections=cap, image_ids=ids
                    )
                    row |= {kind: figures.figures[kind]["AP"] or 0.0 for kind in kinds}
            kept.write_text(json.dumps(results, indent=1))
        tables.append(table(json.loads(kept.read_text()), TITLES[name]))
    print("\n\n".join(tables))


if __name__ == "__main__":
    main()
