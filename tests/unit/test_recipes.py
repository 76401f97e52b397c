"""Recipes of the real corpora: the paper's numbers, and a dry run on each official layout."""

import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import distributed

from fla.checkpoint import TrainState
from fla.checkpoint_files import write_state
from fla.config.check import check_decode, check_stage1, check_stage2
from fla.config.load import flatten, load_config, save_config, take_check_word
from fla.config.schema import DecodeConfig, PretrainConfig, Stage1Config, Stage2Config
from fla.data.importers.csl_daily import import_csl_daily
from fla.data.importers.how2sign import import_how2sign
from fla.data.importers.phoenix14t import import_phoenix14t
from fla.data.manifest import read_manifest
from fla.dry_run import dry_run_decoding, dry_run_stage
from fla.errors import CheckpointError, ConfigError, DataError, FlaError
from fla.run_folder import RunFolder, mark_complete, write_atomically
from fla.weights import open_tensors
from tests.helpers.commands import ROOT, python, run, run_well
from tests.helpers.corpora import MAKERS
from tests.helpers.exports import write_untrained_stage1
from tools.make_random_mbart import make_random_mbart
from tools.trim_mbart import parse_arguments

RECIPES = ROOT / "launchers" / "recipes"

CORPORA = ("phoenix14t", "csl_daily", "how2sign")
IMPORTERS = {
    "phoenix14t": import_phoenix14t,
    "csl_daily": import_csl_daily,
    "how2sign": import_how2sign,
}
SCHEMAS = {"stage1": Stage1Config, "stage2": Stage2Config, "decode": DecodeConfig}
SCHEMAS |= {"mbart": PretrainConfig}

# Chen et al., "Factorized Learning Assisted with Large Language Model for Gloss-free Sign Language
# Translation", LREC-COLING 2024. Where no table is named, its text says so.
OF_BOTH_STAGES = {
    # Table 6: a quarter of the frames.
    "data.frame_stride": 4,
    "data.crop_px": 224,
    "train.label_smoothing": 0.2,
    "beam.num_beams": 5,
    "optim.warmup_fraction": 0.0,
}
OF_STAGE = {
    "stage1": {
        # 8 sentences over two GPUs.
        "train.global_batch_size": 8,
        "train.micro_batch_size": 4,
        "train.num_epochs": 75,
        "optim.name": "sgd",
        "optim.learning_rate": 1e-2,
        "optim.momentum": 0.9,
        # Table 7: Base is the best.
        "model.light_t": "base",
        "model.backbone_weights": "models/resnet18-f37072fd.pth",
        "deepspeed": "ds_configs/zero1_autocast.json",
    },
    "stage2": {
        # 16 on one.
        "train.global_batch_size": 16,
        "train.micro_batch_size": 16,
        # The paper is silent; MMTLB.
        "train.num_epochs": 40,
        "optim.llm_learning_rate": 1e-5,
        "optim.adapter_learning_rate": 1e-3,
        # Table 9: backbone and temporal module.
        "model.freeze": "all",
        # Table 8.
        "model.input_features": "sign_wise",
        # Table 10: mBART, pretrained.
        "model.random_llm": False,
        "deepspeed": "ds_configs/zero3_bf16.json",
    },
}
OF_CORPUS = {
    # 300 frames of the video are 75 after the stride.
    "phoenix14t": {
        "text.language": "de_DE",
        "metrics.protocol": "phoenix14t",
        "data.max_frames": 75,
    },
    "csl_daily": {
        "text.language": "zh_CN",
        "metrics.protocol": "csl-daily-char",
        "data.max_frames": 75,
    },
    # The paper is silent, and clips are longer.
    "how2sign": {
        "text.language": "en_XX",
        "metrics.protocol": "how2sign",
        "data.max_frames": 256,
    },
}
SCORES = {
    # Main results, test: ROUGE-L and BLEU-4.
    "phoenix14t": ("45.27", "23.09"),
    "csl_daily": ("37.25", "14.20"),
    "how2sign": ("27.81", "9.66"),
}


def load(corpus: str, stage: str, *words: str) -> Any:
    return load_config(SCHEMAS[stage], [str(RECIPES / f"{corpus}_{stage}.yaml"), *words])


