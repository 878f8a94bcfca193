"""Tests mirror the tree: ``maskrcnn/data/loader.py`` is tested by ``tests/data/test_loader.py``, or by a test
that is listed here and that reaches it.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.rules.pages import ROOT
from tests.rules.test_imports import MODULES, PACKAGE, imported, module_name

#: Tests that cover modules which have no test file of their name.
COVERS = {
    "cli/test_parser.py": "cli.foreign",
    "cli/test_channels.py": "data.pixel_statistics",
    "cli/test_train.py": "cli.demo",
    "cli/test_convert.py": "run.convert run.converted_recipe",
    "cli/test_eval.py": "run.evaluation",
    "cli/test_proposals.py": "run.proposals",
    "config/test_construct.py": "config.plugins config.registry config.schema",
    "config/test_encode.py": "config.load",
    "cli/test_weights.py": "run.weights",
    "config/test_merge.py": "config.reader",
    "config/test_text.py": "config.nodes",
    "convert/test_detectors.py": "convert.detector convert.detectron2 convert.foreign_anchors"
    " convert.maskrcnn_benchmark convert.mmdetection convert.recognise convert.source convert.torchvision",
    "data/doctor/test_file_doubts.py": "data.doctor.overhear data.doctor.page_count data.doctor.split_doubts",
    "data/doctor/test_image_doubts.py": "data.doctor.copy_doubts data.doctor.look",
    "data/formats/test_coco.py": "data.annotation_reader data.formats.checks data.formats.coco_json"
    " data.index structures.categories",
    "data/formats/test_exchange.py": "cli.export_data data.formats.data_folder data.formats.exported",
    "data/formats/test_mask_files.py": "data.formats.label_images",
    "data/synthetic/test_dataset.py": "cli.data data.synthetic.canvas data.synthetic.scenes"
    " data.synthetic.shapes",
    "data/test_keypoints.py": "structures.keypoints",
    "data/transforms/test_basic.py": "data.transforms.moving data.transforms.resizing",
    "data/transforms/test_pipelines.py": "data.transforms.albumentations_pipeline"
    " data.transforms.torchvision_pipeline",
    "data/transforms/test_undoing.py": "data.interfaces",
    "engine/test_trackers.py": "engine.board engine.csv_files engine.mlflow_run engine.wandb_run",
    "engine/test_checkpoint.py": "engine.checkpoint_folder",
    "engine/test_heartbeat.py": "engine.lookout",
    "engine/test_step.py": "engine.judging engine.passes",
    "engine/test_trainer.py": "engine.faults",
    "evaluation/report/test_make.py": "evaluation.report.figures",
    "evaluation/test_coco.py": "evaluation.detections evaluation.eval_result structures.ground_truth",
    "evaluation/test_oks.py": "viz.skeletons",
    "inference/test_tile_merger.py": "inference.tile_parts",
    "layers/test_contract.py": "layers.arguments layers.autograd layers.onnx",
    "layers/test_twins.py": "layers.ops layers.reference",
    "modeling/backbones/test_resnet.py": "modeling.backbones.blocks",
    "modeling/test_cascade.py": "modeling.roi.roi_heads modeling.roi.stages",
    "modeling/test_heads_contract.py": "modeling.interfaces modeling.roi.mask_head",
    "modeling/test_heads_losses.py": "modeling.losses modeling.rpn.rpn",
    "modeling/test_heads_sampling.py": "modeling.matching modeling.roi.targets",
    "modeling/test_heads_shapes.py": "modeling.roi.box_head modeling.roi.mask_mlp modeling.roi.pooler",
    "modeling/test_mask_rcnn.py": "modeling.rpn.anchors",
    "modeling/test_parts.py": "modeling.box_coder",
    "modeling/test_proposals_and_detections.py": "modeling.roi.decode modeling.rpn.decode",
    "run/export/test_dense.py": "run.export.int8",
    "run/export/test_exporting.py": "cli.export run.export.needed run.export.onnx_file"
    " run.export.openvino_file run.export.running run.export.torch_file",
    "run/benchmark/test_measuring.py": "cli.benchmark run.benchmark.evaluating run.benchmark.peak",
    "run/test_debug_batch.py": "cli.debug_batch run.kept_batch",
    "run/test_status.py": "cli.status",
    "run/test_browse.py": "cli.browse run.image_findings viz.contact_sheet",
    "run/test_doctor.py": "cli.doctor",
    "run/test_examine.py": "run.finding_pictures",
    "run/test_import_data.py": "cli.import_data data.formats.sources run.export_data",
    "run/test_convert_config.py": "convert.configs.detectron2_keys convert.configs.detectron2_training"
    " convert.configs.foreign_keys convert.configs.mmdetection_heads convert.configs.mmdetection_keys"
    " convert.configs.mmdetection_defaults convert.configs.mmdetection_training",
    "run/test_package.py": "cli.package run.package_card viz.model_card",
    "run/test_predict.py": "run.prediction_files",
    "run/test_prediction.py": "run.prediction_table",
    "run/test_preflight.py": "run.data_checks run.evaluation_checks run.folder run.image_checks"
    " run.machine_checks",
    "run/new/test_make.py": "cli.new run.new.choice run.new.choices run.new.facts",
    "run/report/test_origins.py": "cli.report run.report.best run.report.evaluated run.report.page",
    "run/report/test_runs.py": "run.report.choice_of_images run.report.two_runs",
    "run/test_strip.py": "cli.strip",
    "run/test_tiled_prediction.py": "run.tiling",
    "run/test_split.py": "cli.split viz.shares",
    "run/test_zoo.py": "cli.zoo run.flops",
    "studies/ablation/test_ablate.py": "cli.ablate",
    "studies/ablation/test_processes.py": "studies.ablation.plan studies.ablation.progress",
    "studies/ablation/test_report.py": "studies.ablation.pictures"
    " studies.ablation.results studies.ablation.tabulate",
    "studies/ablation/test_suites.py": "studies.ablation.suite",
    "studies/explain/test_pictures.py": "cli.explain_roi studies.explain.view viz.example viz.figure"
    " viz.roi_picture viz.roi_view",
    "studies/explain/test_placement.py": "studies.explain.region",
    "studies/explain/test_statistics.py": "data.transforms.network_size studies.explain.measured"
    " studies.explain.scaled_boxes studies.explain.written_ops",
    "studies/test_cross_validation.py": "cli.cross_validate",
    "test_resume.py": "run.evaluations run.train run.training",
    "viz/test_report_page.py": "viz.report_errors viz.report_figures viz.report_parts",
    "viz/test_instances.py": "viz.labels viz.palette viz.panels",
    "weights/test_fetch.py": "weights.download",
    "weights/test_unpickle.py": "weights.state_dict",
}
LISTED = [(test, f"maskrcnn.{name}") for test, names in COVERS.items() for name in names.split()]
PATHS = {module_name(path): path for path in MODULES}


def has_logic(path: Path) -> bool:
    """Whether any function does something; slots (protocols, base classes) and constants do not."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            said = [ast.unparse(statement) for statement in node.body]
            if any(not text.startswith(("'", '"', "...", "raise NotImplementedError")) for text in said):
                return True
    return False


