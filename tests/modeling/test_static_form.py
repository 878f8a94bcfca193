"""A model in the static form (fixed shapes, masks) gives what the dynamic form gives, without a wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from maskrcnn.config import loads
from maskrcnn.errors import ConfigError
from maskrcnn.modeling import MaskRCNN, MaskRCNNConfig
from maskrcnn.modeling.backbones.resnet import ResNetConfig
from maskrcnn.modeling.mask_rcnn import without_weights
from maskrcnn.modeling.preprocess import ImageBatch
from maskrcnn.modeling.roi.box_head import ConvFCBoxHeadConfig, LinearBoxHeadConfig
from maskrcnn.modeling.roi.keypoint_head import ConvKeypointHeadConfig
from maskrcnn.modeling.roi.mask_head import FCNMaskHeadConfig
from maskrcnn.modeling.roi.stages import CascadeConfig
from maskrcnn.modeling.roi.trunk import Res5TrunkConfig
from maskrcnn.modeling.rpn.anchors import AnchorConfig
from maskrcnn.structures import Targets
from maskrcnn.structures.padded import PaddedTargets, pad_targets
from tests.modeling import tiny
from tests.modeling.test_further_heads import SizeHead, SizeHeadConfig
from tests.rules.test_configs import NAMES, VARIANTS, example, recipe, small

#: Room for 48 positive RoIs of an image, and for 30 detections.
ROI = replace(tiny.CONFIG.roi, samples=64, positive_fraction=0.75, max_detections=30)
RPN = replace(tiny.CONFIG.rpn, samples=96, post_nms_train=80, post_nms_test=80)  # type: ignore[type-var]
C4 = {
    "backbone": ResNetConfig(depth=18, width=8, norm="gn", freeze_at=0, outputs=("c4",)),
    "neck": None,
    "rpn": replace(RPN, levels=("c4",), anchors=AnchorConfig(sizes=((16.0, 32.0, 64.0),))),
    "roi": replace(ROI, levels=("c4",)),
    "roi_trunk": Res5TrunkConfig(),
    "box_head": LinearBoxHeadConfig(),
    "mask_head": FCNMaskHeadConfig(convs=0, width=16, pool_size=7),
}
MODELS: dict[str, dict[str, Any]] = {
    "fpn": {},
    "c4": C4,
    "c4 bn": C4 | {"backbone": replace(C4["backbone"], norm="bn")},  # type: ignore[type-var]
    "bn": {
        "box_head": ConvFCBoxHeadConfig(convs=2, width=8, hidden=16, norm="bn"),
        "mask_head": FCNMaskHeadConfig(convs=2, width=8, norm="sync_bn"),
    },
    "cascade": {
        "roi": replace(ROI, cascade=CascadeConfig()),
        "box_head": replace(tiny.CONFIG.box_head, class_agnostic=True),  # type: ignore[type-var]
    },
    "no duplicates": {"roi": replace(ROI, nms_threshold=0.8, nms_across_classes=True, mask_nms=0.6)},
    "keypoints": {"keypoint_head": ConvKeypointHeadConfig(num_keypoints=2, convs=1, width=8, pool_size=7)},
    "further": {
        "heads": {"size": SizeHeadConfig()},
        "roi": replace(ROI, box_loss="giou", background_iou=0.05, class_weights={"one": 3.0}),
        "rpn": replace(RPN, box_loss="giou", normalize_by="sampled", rank_by="probability", min_score=0.1),
        "mask_head": FCNMaskHeadConfig(convs=1, width=16, loss="softmax"),
        "mask_target": "bitmask",
    },
}
SIZES = ((96, 120), (70, 64))


def build(name: str) -> MaskRCNN:
    """A float64 model whose every RoI is something with a score of its own."""
    model = tiny.build(**{"rpn": RPN, "roi": ROI} | MODELS[name])
    if name == "further":
        model.roi.class_weights = torch.tensor([1.0, 3.0, 1.0, 0.5])
    with torch.no_grad():
        for head, _ in model.roi.box_stages:
            for parameter in head.get_submodule("predictor.logits").parameters():
                parameter.normal_(std=0.5)
    return model.double()


def objects(count: int, size: tuple[int, int], draw: torch.Generator) -> list[list[float]]:
    """Boxes of random places and sizes inside an image."""
    height, width = size
    limit = torch.tensor([width, height])
    side = 6 + torch.rand(count, 2, generator=draw) * 30
    low = torch.rand(count, 2, generator=draw) * (limit - side)
    boxes: list[list[float]] = torch.cat((low, low + side), dim=1).tolist()
    return boxes


def truth(name: str, counts: tuple[int, int], seed: int) -> list[Targets]:
    """Ground truth of two images with so many objects."""
    draw = torch.Generator().manual_seed(seed)
    found = tiny.targets(*(objects(n, size, draw) for n, size in zip(counts, SIZES, strict=True)))
    if name != "keypoints":
        return found
    return [replace(t, keypoints=keypoints(t.boxes, draw)) for t in found]


def keypoints(boxes: Tensor, draw: torch.Generator) -> Tensor:
    """Two of each box, some of them outside it or not labelled."""
    place = boxes[:, None, :2] + torch.rand(len(boxes), 2, 2, generator=draw) * 25
    seen = torch.randint(0, 3, (len(boxes), 2, 1), generator=draw)
    return torch.cat((place, seen), dim=2)


def losses(model: MaskRCNN, targets: list[Targets], seed: int, static: bool) -> dict[str, Tensor]:
    """Losses of a form, and behind them the gradients and what norms have learnt, which they then forget."""
    model.static_shapes = static
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    found = model.losses(tiny.images(seed, SIZES), targets, tiny.seeds(seed))
    model.zero_grad()
    torch.stack(list(found.values())).sum().backward()
    gradients = {f"gradient of {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(model.parameters()))
    learnt = {}
    for name, buffer in model.named_buffers():
        if "running" in name or "tracked" in name:
            learnt[f"learnt {name}"] = buffer.clone()
        buffer.copy_(before[name])
    return {name: value.detach() for name, value in found.items()} | gradients | learnt


def compare(model: MaskRCNN, targets: list[Targets], seed: int) -> tuple[dict[str, float], list[int]]:
    """Assert that both forms give the same; the losses, and how many detections each image has."""
    dynamic, static = (losses(model.train(), targets, seed, form) for form in (False, True))
    assert dynamic.keys() == static.keys()
    for name, value in dynamic.items():
        most = max(value.abs().max().item(), 1e-3)
        assert (static[name] - value).abs().max().item() <= 1e-12 * most, name
    model.eval()
    found = []
    for form in (False, True):
        model.static_shapes = form
        found.append(model.predict(tiny.images(seed, SIZES)))
    for ours, theirs in zip(*found, strict=True):
        assert ours.boxes.equal(theirs.boxes) and ours.labels.equal(theirs.labels)
        assert ours.scores.equal(theirs.scores) and ours.extras.keys() == theirs.extras.keys()
        for a, b in [
            (ours.mask_probs, theirs.mask_probs),
            (ours.keypoints, theirs.keypoints),
            *((value, theirs.extras[key]) for key, value in ours.extras.items()),
        ]:
            if a is not None:
                torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    return {k: v.item() for k, v in dynamic.items() if k.startswith("loss")}, [len(d) for d in found[0]]


ODD = {
    "no object": (0, 0),
    "an image without one": (0, 25),
    "one object": (1, 0),
    "more objects than slots": (70, 60),
}


@pytest.mark.parametrize("counts", ODD.values(), ids=ODD)
@pytest.mark.parametrize("name", MODELS)
def test_both_forms_are_equal_where_batches_are_odd(name: str, counts: tuple[int, int]) -> None:
    compare(build(name), truth(name, counts, 3), 3)


@pytest.mark.parametrize("name", MODELS)
def test_both_forms_are_equal_with_many_objects(name: str) -> None:
    model, targets = build(name), truth(name, (30, 25), 0)
    found, detections = compare(model, targets, 0)
    assert all(value > 0 for value in found.values()) and min(detections) >= 20
    drawn = model.roi.sample([torch.zeros(0, 4)] * 2, targets, tiny.seeds())
    assert len(drawn.positive) == 55  # so that there are 20 masks and more to learn in each image


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_both_forms_are_equal_over_random_batches(name: str) -> None:
    """40 of each of the models, 320 in all, with 20 to 60 objects an image."""
    model = build(name)
    for seed in range(40):
        counts = torch.randint(20, 61, (2,), generator=torch.Generator().manual_seed(seed)).tolist()
        _, detections = compare(model, truth(name, tuple(counts), seed), seed)
        assert min(detections) >= 20


def test_room_for_rois_holds_the_positive_ones_first() -> None:
    model, targets = build("fpn"), truth("fpn", (70, 1), 0)
    proposals = [torch.zeros(0, 4), torch.tensor([[0.0, 0, 5, 5], [1, 1, 9, 9]])]
    rois = model.roi.sample(proposals, targets, tiny.seeds(), static=True)
    assert rois.real is not None and len(rois) == 2 * rois.room
    real, labels = rois.real.view(2, -1), rois.labels.view(2, -1)
    assert real.sum(1).tolist() == [48, 3] and rois.most_positive == 48
    assert real[0, :48].all() and (labels[0, :48] < tiny.CLASSES).all()
    assert labels[1, :3].tolist() == [0, tiny.CLASSES, tiny.CLASSES]
    assert (rois.boxes[~rois.real] == torch.tensor([0.0, 0, 1, 1])).all() and not rois.labels[
        ~rois.real
    ].any()
    positive = rois.positive
    assert len(positive) == 96 and positive.real is not None and int(positive.real.sum()) == 49
    assert positive.images.tolist() == [0] * 48 + [1] * 48
    values = torch.arange(float(len(positive)))
    assert positive.mean(values) == values[positive.real].mean() and positive.count == 49
    dynamic = model.roi.sample(proposals, targets, tiny.seeds())
    assert dynamic.real is None and dynamic.rois.equal(rois.rois[rois.real])
    assert dynamic.positive.truth.equal(positive.truth[positive.real])
    kept = dynamic.positive
    assert dynamic.pick(dynamic.boxes, kept).equal(kept.boxes)


def test_the_form_is_chosen_by_device_and_norm() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    model = tiny.build()
    assert not model.in_static_form(cpu) and model.in_static_form(gpu)
    head = ConvFCBoxHeadConfig(convs=1, width=8, hidden=16, norm="bn")
    model = tiny.build(box_head=head)
    assert model.train().in_static_form(gpu) and model.eval().in_static_form(gpu)
    model.roi.box_head.convs[0][1] = torch.nn.BatchNorm2d(8)  # of a head of one's own, which sees all rows
    assert not model.train().in_static_form(gpu) and model.eval().in_static_form(gpu)
    for text, wanted in (("true", True), ("false", False)):
        model = replace(tiny.CONFIG, **read(text)).build(2)
        assert [model.in_static_form(device) for device in (cpu, gpu)] == [wanted] * 2
    assert read("auto") == {"static_shapes": "auto"}
    with pytest.raises(ConfigError, match=r"static_shapes: .*auto"):
        read("sometimes")
    for norm in ("gn", "bn"):
        tiny.build(box_head=replace(head, norm=norm), static_shapes=True)  # type: ignore[arg-type]
    tiny.build(backbone=replace(tiny.CONFIG.backbone, norm="bn"), static_shapes=True)  # type: ignore[type-var]
    with pytest.raises(ConfigError, match=r"set model.static_shapes: auto, or make it by maskrcnn\.modeling"):
        tiny.build(heads={"own": OwnNormConfig()}, static_shapes=True)


class OwnNormConfig(SizeHeadConfig):
    """A further head with a batch normalisation that looks at all rows."""

    def build(self, channels: int, num_classes: int) -> SizeHead:
        head = super().build(channels, num_classes)
        head.add_module("norm", torch.nn.BatchNorm2d(channels))
        return head


def read(value: str) -> dict[str, Any]:
    return {"static_shapes": loads(MaskRCNNConfig, f"static_shapes: {value}", "f").static_shapes}


class Waiting(TorchDispatchMode):
    """Lists what reads values in order to know a shape or a number: on a GPU each waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        sized = torch.Tag.dynamic_output_shape in func.tags
        if func is torch.ops.aten.index.Tensor:  # by numbers its shape is known, by bool not
            sized = any(index is not None and index.dtype == torch.bool for index in args[1])
        if sized or torch.Tag.data_dependent_output in func.tags:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def architectures(names: Sequence[str]) -> list[str]:
    """A recipe of each distinct architecture among them: by the kinds of its parts and of their options."""
    found: dict[Any, str] = {}
    for name in names:
        model = recipe(name).model
        parts = (model.backbone, model.neck, model.roi_trunk, model.box_head, model.mask_head)
        kinds = [
            (type(part).__name__, *(getattr(part, k, None) for k in ("norm", "loss", "class_agnostic")))
            for part in (*parts, model.keypoint_head, model.roi_op)
        ]
        options = model.rpn is None, model.roi.cascade is None, model.mask_target, len(model.roi.levels)
        found.setdefault((*kinds, options), name)
    return list(found.values())