def header(corpus: str, stage: str) -> list[str]:
    """Lines of the comment at a recipe's top, without their #."""
    lines = (RECIPES / f"{corpus}_{stage}.yaml").read_text(encoding="utf-8").splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return [line.removeprefix("#").strip() for line in lines[:end]]


def commands(corpus: str) -> Iterator[list[str]]:
    """The words of each command that a corpus' recipes name."""
    for stage in ("stage1", "stage2", "decode"):
        for line in header(corpus, stage):
            command = line.removeprefix("Command: ")
            if command.startswith(("python ", "deepspeed ")):
                yield shlex.split(command)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads(path: Path):
    schema = SCHEMAS[path.stem.rpartition("_")[2]]
    # The signing-blind controls lie on top of another recipe.
    below = path.with_name(path.name.replace("_blind", ""))

    load_config(schema, [str(below), str(path)])


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
@pytest.mark.parametrize("corpus", CORPORA)
def test_the_papers_numbers_are_in_effect(corpus, stage):
    expected = OF_BOTH_STAGES | OF_STAGE[stage] | OF_CORPUS[corpus]

    config = flatten(load(corpus, stage))

    assert {key: config[key] for key in expected} == expected


@pytest.mark.parametrize("corpus", CORPORA)
def test_decoding_has_the_papers_beams_and_the_protocol_of_training(corpus):
    config = load(corpus, "decode")

    assert (config.split, config.protocol, config.dtype) == ("test", "", "float32")
    assert (config.beam.num_beams, config.beam.max_new_tokens) == (5, 150)


@pytest.mark.parametrize("stage", ["stage1", "stage2", "decode"])
@pytest.mark.parametrize("corpus", CORPORA)
def test_the_header_has_scores_hours_memory_and_commands(corpus, stage):
    rouge, bleu = SCORES[corpus]

    text = "\n".join(header(corpus, stage))

    assert f"ROUGE-L {rouge}, BLEU-4 {bleu}" in text
    assert "Hours" in text
    assert "emory" in text
    assert f"launchers/recipes/{corpus}_{stage}.yaml" in text


@pytest.mark.parametrize("corpus", CORPORA)
def test_the_commands_name_what_is_there(corpus):
    named = {word for words in commands(corpus) for word in words}

    files = {word for word in named if word.endswith((".py", ".yaml"))}
    assert {file for file in files if not (ROOT / file).is_file()} == set()
    tools = (f"import_{corpus}", "check_data", "trim_mbart", "cache_features", "plan_run")
    assert files > {f"tools/{tool}.py" for tool in tools}
    assert files > {f"launchers/{name}.py" for name in ("stage1", "stage2", "decode")}


@pytest.mark.parametrize("corpus", CORPORA)
def test_each_command_reads_what_an_earlier_one_has_written(corpus, monkeypatch):
    first, second, decoding = (load(corpus, stage) for stage in ("stage1", "stage2", "decode"))
    by_tool = {words[1]: words for words in commands(corpus) if words[0] == "python"}

    monkeypatch.setattr(sys, "argv", by_tool["tools/trim_mbart.py"][1:])
    trimmed = parse_arguments()

    assert by_tool[f"tools/import_{corpus}.py"][-1] == first.data.manifest_dir
    assert str(trimmed.manifests) == first.data.manifest_dir
    assert trimmed.language == first.text.language
    assert {first.text.tokenizer_dir, second.model.llm_dir} == {str(trimmed.out_dir)}
    assert (second.data, second.text) == (first.data, first.text)
    assert second.model.encoder_export == f"{first.run_dir}/export"
    assert decoding.export_dir == f"{second.run_dir}/export"


