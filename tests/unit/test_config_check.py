"""Rules across keys: every broken one is told, before torch is imported."""

import json
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from fla.config.check import (
    EXPORT_FORMAT,
    check_decode,
    check_pretrain,
    check_stage1,
    check_stage2,
)
from fla.config.keys import list_keys
from fla.config.load import load_config
from fla.config.ranges import RANGES
from fla.config.schema import DecodeConfig, PretrainConfig, Stage1Config, Stage2Config
from fla.errors import ConfigError

DS_CONFIGS = Path(__file__).parents[2] / "ds_configs"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which every path of the configs below exists."""
    for split in ("train", "dev", "test"):
        write(tmp_path / "data" / f"{split}.tsv", "")
    write(tmp_path / "mbart" / "config.json", "{}")
    write(tmp_path / "stage1" / "export" / "config.json", export_json(stage=1))
    write(tmp_path / "text.txt", "One sentence.\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def export_json(*, stage: int) -> str:
    return json.dumps({"format": EXPORT_FORMAT, "stage": stage})


def stage1(folder: Path, *words: str) -> Stage1Config:
    return load_config(Stage1Config, [*common_words(folder, "zero1_autocast.json"), *words])


def stage2(folder: Path, *words: str) -> Stage2Config:
    own = [f"model.llm_dir={folder}/mbart", f"model.encoder_export={folder}/stage1/export"]
    return load_config(Stage2Config, [*common_words(folder, "zero3_bf16.json"), *own, *words])


def common_words(folder: Path, deepspeed: str) -> list[str]:
    return [
        f"run_dir={folder}/run",
        f"deepspeed={DS_CONFIGS / deepspeed}",
        f"data.manifest_dir={folder}/data",
        f"text.tokenizer_dir={folder}/mbart",
    ]


def decode(folder: Path, *words: str) -> DecodeConfig:
    return load_config(DecodeConfig, [f"export_dir={folder}/stage1/export", *words])


def pretrain(folder: Path, *words: str) -> PretrainConfig:
    own = [f"run_dir={folder}/run", f"data.train_text={folder}/text.txt"]
    return load_config(
        PretrainConfig, [*own, f"deepspeed={DS_CONFIGS / 'zero1_autocast.json'}", *words]
    )


def test_good_configs_pass(folder):
    check_stage1(stage1(folder), 2)
    check_stage2(stage2(folder), 1)
    check_decode(decode(folder))
    check_pretrain(pretrain(folder), 2)


@pytest.mark.parametrize("schema", [Stage1Config, Stage2Config, DecodeConfig, PretrainConfig])
def test_every_number_has_a_range(schema):
    numbers = {key.name for key in list_keys(schema).values() if key.type in (int, float)}

    def ranged(section, prefix=""):
        for field in fields(section):
            value = getattr(section, field.name)
            if is_dataclass(value):
                yield from ranged(value, f"{prefix}{field.name}.")
            elif field.name in RANGES.get(type(section), {}):
                yield prefix + field.name

    assert set(ranged(schema())) == numbers


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("data.frame_stride=0", r"^data\.frame_stride \(0\) must be at least 1\.$"),
        (
            "data.max_frames=1025",
            r"data\.max_frames \(1025\) must be at least 1 and at most 1024\.",
        ),
        ("optim.momentum=1", r"^optim\.momentum \(1\.0\) must be at least 0 and below 1\.$"),
        ("optim.learning_rate=0", r"^optim\.learning_rate \(0\.0\) must be above 0\.$"),
        ("train.max_steps=-1", r"^train\.max_steps \(-1\) must be at least 0\.$"),
        ("data.crop_px=257", r"^data\.crop_px \(257\) must be at most data\.resize_px \(256\)"),
        ("data.frames_per_batch=74", r"^data\.frames_per_batch \(74\) .* data\.max_frames \(75\)"),
        ("data.video_root=/nope", r"^data\.video_root \(/nope\): there is no such folder\.$"),
        ("model.kernel_size=4", r"^model\.kernel_size \(4\) must be odd"),
        (
            "model.checkpointed_stages=5",
            r"^model\.checkpointed_stages \(5\) must be at least 0 and ",
        ),
        ("train.profile_steps=101", r"^train\.profile_steps \(101\) must be .* at most 100\.$"),
        ("model.backbone_weights=/nope", r"^model\.backbone_weights \(/nope\): there is no such"),
        (
            "data.manifest_dir=data/how2sign",
            r"^data\.manifest_dir \(data/how2sign\): there is no train\.tsv, dev\.tsv, test\.tsv\. "
            r"Make the manifests with `python tools/import_how2sign\.py SOURCE_DIR data/how2sign`",
        ),
        ("data.manifest_dir=data/p14t/CSL", r"with `python tools/import_csl_daily\.py SOURCE_DIR"),
        ("data.manifest_dir=/nope", r"with `.*phoenix14t.* or `.*csl_daily.* or `.*how2sign\.py "),
        ("data.manifest_dir=data/demo", r"there is no train\.tsv.* with `make demo`\.$"),
        (
            "text.tokenizer_dir=/nope",
            r"^text\.tokenizer_dir \(/nope\): .*tools/pretrain_mbart\.py`",
        ),
        ("deepspeed=/nope.json", r"^/nope\.json: there is no such DeepSpeed JSON\."),
        (
            f"deepspeed={DS_CONFIGS / 'zero3_bf16.json'}",
            r"zero3_bf16\.json: bf16 casts the weights but not BatchNorm's .*zero1_autocast\.json",
        ),
    ],
)
def test_broken_rule_of_stage1_gets_its_sentence(folder, word, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_stage1(stage1(folder, word), 1)


def test_compiling_goes_with_a_compiler_only(folder, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    sentence = r"^model\.compile needs a C\+\+ compiler, and there is no no-such-compiler\. "

    check_stage1(stage1(folder), 1)
    with pytest.raises(ConfigError, match=sentence):
        check_stage1(stage1(folder, "model.compile=true"), 1)
    with pytest.raises(ConfigError, match=sentence):
        check_stage2(stage2(folder, "model.compile=true"), 1)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("model.checkpointed_stages=1", r"^model\.compile and model\.checkpointed_stages \(1\): "),
        (
            f"deepspeed={DS_CONFIGS / 'zero3_autocast.json'}",
            r"^model\.compile with .*ZeRO-3 fetche",
        ),
    ],
)
def test_what_cannot_be_compiled_in_stage1_gets_its_sentence(folder, monkeypatch, word, sentence):
    # Some program that is everywhere.
    monkeypatch.setenv("CXX", "sh")
    monkeypatch.setattr("fla.config.check.sysconfig.get_path", lambda name: str(folder))
    write(folder / "Python.h", "")

    check_stage1(stage1(folder, "model.compile=true"), 1)
    with pytest.raises(ConfigError, match=sentence):
        check_stage1(stage1(folder, "model.compile=true", word), 1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["model.checkpointed_stages=2"],
            r"\(2\) with model\.freeze=all: no activations of a froze",
        ),
        (
            ["model.compile=true", "model.freeze=nothing", "deepspeed=ds_configs/zero2_fp32.json"],
            r"model\.compile with model\.freeze=nothing: stage 2 compiles a frozen backbone alone",
        ),
    ],
)
def test_keys_for_another_backbone_than_stage2_has_get_their_sentence(folder, words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_stage2(stage2(folder, *words), 1)


@pytest.mark.parametrize(
    ("size", "micro", "ranks", "remedy"),
    [
        (7, 2, 2, "Start a number of ranks that divides it, or set train.global_batch_size=8."),
        (16, 16, 8, "Set train.micro_batch_size=2."),
        (24, 5, 2, "Set train.micro_batch_size=4."),
        (8, 4, 16, "Start a number of ranks that divides it, or set train.global_batch_size=64."),
    ],
)
def test_global_batch_that_does_not_divide_is_told_with_its_arithmetic_and_a_remedy(
    folder, size, micro, ranks, remedy
):
    words = [f"train.global_batch_size={size}", f"train.micro_batch_size={micro}"]

    with pytest.raises(ConfigError) as caught:
        check_stage1(stage1(folder, *words), ranks)

    assert str(caught.value) == (
        f"train.global_batch_size ({size}) must be a multiple of train.micro_batch_size x world "
        f"size ({micro} x {ranks}). {remedy}"
    )
    changed = remedy.rstrip(".").rsplit(" ", 1)[1]
    check_stage1(stage1(folder, *words, changed), ranks)


def test_world_size_comes_from_the_launcher(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")

    with pytest.raises(ConfigError, match=r"\(4 x 3\)\. "):
        check_stage1(stage1(folder))


def test_all_broken_rules_are_told_at_once(folder):
    config = stage1(folder, "data.crop_px=300", "train.num_epochs=0", "data.manifest_dir=/nope")

    with pytest.raises(ConfigError) as caught:
        check_stage1(config, 1)

    assert len(str(caught.value).splitlines()) == 3


def test_contradiction_with_the_deepspeed_json_is_found_by_the_check(folder):
    write(folder / "ds.json", '{"zero_optimization": {"stage": 1}, "train_batch_size": 32}')
    words = [f"deepspeed={folder}/ds.json", "train.global_batch_size=16"]

    with pytest.raises(ConfigError, match=r"train_batch_size \(32\) .*global_batch_size \(16\)"):
        check_stage2(stage2(folder, *words), 1)


def test_missing_export_names_the_command_that_makes_it(folder):
    with pytest.raises(ConfigError, match=r"encoder_export \(/nope\).*`deepspeed launchers/stage1"):
        check_stage2(stage2(folder, "model.encoder_export=/nope"), 1)
    with pytest.raises(ConfigError, match=r"^export_dir \(/nope\): .*`deepspeed launchers/stage2"):
        check_decode(decode(folder, "export_dir=/nope"))


def test_run_folder_in_place_of_its_export_is_recognized(folder):
    with pytest.raises(ConfigError, match=r"Did you mean .*/stage1/export\?$"):
        check_stage2(stage2(folder, f"model.encoder_export={folder}/stage1"), 1)


def test_folder_that_is_no_export_is_refused(folder):
    with pytest.raises(ConfigError, match=r"encoder_export .*not that of an export"):
        check_stage2(stage2(folder, f"model.encoder_export={folder}/mbart"), 1)
    with pytest.raises(ConfigError, match=r"export_dir .*not that of an export"):
        check_decode(decode(folder, f"export_dir={folder}/mbart"))


def test_stage2_refuses_an_export_of_stage2(folder):
    write(folder / "stage2" / "config.json", export_json(stage=2))

    with pytest.raises(ConfigError, match=r"is an export of stage 2, not of stage 1\."):
        check_stage2(stage2(folder, f"model.encoder_export={folder}/stage2"), 1)


def test_stage2_without_mbart_names_the_tool_that_makes_one(folder):
    with pytest.raises(ConfigError, match=r"^model\.llm_dir \(/nope\): .*pretrain_mbart\.py`"):
        check_stage2(stage2(folder, "model.llm_dir=/nope"), 1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["export_dir="], "export_dir and checkpoint are empty. Name the export/ folder of a run"),
        (["average_last=2"], "average_last (2) is for checkpoints, and none is named."),
        (["checkpoint=nowhere"], "checkpoint (nowhere): there is no such folder."),
        (["average_last=0"], "average_last (0) must be"),
        (["ensemble=nowhere,", "output_dir=x"], "ensemble (nowhere): there is no such folder."),
        (["ensemble=tests"], "belongs to none of their run folders. Name a folder of its own as "),
    ],
)
def test_a_broken_choice_of_the_model_to_decode_with_gets_its_sentence(folder, words, sentence):
    with pytest.raises(ConfigError) as error:
        check_decode(decode(folder, *words))

    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["beam.num_hypotheses=6"],
         "beam.num_hypotheses (6) must be at most beam.num_beams (5)."),
        (["beam.temperature=0.5"],
         "beam.temperature (0.5) is for sampling, which has no beams, and beam.num_beams is 5."),
        (["beam.top_k=3"],
         "beam.top_k (3) and beam.top_p (1) are for sampling. Set beam.temperature above 0, too."),
        (["beam.top_p=0"], "beam.top_p (0.0) must be above 0 and at most 1."),
    ],
)  # fmt: skip
def test_a_search_that_cannot_be_gets_its_sentence(folder, words, sentence):
    for check, config in (
        (check_decode, decode(folder, *words)),
        (partial(check_stage2, world_size=1), stage2(folder, *words)),
    ):
        with pytest.raises(ConfigError) as error:
            check(config)

        assert sentence in str(error.value)


def test_a_sampling_search_may_draw_more_than_it_has_beams(folder):
    check_decode(decode(folder, "beam.temperature=1", "beam.num_beams=1", "beam.num_hypotheses=9"))


def test_decoding_needs_the_manifest_of_its_split_only(folder):
    (folder / "data" / "dev.tsv").unlink()

    check_decode(decode(folder, f"manifest_dir={folder}/data"))
    with pytest.raises(ConfigError, match=r"^manifest_dir \(.*\): there is no dev\.tsv\. "):
        check_decode(decode(folder, f"manifest_dir={folder}/data", "split=dev"))


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("global_batch_size=7", r"^global_batch_size \(7\) must be a multiple of the world size"),
        ("model.num_heads=3", r"^model\.d_model \(256\) must be a multiple of model\.num_heads"),
        ("model.num_heads=0", r"^model\.num_heads \(0\) must be at least 1\.$"),
        ("data.train_text=/nope", r"^data\.train_text \(/nope\): there is no such file\."),
        ("data.mask_fraction=1", r"^data\.mask_fraction \(1\.0\) must be above 0 and below 1\.$"),
    ],
)
def test_broken_rule_of_pretraining_gets_its_sentence(folder, word, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_pretrain(pretrain(folder, word), 2)


def test_format_of_an_export_is_the_one_that_is_written():
    from fla.description import FORMAT

    assert FORMAT == EXPORT_FORMAT


def test_micro_batch_of_no_sentence_gets_its_sentence_like_any_other(folder):
    config = stage1(folder)
    broken = replace(config, train=replace(config.train, micro_batch_size=0))

    with pytest.raises(ConfigError, match=r"^train\.micro_batch_size \(0\) must be at least 1\.$"):
        check_stage1(broken, 1)


END_TO_END = "model.encoder_export="
IMAGENET = "model.backbone_weights={folder}/resnet18.pth"
AUTOCAST = "deepspeed=ds_configs/zero2_autocast.json"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["features=cached"],
        ["model.input_features=frame_wise"],
        ["model.input_features=light_t", "features=cached"],
        ["model.freeze=backbone", AUTOCAST],
        ["model.freeze=nothing", AUTOCAST],
        ["model.freeze=nothing", "model.input_features=frame_wise", AUTOCAST],
        ["model.freeze=nothing", "model.input_features=light_t", AUTOCAST],
        [END_TO_END, IMAGENET, "model.freeze=nothing", AUTOCAST],
        [END_TO_END, IMAGENET, "model.freeze=backbone", AUTOCAST],
        [END_TO_END, IMAGENET, "model.input_features=frame_wise", "features=cached"],
        [END_TO_END, "model.freeze=nothing", AUTOCAST],
    ],
)
def test_ablations_that_make_sense_are_accepted(folder, words):
    write(folder / "resnet18.pth", "")

    check_stage2(stage2(folder, *(word.format(folder=folder) for word in words)), 1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["model.freeze=backbone", "features=cached", AUTOCAST], "features=cached with model.f"),
        (
            ["model.freeze=backbone", "model.input_features=frame_wise", AUTOCAST],
            "the backbone is all that gives frame-wise features",
        ),
        (["model.freeze=nothing"], r"zero3_bf16\.json: .*model\.freeze=nothing cannot run with it"),
        ([IMAGENET], "model.backbone_weights and model.encoder_export are both given"),
        ([END_TO_END, IMAGENET], "the local temporal module would stay random"),
        (
            [
                END_TO_END,
                IMAGENET,
                "model.freeze=nothing",
                "model.input_features=light_t",
                AUTOCAST,
            ],
            "Light-T is trained in stage 1",
        ),
        ([END_TO_END, "model.freeze=backbone", AUTOCAST], "the backbone would stay random"),
        (
            [END_TO_END, "model.input_features=frame_wise"],
            "model.freeze=all without model.encoder_export and model.backbone_weights",
        ),
    ],
)
def test_ablations_that_contradict_themselves_are_refused_by_name(folder, words, sentence):
    write(folder / "resnet18.pth", "")

    with pytest.raises(ConfigError, match=sentence):
        check_stage2(stage2(folder, *(word.format(folder=folder) for word in words)), 1)