def inputs(config: MaskRCNNConfig) -> tuple[MaskRCNN, ImageBatch, PaddedTargets, list[Tensor] | None]:
    """The model at small widths, in the static form, and a batch of two for it."""
    model = small(without_weights(config)).build(2)
    model.static_shapes = True
    image, targets, proposals = example(config)
    batch = model.preprocess([image, image.flip(1)])
    padded = pad_targets([targets, targets], static=True)
    packing = padded.packed(drawn=config.mask_target == "polygon")
    return model, batch, replace(padded, packing=packing), None if proposals is None else proposals * 2


@pytest.mark.parametrize("name", architectures(NAMES))
def test_nothing_waits_for_the_device(name: str) -> None:
    """Each architecture: no operator whose result is a number or a shape that depends on values."""
    model, batch, targets, proposals = inputs(recipe(name).model)
    with Waiting() as waiting:
        found = model.losses_of_batch(batch, targets, tiny.seeds(), proposals)
        torch.stack(list(found.values())).sum().backward()
        model.eval().predict_batch(batch, proposals)
    assert waiting.found == []


def test_what_waits_is_seen() -> None:
    model, batch, targets, _ = inputs(tiny.CONFIG)
    model.static_shapes = False
    with Waiting() as waiting:
        model.losses_of_batch(batch, targets, tiny.seeds())
    assert {"aten.nonzero.default", "aten.index.Tensor"} <= {*waiting.found}
    model.static_shapes = True
    with Waiting() as waiting:
        detections = model.eval().predict_batch(batch)
        assert waiting.found == []
        assert len(detections[0].boxes) <= 10 and waiting.found  # only once they are read


