"""From annotation and image files to batches: data sets, transforms, loaders, synthetic data."""

from maskrcnn.config.registry import on_demand
from maskrcnn.data.fault_report import FaultReport, OnError
from maskrcnn.data.interfaces import DATASETS, TRANSFORMS, Dataset, DatasetConfig, Transform
from maskrcnn.data.loader import BatchLoader, eval_loader, train_loader
from maskrcnn.data.transforms.moving import apply_transforms
from maskrcnn.structures import RawSample
from maskrcnn.structures.categories import Categories

__all__ = [
    "DATASETS",
    "TRANSFORMS",
    "BatchLoader",
    "Categories",
    "CocoConfig",
    "CocoDataset",
    "Dataset",
    "DatasetConfig",
    "FaultReport",
    "OnError",
    "RawSample",
    "SyntheticConfig",
    "Transform",
    "apply_transforms",
    "eval_loader",
    "synthetic_dataset",
    "train_loader",
]

__getattr__ = on_demand(
    __name__,
    CocoConfig="formats.coco",
    CocoDataset="formats.coco",
    SyntheticConfig="synthetic.dataset",
    synthetic_dataset="synthetic.dataset",
)
