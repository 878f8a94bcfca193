"""A whole step on a GPU, engine and model in fixed shapes: nothing is waited for, and little is copied."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import maskrcnn
from maskrcnn.engine.outcomes import Wishes
from maskrcnn.engine.step import Step
from maskrcnn.engine.strategy import choose_strategy
from maskrcnn.layers import ops
from maskrcnn.modeling import MaskRCNN
from maskrcnn.structures import Batch, ImageInfo, Sample, collate
from tests.engine.line import ALONE
from tests.modeling import tiny
from tests.modeling.test_static_form import MODELS, SIZES, Waiting, build, truth

PACKAGE = Path(maskrcnn.__file__).parent


def batches(name: str = "fpn") -> Iterator[Batch]:
    drawn = build(name).roi.heads["mask_head"].mask_target == "polygon"
    for seed in itertools.count():
        infos = [ImageInfo(i, "", *size) for i, size in enumerate(SIZES)]
        parts = zip(tiny.images(seed, SIZES), infos, truth(name, (5, 9), seed), strict=True)
        yield collate([Sample(*part) for part in parts], [seed, seed + 1000], drawn_masks=bool(drawn))


def make(deferred: bool, **options: Any) -> Step:
    torch.manual_seed(0)
    model = build("fpn").float().train()
    model.static_shapes = True
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, fused=True)
    options |= {"rate": lambda step: 0.01 / (1 + step), "seed": 0, "precision": "float32"}
    return Step(choose_strategy(ALONE, model), optimizer, **options, deferred=deferred)


def test_a_deferred_step_of_a_model_in_fixed_shapes_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"accumulate": 2, "clip_grad_norm": 0.1}
    later, once = make(True, **options), make(False, **options)
    given = [*itertools.islice(batches(), 4)]
    source = iter(given)
    with Waiting() as waiting, monkeypatch.context() as patch:
        for name in ("tolist", "numpy", "cpu"):  # which no operator is seen of
            patch.setattr(Tensor, name, lambda self, name=name: waiting.found.append(name))
        for number in range(2):
            later.queue(number, source, Wishes)
    assert waiting.found == []
    results, source = later.read(), iter(given)
    expected = [once.take(number, source, Wishes) for number in range(2)]
    assert [(r.losses, r.grad_norm) for r in results] == [(r.losses, r.grad_norm) for r in expected]
    wanted = once.strategy.model.state_dict()
    assert all(value.equal(wanted[name]) for name, value in later.strategy.model.state_dict().items())


class Copies(TorchDispatchMode):
    """Lists the files and functions in which a tensor goes from one kind of device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[str, str]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
        if "copy" in str(func) and len({t.device.type for t in tensors}) > 1:
            frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(PACKAGE)]
            self.found.add((Path(frames[-1].filename).name, frames[-1].name))
        return out


def on_gpu(model: MaskRCNN) -> MaskRCNN:
    """The model with parameters and buffers that are on a GPU, as far as a fake can be; within its mode."""

    def moved(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")

    for module in model.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = (
                parameter if parameter is None else torch.nn.Parameter(moved(parameter))
            )
        for name, buffer in module._buffers.items():
            module._buffers[name] = buffer if buffer is None else moved(buffer)
    if model.roi.class_weights is not None:
        model.roi.class_weights = moved(model.roi.class_weights)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_a_pass_on_a_gpu_copies_sizes_and_seeds_and_nothing_back(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fake tensors, and operators that would have their kernels there."""
    model, given = build(name).float(), next(batches(name))
    model.static_shapes = True
    ops.compiled_devices()
    monkeypatch.setattr(ops, "has_kernels", lambda device: True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model, batch = on_gpu(model), given.to("cuda")
        with Copies() as copies:
            model.train()(batch.images, batch.targets, batch.seeds)
        sizes, seeds = ("preprocess.py", "__post_init__"), ("seeds.py", "image_seeds")
        assert copies.found == {sizes, seeds}
        with Copies() as copies:
            model.eval().predict_batch(model.preprocess(batch.images))
        assert copies.found == {sizes}