@dataclass(frozen=True)
class Folder:
    """Three small downloads, imported, and what the recipes begin with."""

    path: Path

    def words(self, corpus: str, stage: str) -> list[str]:
        """Paths in the place of a recipe's own, and batches that two clips fill."""
        both = [
            f"run_dir={self.path}/runs/{corpus}/{stage}",
            f"data.manifest_dir={self.path}/{corpus}/manifests",
            f"text.tokenizer_dir={self.path}/mbart",
            "train.global_batch_size=2",
            "train.micro_batch_size=2",
        ]
        if stage == "stage1":
            return [*both, f"model.backbone_weights={self.path}/resnet18.pth"]
        return [
            *both,
            f"model.encoder_export={self.path}/stage1/export",
            f"model.llm_dir={self.path}/mbart",
        ]

    def load(self, corpus: str, stage: str, *words: str) -> Any:
        return load(corpus, stage, *self.words(corpus, stage), *words)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = tmp_path_factory.mktemp("recipes")
    for name, make in MAKERS.items():
        make(folder / name / "download")
        IMPORTERS[name](
            folder / name / "download",
            folder / name / "manifests",
            on_progress=lambda done, total: None,
        )
    text = folder / "text.txt"
    text.write_text("guten abend\n你好。\nHi!\n", encoding="utf-8")
    sizes = {"num_pieces": 200, "num_layers": 1, "d_model": 64}
    make_random_mbart(folder / "mbart", text=text, dtype="bfloat16", seed=1, **sizes)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), folder / "resnet18.pth")
    write_untrained_stage1(
        folder / "stage1" / "export",
        tokenizer=folder / "mbart",
        manifests=folder / "phoenix14t" / "manifests",
    )
    return Folder(folder)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    # Recipes name ds_configs/ as the commands do.
    monkeypatch.chdir(ROOT)


def dry_run(config: Stage1Config | Stage2Config | DecodeConfig) -> None:
    """What a launcher does with --check."""
    if isinstance(config, DecodeConfig):
        check_decode(config)
        dry_run_decoding(config)
        return
    if isinstance(config, Stage1Config):
        check_stage1(config)
    else:
        check_stage2(config)
    dry_run_stage(config)


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
@pytest.mark.parametrize("corpus", CORPORA)
def test_a_dry_run_passes_on_the_official_layout(made, corpus, stage, capsys):
    config = made.load(corpus, stage)

    dry_run(config)

    told = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in told[:3]] == [
        "train: 2 samples",
        "dev: 1 samples",
        "test: 1 samples",
    ]
    epochs = OF_STAGE[stage]["train.num_epochs"]
    assert f"steps: 1 an epoch, {epochs} in all, of 2 sentences on 1 rank" in "\n".join(told)
    assert f"{config.run_dir}: a fresh start" in told
    assert told[-1].startswith("Ready.")


def test_a_dry_run_writes_nothing_and_joins_no_group(made):
    before = sorted(made.path.rglob("*"))

    dry_run(made.load("how2sign", "stage2"))

    assert sorted(made.path.rglob("*")) == before
    assert not distributed.is_initialized()


def test_the_command_needs_neither_launcher_nor_deepspeed(made):
    recipe = RECIPES / "phoenix14t_stage1.yaml"
    words = ["launchers/stage1.py", recipe, *made.words("phoenix14t", "stage1"), "--check"]

    done = run_well([sys.executable, "-X", "importtime", *map(str, words)])

    assert "Ready." in done.stdout
    assert " torch\n" in done.stderr
    assert " deepspeed\n" not in done.stderr


def test_the_command_ends_with_the_code_of_the_problem(made):
    recipe = RECIPES / "how2sign_stage2.yaml"
    words = [*made.words("how2sign", "stage2"), f"text.tokenizer_dir={made.path}/none", "--check"]

    done = run(python("launchers/stage2.py", recipe, *words))

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: text.tokenizer_dir ({made.path}/none): there is no such")
    assert len(done.stderr.splitlines()) == 1


def copy_manifests(made: Folder, corpus: str, folder: Path) -> Path:
    """Manifests to spoil, whose videos are the old ones."""
    for path in (made.path / corpus / "manifests").glob("*.tsv"):
        text = path.read_text(encoding="utf-8")
        root = f"root={made.path / corpus / 'download'}\n"
        (folder / path.name).write_text(
            text.replace("root=../download\n", root, 1), encoding="utf-8"
        )
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def problems_of(config: Any) -> FlaError:
    with pytest.raises(FlaError) as caught:
        dry_run(config)
    return caught.value


