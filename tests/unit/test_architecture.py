"""The design, enforced: who may import whom, and where each giant lives."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fla

ROOT = Path(__file__).parents[2]
MAX_LINES = 400

# The only modules of fla that may import a giant.
ROOMS = {
    "av": {
        "fla.data.decode.container",
        "fla.data.decode.convert",
        "fla.data.decode.encode",
        "fla.data.decode.images",
        "fla.data.decode.playable",
        "fla.data.decode.preview",
        "fla.data.decode.shown",
        "fla.data.decode.video",
    },
    "deepspeed": {"fla.deepspeed_setup"},
    "fastapi": {"fla.page"},
    "gradio": {"fla.page"},
    "jinja2": {"fla.compare.report", "fla.page"},
    "mlflow": {"fla.mlflow_opening", "fla.mlflow_reader", "fla.mlflow_run"},
    "nvidia": {"fla.data.pipeline"},
    "omegaconf": {"fla.config.load", "fla.config.schema"},
    "pympi": {"fla.translating.elan"},
    "pysubs2": {"fla.translating.subtitles"},
    "rouge_score": {"fla.metrics.counting"},
    "sacrebleu": {"fla.metrics.bleurt", "fla.metrics.counting", "fla.metrics.significance"},
    "starlette": {"fla.page"},
    "torchvision": {"fla.models.backbone"},
    "transformers": {
        "fla.export_code.modeling_fla_llm",
        "fla.export_code.processing_fla_llm",
        "fla.metrics.bleurt",
        "fla.models.best_tokens",
        "fla.models.caches",
        "fla.models.drawing",
        "fla.models.ensemble",
        "fla.models.light_t",
        "fla.models.llm",
        "fla.models.translator",
        "fla.text.codec",
        "fla.text.trimming",
    },
    "uvicorn": {"fla.page"},
}

# From the bottom up: a module imports its own layer and those before it.
LAYERS = (
    # What is copied into exports uses nothing of fla, and nothing imports it.
    {"fla", "errors", "export_code"},
    {
        "batch",
        "batch_norm",
        "config",
        "losses",
        "orphans",
        "progress",
        "runtime",
        "search",
        "signals",
        "vote",
        "weights",
    },
    {"data", "metrics", "models", "run_folder", "text"},
    {
        "arrival",
        "averaging",
        "build",
        "checkpoint",
        "checkpoint_files",
        "continuation",
        "deepspeed_setup",
        "description",
        "engine",
        "export",
        "for_transformers",
        "host_copies",
        "journal",
        "lock",
        "mlflow_opening",
        "mlflow_reader",
        "mlflow_run",
        "mlflow_settings",
        "model_card",
        "model_card_template",
        "optim",
        "provenance",
        "run_tags",
        "saved_config",
        "sender",
        "shards",
        "split",
        "tracking",
        "translation_table",
        "translator",
    },
    {
        "ahead",
        "caching",
        "checkpoint_weights",
        "compare",
        "ensemble",
        "evaluate",
        "finite",
        "profiling",
        "run",
        "saving",
        "shard_encoder",
        "skipping",
        "train",
        "translating",
        "window",
    },
    {"checkpoint_export", "loaders"},
    {"assembly", "encoder"},
    {
        "ablation",
        "decoding",
        "dry_run",
        "encoding",
        "plan",
        "pretrain",
        "stage1",
        "stage2",
        "sync",
        "translate",
        "translate_files",
        "trim",
    },
    {"page"},
)
SIBLINGS = {"data", "metrics", "models", "run_folder", "text"}

# Answered before torch, or used where there is none.
WITHOUT_TORCH = (
    "fla",
    "fla.config.check",
    "fla.config.load",
    "fla.ablation.listing",
    "fla.ablation.state",
    "fla.continuation",
    "fla.compare.comparison",
    "fla.compare.from_mlflow",
    "fla.data.manifest",
    "fla.data.sampling",
    "fla.metrics.counting",
    "fla.metrics.outputs",
    "fla.metrics.significance",
    "fla.translating.job",
)

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "fla").rglob("*.py"))
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield node.module or ""
            # `from fla import engine` names the module behind the word import.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(module: str) -> set[str]:
    return {name for name in imports(MODULES[module]) if name in MODULES} - {"fla"}


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def layer(module: str) -> int:
    for height, parts in enumerate(LAYERS):
        if part(module) in parts:
            return height
    raise AssertionError(f"{module} has no place in LAYERS: name one")


def test_the_imported_fla_is_the_one_of_this_repository():
    # The package index has another distribution whose package is also named fla.
    assert Path(fla.__file__).parent == ROOT / "fla", "another fla shadows this repository's"


@pytest.mark.parametrize("module", MODULES)
def test_each_giant_has_one_room(module):
    giants = {name.split(".")[0] for name in imports(MODULES[module])} & ROOMS.keys()

    assert {giant for giant in giants if module not in ROOMS[giant]} == set()


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module):
    upward = {name for name in imported_modules(module) if layer(name) > layer(module)}

    assert upward == set()


@pytest.mark.parametrize("module", [name for name in MODULES if part(name) == "export_code"])
def test_what_is_copied_into_exports_needs_pytorch_and_transformers_alone(module):
    roots = {name.split(".")[0] for name in imports(MODULES[module])}

    assert roots <= {"collections", "numpy", "torch", "transformers", "typing"}


@pytest.mark.parametrize("module", [name for name in MODULES if part(name) in SIBLINGS])
def test_parts_do_not_import_each_other(module):
    siblings = {name for name in imported_modules(module) if part(name) in SIBLINGS}

    assert {name for name in siblings if part(name) != part(module)} == set()


@pytest.mark.parametrize("module", MODULES)
def test_fla_imports_no_launcher_tool_or_test(module):
    roots = {name.split(".")[0] for name in imports(MODULES[module])}

    assert roots & {"launchers", "tools", "tests"} == set()


def test_no_file_is_longer_than_a_reader_can_hold():
    folders = ("fla", "launchers", "tools")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}

    too_long = {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > MAX_LINES}
    assert too_long == {}


def test_configuration_and_planning_need_no_torch():
    script = f"import sys, {', '.join(WITHOUT_TORCH)}; print('torch' in sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == "False\n"
