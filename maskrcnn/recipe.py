"""The schema of one YAML file: model + data + solver + train + eval.

Every key has its default, unit and source beside it; ``maskrcnn config show FILE`` prints them resolved.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from maskrcnn.config import Config, Loaded, Range, load_traced, loads
from maskrcnn.config.ranges import Count, Positive, Share, any_number
from maskrcnn.data.interfaces import (
    AUGMENTATIONS,
    DATASETS,
    RGB,
    TRANSFORMS,
    Channels,
    ContrastConfig,
    Dataset,
    DatasetConfig,
    ImageReading,
    TilesConfig,
    Transform,
)
from maskrcnn.data.transforms.copy_paste import CopyPasteConfig
from maskrcnn.data.transforms.undoing import not_undoable
from maskrcnn.engine.events import TRACKERS, TrackerConfig
from maskrcnn.engine.optim import OPTIMIZERS, OptimizerConfig, SGDConfig
from maskrcnn.engine.schedules import SCHEDULES, MultiStepConfig, ScheduleConfig
from maskrcnn.errors import ConfigError, DataError, few
from maskrcnn.modeling.interfaces import BACKBONES
from maskrcnn.modeling.mask_rcnn import MaskRCNNConfig
from maskrcnn.modeling.precision import Precision
from maskrcnn.structures.categories import Categories
from maskrcnn.structures.ground_truth import IouType

#: Processes that load images, a rank: far above any use, and below what takes a machine down.
MOST_WORKERS = 512

#: Of a batch, in pixels.
PaddedSide = Annotated[int, Range(1, 65_536, "images so large fill the memory")]

#: An area of masks.
Pixels = Annotated[int, Range(0, 10**9, "no image has so many pixels")]


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """What is trained and evaluated on, and how images become samples."""

    #: Training set.
    train: Annotated[DatasetConfig, DATASETS]
    #: Evaluation set, of the same categories; null: no evaluation.  Default null.
    val: Annotated[DatasetConfig, DATASETS] | None = None
    #: Augmentations of training images, in order.  Default: a short side drawn from 640..800 px (at most
    #: 1333 px long) and a horizontal flip at 0.5 (Detectron2's INPUT defaults).
    train_transforms: tuple[Annotated[Transform, TRANSFORMS], ...] = field(
        default_factory=lambda: (
            TRANSFORMS.make("resize_shortest_edge", min_sizes=(640, 672, 704, 736, 768, 800)),
            TRANSFORMS.make("hflip"),
        )
    )
    #: Augmentations by the kind of pictures, behind ``train_transforms``: microscopy, aerial, photos, or a
    #: name that a plugin registers (`config show` prints what it stands for).  Default none.
    augment: str = "none"
    #: Boxes of training images become the tight boxes of their masks, behind all transforms: where they were
    #: drawn wider than the objects.  Default false.
    tighten_boxes: bool = False
    #: As ``train_transforms``, for evaluation and prediction.  Default: short side 800 px, at most 1333 px
    #: long.
    eval_transforms: tuple[Annotated[Transform, TRANSFORMS], ...] = field(
        default_factory=lambda: (TRANSFORMS.make("resize_shortest_edge"),)
    )
    #: Channels of the images, 1 to 1024: of 3 gray is repeated and alpha dropped, of 1 colours become gray,
    #: other numbers are what the files hold (TIFF, npy).  model.preprocess has a mean for each.  Default 3.
    channels: Channels = 3
    #: Pages of a TIFF: first (the others are left out), channels (all together are one image), or images
    #: (each is one: the json names it ``file.tif[2]``, counted from 0).  Default first.
    pages: Literal["first", "channels", "images"] = "first"
    #: Which values of a file are black and white, for 12 bits in 16 and for floats; images then keep their
    #: depth, as float32 in 0..255.  null: 8 and 16 bits as they are.  Default null.
    contrast: ContrastConfig | None = None
    #: Paste objects of a second training image onto each, after both are augmented (needs masks); null: not.
    #: Default null.
    copy_paste: CopyPasteConfig | None = None
    #: Train on windows of the images, as {size: 512, overlap: 0.2}, and evaluate and predict by such windows,
    #: whose objects are put together over the whole image; for large images of small objects.  null: whole
    #: images.  Default null.
    tiles: TilesConfig | None = None
    #: (height, width) in pixels, 1 to 65536, multiples of model.preprocess.size_divisor: batches are padded
    #: to the smallest of them, upright or lying, that holds them, in training and evaluation, so that shapes
    #: come again (for compiled models and graphs); one that none holds is told, and padded as little as can
    #: be.  Default none: all are padded so.
    pad_sizes: tuple[tuple[PaddedSide, PaddedSide], ...] = ()
    #: Show images of rare classes more often, in (0, 1]: a class that is in a share f of the images has the
    #: factor max(1, sqrt(repeat_threshold / f)), an image the highest of its classes (Gupta et al. 2019,
    #: "LVIS", appendix B.2: 0.001); null: each image once an epoch.  Default null.
    repeat_threshold: Annotated[float, Range(above=0, most=1)] | None = None
    #: Faulty files and annotations: raise, or skip and count; null: each data set's own choice, by default
    #: skip faulty annotations and raise for unreadable files.  Default null.
    on_error: Literal["raise", "skip"] | None = None
    #: Processes a rank that load images, 0 to 512 (each takes 50 MB and more); 0 loads in the training
    #: process.  null: as many as cores are left over by this machine's ranks, at most 8, and 0 where training
    #: itself uses the cores (CPU).
    workers: Annotated[int, Range(0, MOST_WORKERS, "each is a process, and all start at once")] | None = None

    #: Keep decoded images, of ``train`` and ``val``, so that a training decodes each once: ram, one copy in
    #: memory for all processes of a machine (refused where it does not fit); disk, plain files below
    #: $MASKRCNN_HOME/images, for later runs too (as many as fit); none.  Results are the same.  Default none.
    cache: Literal["none", "ram", "disk"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augment != "none":
            try:
                AUGMENTATIONS.get(self.augment)
            except KeyError as error:
                raise ValueError(f"augment: {error.args[0]}") from None

    @property
    def reading(self) -> ImageReading:
        """How files become arrays."""
        return ImageReading(self.channels, self.pages, self.contrast)

    def build(self, part: DatasetConfig, training: bool) -> Dataset:
        """``train`` or ``val``, its images read as this says.

        Raises:
            DataError: a file is wrong.
            ConfigError: images are to be read in a way that a data set of one's own does not know.
        """
        options: dict[str, Any] = {"on_error": self.on_error}
        if self.reading != RGB:
            if "reading" not in inspect.signature(part.build).parameters:
                raise ConfigError(
                    f"data.channels, data.pages or data.contrast is set, and {type(part).__name__} reads its"
                    " images in a way of its own; leave them out, or give its build() a parameter 'reading'"
                )
            options["reading"] = self.reading
        return part.build(training, **options)

    def augmentation(self) -> tuple[Transform, ...]:
        """What ``augment`` and ``tighten_boxes`` put behind ``train_transforms``."""
        named = () if self.augment == "none" else AUGMENTATIONS.get(self.augment)()
        return (*named, TRANSFORMS.make("tighten_boxes")) if self.tighten_boxes else named


@dataclass(frozen=True, kw_only=True)
class EmaConfig(Config):
    """An average of the weights over the steps: ``average += (1 - d) (weights - average)`` after each."""

    #: Share d of the average that a step keeps, in [0, 1).  Default 0.9998 (timm's ModelEma has 0.9998 or
    #: 0.9999): an average over about the last 5000 steps; for short runs lower it to about 1 - 10 / steps.
    decay: Annotated[float, Range(0, below=1)] = 0.9998
    #: Warm-up, >= 1: d is at most (1 + t) / (warmup + t) after t steps, so that the first weights are soon
    #: forgotten; 1: none.  Default 10 (TensorFlow's ExponentialMovingAverage with num_updates).
    warmup: Annotated[float, Range(1)] = 10.0


@dataclass(frozen=True, kw_only=True)
class SolverConfig(Config):
    """How the weights are found."""

    #: Optimizer, with its base learning rate.  Default: SGD.
    optimizer: Annotated[OptimizerConfig, OPTIMIZERS] = field(default_factory=SGDConfig)
    #: Learning rate over the steps.  Default: steps with warm-up.
    schedule: Annotated[ScheduleConfig, SCHEDULES] = field(
        default_factory=lambda: MultiStepConfig(milestones=(60_000, 80_000))
    )
    #: Optimizer steps, > 0.  Default 90000 (the "1x" schedule: 12 epochs of COCO at 16 images a step).
    steps: Count = 90_000
    #: Images an optimizer step, over all ranks and accumulated passes, 1 to 65536.  Default 16 (FPN's
    #: release).
    batch_size: Annotated[int, Range(1, 65_536, "the images of a step must fit into memory")] = 16
    #: Batch size that ``optimizer.lr`` is meant for; at another the rate is scaled in proportion (Goyal et
    #: al. 2017, section 2.1).  null: as ``batch_size``, so nothing is scaled.  Default null.
    reference_batch_size: Count | None = None
    #: Forward passes an optimizer step, > 0: the batch is cut into as many parts, so that it needs less
    #: memory.  The images and the rate stay the same; the result is not the same to the bit (other random
    #: samples of anchors and RoIs; losses are averaged over parts; batch norm sees the parts).  Default 1.
    accumulate: Count = 1
    #: Parts of the model that do not train, by name or pattern, as [backbone, "roi.box_head.*"] (names as
    #: checkpoints have them; * is any characters): parameters stay as they are, normalisation keeps its
    #: statistics.  Default none, besides what a part freezes itself (model.backbone.freeze_at).
    freeze: tuple[str, ...] = ()
    #: Factors of the learning rate by name or pattern, > 0, as {backbone: 0.1}; of several that match, the
    #: longest counts, of equally long ones the last.  The schedule multiplies all.  Default none.
    rates: dict[str, Positive] = field(default_factory=dict, hash=False)
    #: Largest L2 norm of all gradients together, > 0; null: no clipping.  Default null (as Detectron2).
    clip_grad_norm: Positive | None = None
    #: float32, or autocast to bfloat16 or float16 (with loss scaling).  Default float32.
    precision: Precision = "float32"
    #: Keep an average of the weights beside them, as {decay: 0.9998}: float32, evaluated beside them (metrics
    #: ema/segm/AP), saved in each checkpoint (eval.ema takes it from there); null: none.  Default null.
    ema: EmaConfig | None = None
    #: Compute the backbone's activations anew in the backward pass in place of keeping them: less memory,
    #: about a third more time, the same numbers (Chen et al. 2016, "sublinear memory cost").  Default false.
    checkpoint_activations: bool = False
    #: How several processes train one model: ddp, each with all weights and their momenta; fsdp, dealt out
    #: over the processes and gathered a stage at a time (FSDP2), for models whose weights fill a GPU; auto:
    #: ddp.  Checkpoints are the same files.  Default auto.
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    #: Compile the layers with torch.compile: a quarter faster on a GPU, from a minute on.  Default false.
    compile: bool = False
    #: Refuse operators that are not deterministic; slower on a GPU.  On the CPU runs repeat to the bit
    #: without it.  Default false.
    deterministic: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be cut into accumulate = {self.accumulate} equal parts"
            )
        if self.compile and self.checkpoint_activations:
            raise ValueError(
                "compile and checkpoint_activations cannot both be true: a compiler decides itself what it"
                " computes anew; set one of them to false"
            )
        if self.strategy == "fsdp" and self.compile:
            raise ValueError("compile and strategy: fsdp do not go together; set compile: false")

    @property
    def learning_rate(self) -> float:
        """The base learning rate at ``batch_size``."""
        return self.optimizer.lr * self.batch_size / (self.reference_batch_size or self.batch_size)

    def rate_at(self, step: int) -> float:
        """The learning rate of optimizer step ``step``, from 0."""
        return self.learning_rate * self.schedule.factor(step, self.steps)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """What happens between the steps.  The last step always logs, saves and evaluates."""

    #: Steps between progress lines, > 0.  Default 20 (Detectron2).
    log_every: Count = 20
    #: Steps between checkpoints, > 0; null: at evaluations and at the end only.  Default 5000 (Detectron2).
    checkpoint_every: Count | None = 5000
    #: Steps between evaluations, > 0; null: at the end only.  Default null (as Detectron2).
    eval_every: Count | None = None
    #: Stop after so many evaluations (train.eval_every) in a row whose eval.best_metric is not better than
    #: the best before, > 0; null: never.  Default null.
    patience: Count | None = None
    #: Hours that the steps may take, > 0: how many steps there are is decided once, by the time of the first,
    #: and kept in the checkpoints; the schedule of solver.steps is stretched to them.  Evaluations and
    #: checkpoints come on top.  null: solver.steps.  Default null.
    hours: Annotated[float, Range(above=0, most=100_000)] | None = None
    #: Newest checkpoints to keep besides the best, > 0; two, so that one may be lost.  Default 2.
    keep: Count = 2
    #: Write checkpoints while training goes on, which waits only until the state is copied into host memory
    #: (as much as a checkpoint takes); those after an evaluation are waited for.  Default true.
    save_in_background: bool = True
    #: Also write TensorBoard files.  Default true.
    tensorboard: bool = True
    #: Where figures and pictures go besides, as [{type: csv}, {type: wandb, project: cells}]: csv, wandb,
    #: mlflow, tensorboard (docs/training.md), each once; one that fails is left out and the run goes on.
    #: Default none.
    trackers: tuple[Annotated[TrackerConfig, TRACKERS], ...] = ()
    #: Evaluation images drawn with true and predicted masks at each evaluation, 0 to 10000.
    #: Default 4.
    pictures: Annotated[int, Range(0, 10_000, "each is drawn and written at each evaluation")] = 4
    #: Further pictures of the same images for trackers, at each evaluation: proposals (the first 100 that a
    #: training step would have), rois (those that it would sample), with the true boxes.  Default none.
    pictures_of: tuple[Literal["proposals", "rois"], ...] = ()
    #: What becomes of a step whose losses or gradient are not finite: stop, before its update; or skip: leave
    #: its update out and go on.  What it was made of is kept for `maskrcnn debug-batch`.  Default stop.
    on_nonfinite: Literal["stop", "skip"] = "stop"
    #: With skip: so many steps in a row are left out at most, one more stops the run, 1 to 10000.
    #: Default 10.
    max_skipped: Annotated[int, Range(1, 10_000, "a run of so many such steps learns nothing")] = 10
    #: Train although frozen layers are random or frozen normalisation does nothing, for want of weights; such
    #: a model hardly learns, so it is refused unless this is true.  Default false.
    allow_frozen_random: bool = False
    #: Look before the first step for what is hardly meant in the data, and tell it: quick, by the annotations
    #: and a few images; full, as `maskrcnn doctor` does, by opening every image (on rank 0, while the others
    #: wait); none.  Default quick.
    check_data: Literal["none", "quick", "full"] = "quick"

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds = [TRACKERS.name_of(type(tracker)) for tracker in self.trackers]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        if twice:
            raise ValueError(f"trackers has {few(twice)} more than once; keep one of each")


@dataclass(frozen=True, kw_only=True)
class CleanConfig(Config):
    """What is mended of pasted masks."""

    #: Of a mask that falls into several parts: largest, that alone is kept; all, those of ``smallest_part``.
    #: Default largest.
    parts: Literal["all", "largest"] = "largest"
    #: Of all, parts of fewer pixels of the image are dropped, but never the largest, 0 to 10^9.  Default 0:
    #: none.
    smallest_part: Pixels = 0
    #: Holes of so many pixels of the image or fewer are filled, 0 to 10^9.  Default 0: none.
    largest_hole: Pixels = 0


@dataclass(frozen=True, kw_only=True)
class TTAConfig(Config):
    """Views of an image besides the image itself, each scale with each flip."""

    #: h, left and right exchanged; v, top and bottom; hv, both.  Default [h].
    flips: tuple[Literal["h", "v", "hv"], ...] = ("h",)
    #: Factors of the size at which the network sees images, 0.1 to 10.  Default [0.8, 1.0, 1.25].
    scales: tuple[Annotated[float, Range(0.1, 10, "an image so enlarged fills the memory")], ...] = (
        0.8,
        1.0,
        1.25,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales:
            raise ValueError("scales must name at least one; 1.0 is the image as it is")


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Config):
    """How a model is judged."""

    #: Images a forward pass and rank, 1 to 4096.  Default 1 (so that padding never touches a result).
    batch_size: Annotated[int, Range(1, 4096, "the images of a pass must fit into memory")] = 1
    #: What is compared: boxes, masks, keypoints.  Default all; what the model does not predict is left out.
    iou_types: tuple[IouType, ...] = ("bbox", "segm", "keypoints")
    #: Metric whose highest value marks best.pt, or a loss (val/loss, val/loss_mask ...: see ``losses``),
    #: whose lowest does; of the average of the weights with ema/ before it.  null: the first there is of
    #: segm/AP, keypoints/AP, bbox/AP.
    best_metric: str | None = None
    #: Images of data.val whose losses each evaluation of a training computes, always the same with the same
    #: samples of anchors and RoIs, 0 to 10^6 (more than there are: all); they are logged as val/loss,
    #: val/loss_mask and so on.  Default 0: none.
    losses: Annotated[int, Range(0, 1_000_000, "each is a forward pass at each evaluation")] = 0
    #: Which weights of a checkpoint eval, predict, proposals and convert take: true its average (solver.ema),
    #: false those of its step; null: the average where best_metric begins with ema/, else those of its step.
    ema: bool | None = None
    #: How masks are pasted into the image: aligned to pixel centres (as Detectron2), as torchvision does, or
    #: smooth: logits blended by cubic splines, whose borders have no steps in large objects.
    paste: Literal["aligned", "torchvision", "smooth"] = "aligned"
    #: Mend pasted masks, as {parts: largest, largest_hole: 20}; null: they are as the model has them.
    #: Default null.
    clean: CleanConfig | None = None
    #: Test-time augmentation, as {flips: [h, v], scales: [0.8, 1.0, 1.25]}: an image is seen scaled and
    #: mirrored too, boxes and masks of all views are merged; so many times slower.  null: none (default).
    tta: TTAConfig | None = None
    #: Spread of the annotations of each keypoint, relative to the object's size, > 0 (cocodataset.org,
    #: keypoints-eval); null: COCO's 17.  Default null.
    sigmas: tuple[Positive, ...] | None = None
    #: Taken off keypoints' x and y in results, pixels: COCO's are indices of pixels, whose centres are at
    #: + 0.5 (Detectron2: 0.5, torchvision: 0).  Default 0.5; see keypoint_offset of the data set.
    keypoint_offset: Annotated[float, any_number("a convention of the file, of any size")] = 0.5
    #: What computes the figures; auto: hotcoco where installed, else pycocotools (the same figures to the
    #: bit); faster: faster-coco-eval (equal but for a rounding).
    backend: Literal["auto", "hotcoco", "pycocotools", "faster"] = "auto"
    #: As solver.precision, for evaluation.  Default float32.
    precision: Precision = "float32"
    #: On a GPU, record the work for images of a size that comes again, and replay it: the same numbers, three
    #: times as fast for one image.  Default true.
    cuda_graphs: bool = True
    #: At the end of a training that evaluates, write report.html into its folder: figures, errors and
    #: pictures of the best checkpoint (as `maskrcnn report RUN` does), and its scores of the best F1 beside
    #: best.pt.  Default true.
    report: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.iou_types:
            raise ValueError("iou_types must name at least one of bbox, segm and keypoints")

    @property
    def takes_average(self) -> bool:
        """See ``ema``."""
        return (self.best_metric or "").startswith("ema/") if self.ema is None else self.ema


@dataclass(frozen=True, kw_only=True)
class Expectation(Config):
    """A published figure that this recipe should reach."""

    #: Which metric, as ``segm/AP``.
    metric: str
    #: Its value, in [0, 1].
    value: Share
    #: Who reports it, and where.
    source: str = ""
    #: How far a run may lie below, in [0, 1].  Default 0.005.
    tolerance: Share = 0.005


@dataclass(frozen=True, kw_only=True)
class Recipe(Config):
    """All that decides a training run."""

    #: Python modules to import first; they register parts of one's own.
    plugins: tuple[str, ...] = ()
    #: Decides initial weights, order of images, augmentation and sampling; 0 to 2^63 - 1.  Default 0.
    seed: Annotated[int, Range(0, 2**63 - 1, "seeds are numbers of 63 bits")] = 0
    #: Run folder; null: runs/<name of the config file>.  Default null.
    output: Path | None = None
    #: auto (a GPU where there is one), cpu or cuda.  Default auto.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    #: What to start from (not to resume: that is --resume): published weights by name, as
    #: torchvision/mask_rcnn_r50_fpn_v2 (`maskrcnn weights list`), a checkpoint or state dict, or a run's
    #: folder.  Rows of other classes are taken over by the classes' names.  Default null.
    weights: Path | None = None
    #: Start the output layers of classes, boxes and masks afresh, whatever ``weights`` knows of the classes.
    #: Default false: by the classes' names; of a file that does not name them, all must fit.
    drop_head: bool = False
    #: The network.
    model: MaskRCNNConfig = field(default_factory=MaskRCNNConfig)
    #: The data.
    data: DataConfig
    #: The optimisation.
    solver: SolverConfig = field(default_factory=SolverConfig)
    #: Logs, checkpoints, evaluations.
    train: TrainConfig = field(default_factory=TrainConfig)
    #: Evaluation.
    eval: EvalConfig = field(default_factory=EvalConfig)
    #: Published figures, shown beside the run's own.
    expect: tuple[Expectation, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train.patience is not None and (self.data.val is None or self.train.eval_every is None):
            lack = "data.val" if self.data.val is None else "train.eval_every"
            raise ValueError(
                f"train.patience counts evaluations, and {lack} is null, so there are none before the end;"
                f" set {lack}, or train.patience to null"
            )
        if self.train.hours is not None and self.solver.steps <= 60:
            raise ValueError(
                f"train.hours stretches the schedule of solver.steps, which is {self.solver.steps}, after the"
                " first 60 steps; set solver.steps above 60, to what the schedule is written for"
            )
        divisor = self.model.preprocess.size_divisor
        for sides in self.data.pad_sizes:
            if any(side % divisor for side in sides):
                height, width = (-(-side // divisor) * divisor for side in sides)
                raise ValueError(
                    f"data.pad_sizes has {list(sides)}, which must be multiples of {divisor}"
                    f" (model.preprocess.size_divisor); take [{height}, {width}]"
                )
        for key, data in (("data.train", self.data.train), ("data.val", self.data.val)):
            if not hasattr(data, "proposals"):  # no data, or data of one's own that bring them as they like
                continue
            proposals = getattr(data, "proposals", None)
            if self.model.rpn is None and proposals is None:
                raise ValueError(
                    f"{key}.proposals is not set, but the model has no RPN (model.rpn: null): name a file of"
                    " proposals (maskrcnn proposals writes one from a trained RPN)"
                )
            if self.model.rpn is not None and proposals is not None:
                raise ValueError(
                    f"{key}.proposals is set, but the model makes its own: drop it, or set model.rpn: null"
                )


#: Keys that do not change what a run computes: two runs that differ in these alone are the same run.
NEUTRAL_KEYS = (
    "output",
    "expect",
    "data.workers",
    "data.cache",
    "data.train.allow_outside",  # which file a name stands for is the same with and without
    "data.val.allow_outside",
    "train.log_every",
    "train.keep",
    "train.save_in_background",
    "train.tensorboard",
    "train.trackers",
    "train.pictures",
    "train.pictures_of",
    "train.allow_frozen_random",
    "train.check_data",
    "solver.checkpoint_activations",
    "eval.losses",
    "eval.ema",
    "eval.cuda_graphs",
    "eval.report",
)


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe; ``overrides`` are ``key.path=value``.

    Raises:
        ConfigError: anything is wrong, by file:line:column.
    """
    return load_traced_recipe(path, overrides).value


