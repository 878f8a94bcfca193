"""From detections to masks, COCO results, COCO's figures, and pictures."""

from maskrcnn.evaluation.backends import Backend
from maskrcnn.evaluation.coco import evaluate_coco
from maskrcnn.evaluation.eval_result import ClassFigures, EvalResult, Matches
from maskrcnn.inference.loop import PredictionProgress, predict_batches, predict_dataset
from maskrcnn.inference.paste import Paste, encode_masks, paste_masks
from maskrcnn.inference.records import (
    Result,
    coco_results,
    ground_truth_results,
    load_results,
    merge_results,
    save_results,
)
from maskrcnn.modeling.precision import Precision
from maskrcnn.structures.ground_truth import IouType
from maskrcnn.structures.rle import TextRLE

__all__ = [
    "Backend",
    "ClassFigures",
    "EvalResult",
    "IouType",
    "Matches",
    "Paste",
    "Precision",
    "PredictionProgress",
    "Result",
    "TextRLE",
    "coco_results",
    "encode_masks",
    "evaluate_coco",
    "ground_truth_results",
    "load_results",
    "merge_results",
    "paste_masks",
    "predict_batches",
    "predict_dataset",
    "save_results",
]
