"""What the commands do, as functions: train, evaluate, predict."""

from maskrcnn.run.evaluate import Evaluation, evaluate
from maskrcnn.run.folder import RunFolder
from maskrcnn.run.predictor import Prediction, Predictor
from maskrcnn.run.proposals import propose
from maskrcnn.run.train import TrainResult, train

__all__ = [
    "Evaluation",
    "Prediction",
    "Predictor",
    "RunFolder",
    "TrainResult",
    "evaluate",
    "propose",
    "train",
]