def traced(name: str) -> tuple[Callable[[], GraphModule], Callable[[], GraphModule]]:
    """Losses with their gradients, and detections, as graphs traced under fake tensors."""
    model, batch, targets, proposals = inputs(tiny.CONFIG if name == "tiny" else recipe(name).model)
    weights = dict(model.named_parameters()) | dict(model.named_buffers())
    assert targets.packing is not None
    masks = dict(zip(MASKS, targets.packing.tensors, strict=True))
    truth = {k: getattr(targets, k) for k in ("boxes", "labels", "real", "keypoints")}

    image = batch.tensor, batch.extents

    def run(
        weights: dict[str, Tensor], images: Tensor, sizes: Tensor, call: Callable[[ImageBatch], Any]
    ) -> Any:
        batch_of = ImageBatch(images, batch.sizes, sizes)
        model.forward = lambda: call(batch_of)  # type: ignore[method-assign]
        try:
            return functional_call(model, weights, ())
        finally:
            del model.forward

    def training(weights: Any, image: Any, given: Any, truth: Any, masks: Any, seeds: Tensor) -> Any:
        packing = replace(targets.packing, **masks)  # type: ignore[type-var]
        wanted = replace(targets, **truth, packing=packing)
        found = run(weights, *image, lambda b: model.losses_of_batch(b, wanted, seeds, given))
        total = torch.stack(list(found.values())).sum()
        trained = [weights[n] for n, p in model.named_parameters() if p.requires_grad]
        return found, torch.autograd.grad(total, trained)

    def detecting(weights: Any, image: Any, given: Any) -> Any:
        found = run(weights, *image, lambda b: model.predict_batch(b, given))
        return found.rois.rois, found.rois.labels, found.rois.scores, found.rois.real, dict(found.values)

    def train() -> GraphModule:
        model.train()
        trace = make_fx(training, tracing_mode="fake")
        return trace(weights, image, proposals, truth, masks, tiny.seeds())

    def predict() -> GraphModule:
        model.eval()
        return make_fx(detecting, tracing_mode="fake")(weights, image, proposals)

    return train, predict


