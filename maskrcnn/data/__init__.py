"""From COCO json and image files to batches: data sets, transforms, loaders, synthetic data."""

from maskrcnn.data.fault_report import FaultReport, OnError
from maskrcnn.data.formats.coco import CocoConfig, CocoDataset
from maskrcnn.data.interfaces import (
    DATASETS,
    TRANSFORMS,
    Dataset,
    DatasetConfig,
    Transform,
    TransformConfig,
)
from maskrcnn.data.loader import BatchLoader, eval_loader, train_loader
from maskrcnn.data.synthetic.dataset import SyntheticConfig, synthetic_dataset
from maskrcnn.data.transforms.basic import apply_transforms
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
    "TransformConfig",
    "apply_transforms",
    "eval_loader",
    "synthetic_dataset",
    "train_loader",
]
