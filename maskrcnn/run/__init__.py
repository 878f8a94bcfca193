"""What the commands do, as functions: train, evaluate, predict."""

from maskrcnn.config.registry import on_demand
from maskrcnn.run.folder import RunFolder
from maskrcnn.run.train import TrainResult, train

__all__ = [
    "Evaluation",
    "Model",
    "Prediction",
    "Predictor",
    "RunFolder",
    "TrainResult",
    "evaluate",
    "propose",
    "train",
]

__getattr__ = on_demand(
    __name__,
    Evaluation="evaluation",
    Model="model",
    Prediction="prediction",
    Predictor="predictor",
    evaluate="evaluation",
    propose="proposals",
)