def mirror(path: Path) -> Path:
    """Where the test of a module would stand by its name."""
    below = path.relative_to(PACKAGE)
    return ROOT / "tests" / below.parent / f"test_{below.name}"


@cache
def faces() -> dict[str, str]:
    """Of what a package's ``__init__`` hands on, at once or ``on_demand``, the module that it comes from."""
    found = {}
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree) if path.name == "__init__.py" else ():
            if isinstance(node, ast.ImportFrom):
                names = {alias.asname or alias.name: str(node.module) for alias in node.names}
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "on_demand":
                below = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
                names = {name: f"{module_name(path)}.{module}" for name, module in below.items()}
            else:
                continue
            found |= {f"{module_name(path)}.{name}": module for name, module in names.items()}
    return found


def reaches(test: Path, module: str) -> bool:
    """Whether a test imports a module, or one that imports it; names it or its file; or runs its command."""
    text = test.read_text(encoding="utf-8")
    if module in text or f"{module.replace('.', '/')}.py" in text:
        return True
    if module.startswith("maskrcnn.cli.") and f'"{module.rpartition(".")[2].replace("_", "-")}"' in text:
        return True
    direct = imported(test)
    direct |= {
        module for name, module in faces().items() if name in direct or name.rpartition(".")[0] in direct
    }
    return module in direct or any(module in imported(PATHS[name]) for name in direct if name in PATHS)


def test_every_module_with_logic_has_a_test() -> None:
    listed = [module for _, module in LISTED]
    assert sorted(set(listed)) == sorted(listed), "listed twice"
    modules = {name: path for name, path in PATHS.items() if path.name != "__init__.py"}
    bare = {name for name, path in modules.items() if has_logic(path) and not mirror(path).exists()}
    assert bare - set(listed) == set(), "write its test, or list the one that covers it"
    assert set(listed) - bare == set(), "gone, without logic, or with a test of its own: not for this list"


@pytest.mark.parametrize(("test", "module"), LISTED, ids=[module for _, module in LISTED])
def test_the_listed_test_reaches_its_module(test: str, module: str) -> None:
    assert reaches(ROOT / "tests" / test, module)


def test_the_rule_sees_a_test_that_does_not_reach() -> None:
    assert not reaches(ROOT / "tests" / "structures" / "test_boxes.py", "maskrcnn.run.train")
    assert reaches(ROOT / "tests" / "structures" / "test_boxes.py", "maskrcnn.structures.boxes")