def test_a_missing_video_is_told_in_one_sentence(made, tmp_path):
    manifests = copy_manifests(made, "how2sign", tmp_path)
    edit(manifests / "dev.tsv", "dev00000000-3-rgb_front.mp4", "gone.mp4")

    error = problems_of(made.load("how2sign", "stage2", f"data.manifest_dir={manifests}"))

    assert error.exit_code == 1
    assert str(error) == (
        f"{manifests}/dev.tsv:3: the video of dev00000000_0-3-rgb_front, {made.path}/how2sign"
        "/download/video_level/val/rgb_front/raw_videos/gone.mp4, does not exist. Put it there, or "
        "name the videos' folder in data.video_root (tools: --video-root)."
    )


def test_a_missing_tokenizer_is_told_in_one_sentence(made):
    config = made.load("phoenix14t", "stage1", f"text.tokenizer_dir={made.path}/none")

    error = problems_of(config)

    assert error.exit_code == 2
    assert str(error).startswith(f"text.tokenizer_dir ({made.path}/none): there is no such folder.")
    assert "\n" not in str(error)


def test_the_first_sentence_of_a_split_that_is_too_long_is_told_with_its_sample(made):
    error = problems_of(made.load("csl_daily", "stage2", "text.max_tokens=3"))

    assert error.exit_code == 1
    train, dev = str(error).splitlines()
    assert re.search(r'/train\.tsv, sample \S+: The sentence "你好。" has ', train)
    assert re.search(r"/dev\.tsv, sample .* max_tokens is 3\. Raise text\.max_tokens, or", dev)


def test_all_problems_are_told_at_once(made, tmp_path):
    manifests = copy_manifests(made, "phoenix14t", tmp_path)
    edit(manifests / "train.tsv", "/short\t", "/gone\t")
    folder_in_the_way = tmp_path / "file"
    folder_in_the_way.write_text("")
    words = [f"data.manifest_dir={manifests}", f"run_dir={folder_in_the_way}/run"]

    error = problems_of(made.load("phoenix14t", "stage2", *words, "text.language=xx_XX"))

    language, video, run_dir = str(error).splitlines()
    assert error.exit_code == 2
    assert language.startswith("text.language (xx_XX) is no language code of mBART.")
    assert video.startswith(f"{manifests}/train.tsv:4: the video of short, ")
    assert run_dir == (
        f"run_dir ({folder_in_the_way}/run): nothing can be written to {folder_in_the_way}. "
        "Choose another folder."
    )


def test_an_llm_with_other_shapes_than_its_config_is_refused(made, tmp_path):
    llm = tmp_path / "mbart"
    llm.mkdir()
    for path in (made.path / "mbart").iterdir():
        (llm / path.name).symlink_to(path)
    fields = json.loads((llm / "config.json").read_text(encoding="utf-8"))
    (llm / "config.json").unlink()
    (llm / "config.json").write_text(json.dumps(fields | {"encoder_ffn_dim": 128}))

    error = problems_of(made.load("phoenix14t", "stage2", f"model.llm_dir={llm}"))

    assert error.exit_code == 1
    assert "has the shape 256" in str(error)
    assert "the model's has 128" in str(error)


def test_an_llm_with_fewer_positions_than_frames_is_refused(made, tmp_path):
    llm = tmp_path / "mbart"
    llm.mkdir()
    fields = json.loads((made.path / "mbart" / "config.json").read_text(encoding="utf-8"))
    (llm / "config.json").write_text(json.dumps(fields | {"max_position_embeddings": 32}))

    error = problems_of(made.load("phoenix14t", "stage2", f"model.llm_dir={llm}"))

    assert f"{llm}: the model has 32 positions, and data.max_frames, text.max" in str(error)


def test_an_encoder_export_without_weights_is_refused(made, tmp_path):
    (tmp_path / "config.json").symlink_to(made.path / "stage1" / "export" / "config.json")

    error = problems_of(made.load("phoenix14t", "stage2", f"model.encoder_export={tmp_path}"))

    assert str(error).startswith(f"{tmp_path}/model.safetensors: this is no whole safetensors file")


def test_batches_larger_than_the_split_are_refused(made):
    words = ["train.global_batch_size=4"]

    error = problems_of(made.load("phoenix14t", "stage1", *words))

    assert str(error) == (
        "train.global_batch_size (4) is more than the 2 samples of the training split. Lower it."
    )