MASKS = ("points", "polygon_ends", "changes", "column_ends", "instances", "placing")


def check_trace(name: str) -> None:
    train, predict = traced(name)
    for trace in (train, predict):
        targets = {str(node.target) for node in trace().graph.nodes if node.op == "call_function"}
        assert "maskrcnn.nms.default" in targets or "fast_rcnn" in name
        assert not [t for t in targets if any(word in t for word in ("nonzero", "_local_scalar", "unique"))]


@pytest.mark.parametrize("name", ["tiny"])
def test_losses_and_predictions_trace_whole(name: str) -> None:
    check_trace(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures([*NAMES, *VARIANTS]))
def test_each_architecture_traces_whole(name: str) -> None:
    check_trace(name)


def compile_both(name: str, backend: str, tolerance: float) -> None:
    """One graph of the losses and one of the detections, and both are what they are without it."""
    torch._dynamo.reset()
    model = build(name)
    model.static_shapes = True
    targets = pad_targets(truth(name, (12, 9), 0), static=True)
    drawn = MODELS[name].get("mask_target", "polygon") == "polygon"
    targets = replace(targets, packing=targets.packed(drawn=drawn))
    batch = model.preprocess(tiny.images(0, SIZES))
    gradients = []
    losses_of = torch.compile(model.losses_of_batch, fullgraph=True, backend=backend)
    for call in (model.losses_of_batch, losses_of):
        model.zero_grad()
        found = call(batch, targets, tiny.seeds())
        torch.stack(list(found.values())).sum().backward()
        values = {n: v.detach() for n, v in found.items()}
        gradients.append(values | {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, value in gradients[0].items():
        assert (gradients[1][key] - value).abs().max() <= tolerance * max(value.abs().max().item(), 1e-3), key
    model.eval()
    predict = torch.compile(model.predict_batch, fullgraph=True, backend=backend)
    for ours, theirs in zip(predict(batch), model.predict_batch(batch), strict=True):
        assert len(ours) >= 20
        torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=0, atol=1e-6)
        assert ours.labels.equal(theirs.labels)


def test_losses_and_predictions_compile_as_one_graph() -> None:
    compile_both("fpn", "aot_eager", 1e-12)


def test_norms_of_a_compiled_head_see_the_real_rows_of_each_batch() -> None:
    """The mask of one batch is no constant of what was compiled; compiled once to train, and no more."""
    torch._dynamo.reset()
    model, plain = build("bn").train(), build("bn").train()
    plain.load_state_dict(model.state_dict())
    compiled = CompileCounterWithBackend("aot_eager")
    model.roi.box_head.compile(backend=compiled)
    for seed, counts in enumerate(((25, 30), (3, 0), (40, 12))):
        ours, theirs = (losses(m, truth("bn", counts, seed), seed, static=True) for m in (model, plain))
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-10, atol=1e-12)
    assert compiled.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["c4", "bn", "cascade", "keypoints"])