def load_traced_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Loaded[Recipe]:
    """:func:`load_recipe`, remembering where each value was set.

    Raises:
        ConfigError: as there; also where an evaluation transform cannot be undone.  (A recipe kept as text is
            not refused for that, so that a run can be resumed with other ones.)
    """
    loaded = load_traced(Recipe, path, overrides)
    for index, what in not_undoable(loaded.value.data.eval_transforms):
        key = f"data.eval_transforms.{index}"
        raise ConfigError(f"{loaded.origin(key)}: {key}: {what}")
    return loaded


def parse_recipe(text: str, name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from the text that a checkpoint or a run folder keeps; see :func:`load_recipe`."""
    recipe = loads(Recipe, text, name, overrides)
    backbone: Any = recipe.model.backbone
    if (
        BACKBONES.name_of(type(backbone)) == "resnet"
        and backbone.depth < 50
        and backbone.stride_in_1x1
        and not any("stride_in_1x1" in item for item in overrides)
    ):  # once taken, without effect; now refused (see there), but not in what was written before
        model = replace(recipe.model, backbone=replace(backbone, stride_in_1x1=False))
        recipe = replace(recipe, model=model)
    return recipe


def check_same_categories(train: Categories, other: Categories, where: str) -> None:
    """Evaluation can only judge a model on the categories it was trained for.

    Raises:
        DataError: ids or names differ; names the differences.
    """
    mine = dict(zip(train.ids, train.names, strict=True))
    theirs = dict(zip(other.ids, other.names, strict=True))
    if mine == theirs and train.ids == other.ids:
        return
    parts = []
    for title, a, b in (("missing there", mine, theirs), ("only there", theirs, mine)):
        found = [f"{i} ({name})" for i, name in a.items() if i not in b]
        if found:
            parts.append(f"{title}: {few(found)}")
    renamed = [
        f"{i} is {mine[i]!r}, there {theirs[i]!r}" for i in mine if i in theirs and mine[i] != theirs[i]
    ]
    parts += [few(renamed, separator="; ")] if renamed else []
    raise DataError(
        f"{where}: its categories differ from the training set's ({'; '.join(parts) or 'another order'});"
        " both files need the same 'categories', ids and names"
    )