def test_the_number_of_ranks_comes_from_a_launcher_and_the_first_one_speaks(
    made, capsys, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = made.load("phoenix14t", "stage1", "train.micro_batch_size=1")

    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        dry_run(config)

    assert capsys.readouterr().out.count("of 2 sentences on 2 ranks with") == 1


def write_run(config: Stage1Config, *, step: int) -> RunFolder:
    """A run folder that has a checkpoint without weights."""
    folder = RunFolder(Path(config.run_dir))
    manifests = read_hashes(Path(config.data.manifest_dir))
    state = TrainState(step=step, run_id="a", manifests=manifests)
    checkpoint = folder.checkpoint(step)
    checkpoint.mkdir(parents=True)
    write_state(checkpoint, {"world_size": 1, **asdict(state)}, {})
    mark_complete(checkpoint)
    save_config(config, folder.config_yaml)
    write_atomically(folder.run_id_txt, "a")
    return folder


def read_hashes(manifest_dir: Path) -> dict[str, str]:
    return {f"{n}.tsv": read_manifest(manifest_dir / f"{n}.tsv").sha256 for n in ("train", "dev")}


def test_a_dry_run_says_where_a_stopped_run_goes_on(made, tmp_path, capsys):
    config = made.load("phoenix14t", "stage1", f"run_dir={tmp_path}/run")
    write_run(config, step=3)

    dry_run(config)
    dry_run(made.load("phoenix14t", "stage1", f"run_dir={tmp_path}/run", "resume=none"))

    told = capsys.readouterr().out
    assert f"{tmp_path}/run: goes on from step 3\n" in told
    assert f"{tmp_path}/run: a fresh start, which moves the former run aside\n" in told


def test_a_dry_run_says_that_a_run_is_finished(made, tmp_path, capsys):
    config = made.load("phoenix14t", "stage1", f"run_dir={tmp_path}/run")
    (write_run(config, step=3).path / "DONE").write_text("")

    dry_run(config)

    assert f"{tmp_path}/run: finished; its model is " in capsys.readouterr().out


def test_a_run_folder_with_other_settings_is_refused(made, tmp_path):
    write_run(made.load("phoenix14t", "stage1", f"run_dir={tmp_path}/run"), step=3)

    error = problems_of(made.load("phoenix14t", "stage1", f"run_dir={tmp_path}/run", "seed=2"))

    assert isinstance(error, ConfigError)
    assert "holds a run with other settings: seed was 1 and is now 2." in str(error)


def test_a_dry_run_of_decoding_says_what_is_translated(made, capsys):
    words = [f"export_dir={made.path}/stage1/export", "output_dir=runs/elsewhere"]

    dry_run(load("phoenix14t", "decode", *words))

    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("test: 1 samples, videos in ")
    assert told[1].startswith("model: stage 1, ")
    assert told[2] == "search: 5 beams, 150 tokens at most; protocol text"
    assert told[3] == "decodes and scores go to runs/elsewhere."


def test_a_dry_run_of_decoding_finds_weights_that_have_changed(made, tmp_path):
    export = tmp_path / "export"
    export.mkdir()
    for path in (made.path / "stage1" / "export").iterdir():
        (export / path.name).symlink_to(path)
    weights = (export / "model.safetensors").read_bytes()
    (export / "model.safetensors").unlink()
    (export / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))

    with pytest.raises(CheckpointError, match="are not those that were written"):
        dry_run(load("phoenix14t", "decode", f"export_dir={export}"))

    assert open_tensors(export / "model.safetensors").names


def test_a_dry_run_of_decoding_needs_its_split(made, tmp_path):
    words = [f"export_dir={made.path}/stage1/export", f"manifest_dir={tmp_path}"]
    (tmp_path / "test.tsv").write_text("no manifest\n")

    error = problems_of(load("phoenix14t", "decode", *words))

    assert not isinstance(error, ConfigError | DataError)
    assert str(error).startswith(f"{tmp_path}/test.tsv:1: a manifest begins with ")


def test_the_word_check_is_taken_out():
    assert take_check_word(["a.yaml", "--check", "seed=2"]) == (["a.yaml", "seed=2"], True)
    assert take_check_word(["a.yaml"]) == (["a.yaml"], False)