def test_others_compile_as_one_graph(name: str) -> None:
    compile_both(name, "aot_eager", 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fpn", "c4"])
def test_two_compile_by_inductor(name: str) -> None:
    compile_both(name, "inductor", 1e-9)


class Predicting(torch.nn.Module):
    """Images [N, 3, H, W], sizes [N, 2] -> RoIs [N * D, 5], labels, scores, which are real, masks."""

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        found = self.model.predict_batch(ImageBatch(images, (), sizes))
        rois = found.rois
        assert rois.real is not None
        return rois.rois, rois.labels, rois.scores, rois.real, found.values["mask_head"]


@pytest.mark.slow
def test_prediction_is_exported_for_any_batch_and_size() -> None:
    model = build("fpn").float().eval()
    model.static_shapes = True
    batch, auto = model.preprocess(tiny.images(0, SIZES)), torch.export.Dim.AUTO
    shapes = {0: auto, 2: auto, 3: auto}, {0: auto}
    whole = torch.export.export(
        Predicting(model), (batch.tensor, batch.extents), dynamic_shapes=shapes, strict=False
    ).module()
    for sizes in (SIZES, ((160, 190), (100, 64), (64, 64)), ((224, 256),)):
        other = model.preprocess(tiny.images(1, sizes))
        with torch.backends.mkldnn.flags(enabled=False):  # a traced model has no fused layers
            wanted = model.predict_batch(other)
            rois, labels, scores, real, masks = whole(other.tensor, other.extents)
        assert rois.equal(wanted.rois.rois) and labels.equal(wanted.rois.labels)
        assert scores.equal(wanted.rois.scores) and real.equal(wanted.rois.real)
        # The deconvolution is a product of its own there (FCNMaskHead._cells).
        torch.testing.assert_close(masks, wanted.values["mask_head"], rtol=0, atol=1e-6)
        assert int(real.sum()) >= 20 * len(sizes)
