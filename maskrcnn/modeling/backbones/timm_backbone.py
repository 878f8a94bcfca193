"""Any model of the timm library that gives feature maps (optional: ``pip install maskrcnn[timm]``)."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from maskrcnn.config import Config
from maskrcnn.config.ranges import any_number
from maskrcnn.errors import CheckpointError, ConfigError, few
from maskrcnn.modeling.interfaces import BACKBONES, Backbone
from maskrcnn.weights.efficientnet_names import is_efficientnet, to_timm
from maskrcnn.weights.state_dict import mismatch, read_backbone

_ANY = any_number("arguments of timm's own")
TimmOption = bool | Annotated[int, _ANY] | Annotated[float, _ANY] | str
Options = Mapping[str, TimmOption]


class TimmBackbone(Backbone):
    """timm's ``features_only`` form of a model; a level is named by its stride, c<log2 stride>.

    Args:
        name and the rest: see :class:`TimmConfig`; no weights are downloaded.

    Raises:
        ConfigError: timm is not installed, does not know the model, or the model has no such level or part.
    """

    def __init__(
        self,
        name: str,
        *,
        outputs: tuple[str, ...] = ("c2", "c3", "c4", "c5"),
        freeze: tuple[str, ...] = (),
        frozen_bn: bool = True,
        options: Options | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.options: dict[str, Any] = dict(options or {})
        net = self._create(features_only=True)
        indices = {f"c{s.bit_length() - 1}": i for i, s in _levels(net) if s.bit_count() == 1}
        if not outputs or not set(outputs) <= set(indices):
            raise ConfigError(
                f"model.backbone.outputs is [{', '.join(outputs)}], but timm's {name} gives"
                f" [{', '.join(indices)}]; name levels from the latter"
            )
        wanted = [i for level, i in indices.items() if level in outputs]
        if wanted != [i for i, _ in _levels(net)]:
            net = self._create(features_only=True, out_indices=wanted)
        self.net = net
        self.channels = dict(
            zip((n for n in indices if n in outputs), net.feature_info.channels(), strict=True)
        )
        self.strides = {level: 2 ** int(level[1:]) for level in self.channels}
        self._frozen = [self._part(part) for part in freeze]
        if frozen_bn:
            self._frozen += [module for module in net.modules() if isinstance(module, _BatchNorm)]
        for module in self._frozen:
            module.requires_grad_(False)

    def _create(self, **arguments: Any) -> Any:
        """timm's model; a plain classifier without ``features_only``."""
        try:
            import timm  # optional, and slow to import
        except ImportError:
            raise ConfigError("model.backbone.type timm needs the timm library: pip install timm") from None
        if not timm.is_model(self.name):
            near = difflib.get_close_matches(self.name, timm.list_models(), n=3)
            hint = f" Did you mean {', '.join(near)}?" if near else ""
            raise ConfigError(
                f"model.backbone.name {self.name!r} is no model of timm {timm.__version__}.{hint}"
            )
        try:
            return timm.create_model(self.name, pretrained=False, **arguments, **self.options)
        except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"timm cannot build {self.name} as a backbone ({type(error).__name__}: {error});"
                " change model.backbone.options, or choose another model.backbone.name"
            ) from error

    def _part(self, name: str) -> nn.Module:
        try:
            part: nn.Module = self.net.get_submodule(name)
        except AttributeError:
            names = few((n for n, _ in self.net.named_children()), 20)
            raise ConfigError(
                f"model.backbone.freeze names {name!r}, but {self.name} has [{names}]"
            ) from None
        return part

    def train(self, mode: bool = True) -> TimmBackbone:
        """As ``nn.Module.train``, but frozen parts keep their statistics too."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[N, 3, H, W] -> the levels in ``outputs``."""
        with _whole_numbers() if torch.compiler.is_exporting() else nullcontext():
            features = self.net(x)
        if getattr(self.net, "output_fmt", "NCHW") == "NHWC":
            features = [f.permute(0, 3, 1, 2) for f in features]
        return dict(zip(self.channels, features, strict=True))

    @property
    def pixels(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of R, G, B in 0..255 that timm states for this model's usual weights."""
        config = self._create().pretrained_cfg
        mean, std = (tuple(255 * value for value in config[key]) for key in ("mean", "std"))
        return mean, std

    def load_weights(self, path: Path) -> None:
        """Copy weights of this model's classifier, in timm's names or those of EfficientNet-PyTorch; layers
        above are left out.  Of a detector of ours, its backbone.

        Raises:
            CheckpointError: the file cannot be read, or is not of the same model.
        """
        source = read_backbone(path)
        if is_efficientnet(source):
            source = to_timm(source)
        if source and all(name.startswith("net.") for name in source):
            source = {name.removeprefix("net."): value for name, value in source.items()}
            if problem := mismatch(self.net.state_dict(), source):
                raise CheckpointError(f"{path}: its backbone is no {self.name}: {problem}")
            self.net.load_state_dict(source)
            return
        own = {_flat(name): name for name in self.net.state_dict()}
        # A classification layer of any size will do, but it must be there: a file of a deeper model, whose
        # first layers would fit, is refused.
        whole = {
            name: value if _flat(name) in own else source.get(name, value)
            for name, value in self._create().state_dict().items()
        }
        problem = mismatch(whole, source)
        if problem:
            raise CheckpointError(
                f"{path}: these weights do not fit timm's {self.name}: {problem}. Check model.backbone.name"
            )
        fitting = {own[_flat(name)]: value for name, value in source.items() if _flat(name) in own}
        self.net.load_state_dict(fitting, strict=False)


@contextmanager
def _whole_numbers() -> Iterator[None]:
    """Within it timm's "same" padding is computed by whole numbers.

    By fractions rounded up, as it stands there, open sizes become expressions that grow from layer to layer
    and take a tracer minutes.
    """
    from timm.layers import padding

    def same_padding(x: int, kernel_size: int, stride: int, dilation: int) -> int:
        steps = (x + stride - 1) // stride
        return max((steps - 1) * stride + (kernel_size - 1) * dilation + 1 - x, 0)

    before, padding.get_same_padding = padding.get_same_padding, same_padding
    try:
        yield
    finally:
        padding.get_same_padding = before


def _levels(net: Any) -> list[tuple[int, int]]:
    """(timm's index, stride) of every feature map that ``net`` gives."""
    return list(zip(net.feature_info.out_indices, net.feature_info.reduction(), strict=True))


def _flat(name: str) -> str:
    """A parameter's name, the same for a classifier and its ``features_only`` form (``stages_0`` there)."""
    return name.removeprefix("model.").replace(".", "_")


@BACKBONES.register("timm")
@dataclass(frozen=True, kw_only=True)
class TimmConfig(Config):
    """A model of the timm library; see :class:`TimmBackbone`."""

    #: timm's name, such as convnext_tiny; ``timm.list_models()`` lists them.
    name: str
    #: Weights: by name (timm/MODEL.TAG), or a file of the same model as timm publishes it
    #: (``model.safetensors``, ``pytorch_model.bin``) or in the names of EfficientNet-PyTorch.
    weights: Path | None = None
    #: Levels by stride: c2 = 4, c3 = 8, c4 = 16, c5 = 32; the last of several layers of a stride.
    outputs: tuple[str, ...] = ("c2", "c3", "c4", "c5")
    #: Submodules not to train, by timm's names, such as [conv1, bn1, layer1] in a ResNet.
    freeze: tuple[str, ...] = ()
    #: Fix batch normalisation, statistics and affine map, as frozen_bn does in our own backbones.
    frozen_bn: bool = True
    #: Further arguments of timm's create_model, such as {strict_img_size: false} for Swin Transformers and
    #: {dynamic_img_size: true} for ViTs, which else read one image size only.
    options: dict[str, TimmOption] = field(default_factory=dict, hash=False)

    def build(self) -> TimmBackbone:
        """
        Raises:
            ConfigError: timm is not installed, does not know the model, or it has no such level or part.
            CheckpointError: ``weights`` cannot be read or does not fit.
        """
        model = TimmBackbone(**self.arguments("weights"))
        if self.weights is not None:
            model.load_weights(self.weights)
        return model
