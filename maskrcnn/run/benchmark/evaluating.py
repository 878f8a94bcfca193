"""How many images a second an evaluation predicts."""

from __future__ import annotations

import time

from maskrcnn.data import Dataset
from maskrcnn.engine.distributed import Ranks
from maskrcnn.errors import plural
from maskrcnn.inference.loop import predict_dataset
from maskrcnn.modeling.mask_rcnn import MaskRCNN
from maskrcnn.recipe import Recipe
from maskrcnn.run import setup
from maskrcnn.run.benchmark.figures import Evaluating, Tell

#: Images that are evaluated without being counted.
_UNCOUNTED = 2


def measure_evaluation(
    recipe: Recipe, model: MaskRCNN, val: Dataset, ranks: Ranks, steps: int, tell: Tell
) -> Evaluating:
    """Predict some images of ``data.val``, masks and all, as an evaluation does; it computes no figures."""

    def predict(images: int) -> tuple[int, float]:
        began = time.perf_counter()
        records = predict_dataset(
            model,
            setup.eval_batches(val, recipe, ranks, images * ranks.size),
            ranks.device,
            val.categories,
            precision=recipe.eval.precision,
            paste=recipe.eval.paste,
            clean=recipe.eval.clean,
            tta=recipe.eval.tta,
            keypoint_offset=recipe.eval.keypoint_offset,
        )
        return len(records), time.perf_counter() - began

    share = len(val) // ranks.size
    count = max(min(max(steps * recipe.solver.batch_size // ranks.size, 1), share, 50), 1)
    tell(f"evaluating {plural(count, 'image')}")
    predict(min(_UNCOUNTED, count))
    found, seconds = predict(count)
    rate = count * ranks.size / seconds
    return Evaluating(count * ranks.size, rate, found / count, len(val) / rate)
