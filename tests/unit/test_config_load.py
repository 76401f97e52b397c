"""Configuration from recipes and words: who wins, and which sentence a mistake gets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fla.config import load
from fla.config.keys import list_keys
from fla.config.load import config_as_dict, exit_on_user_error, flatten, load_config, save_config
from fla.config.schema import DecodeConfig, PretrainConfig, Stage1Config, Stage2Config
from fla.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]
REQUIRED_WORDS = ["run_dir=runs/a", "data.manifest_dir=data/a", "text.tokenizer_dir=tokenizer"]
STAGE2_WORDS = ["model.encoder_export=export", "model.llm_dir=mbart"]


def load_stage1(*words: str) -> Stage1Config:
    return load_config(Stage1Config, [*REQUIRED_WORDS, *words])


def write_recipe(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_words_win_over_recipes_and_later_recipes_over_earlier_ones(tmp_path):
    first = write_recipe(
        tmp_path, "first.yaml", "seed: 2\ntrain:\n  num_epochs: 2\n  max_steps: 2\n"
    )
    second = write_recipe(tmp_path, "second.yaml", "train:\n  num_epochs: 3\n  max_steps: 3\n")

    config = load_stage1("train.max_steps=4", first, second)

    assert (config.seed, config.train.num_epochs, config.train.max_steps) == (2, 3, 4)


def test_the_later_of_two_equal_words_wins():
    assert load_stage1("seed=2", "seed=3").seed == 3


def test_default_recipe_is_read_only_where_the_words_name_none(tmp_path):
    default = Path(write_recipe(tmp_path, "default.yaml", "seed: 2\n"))
    other = write_recipe(tmp_path, "other.yaml", "train:\n  num_epochs: 3\n")

    alone = load_config(Stage1Config, REQUIRED_WORDS, default_recipe=default)
    replaced = load_config(Stage1Config, [*REQUIRED_WORDS, other], default_recipe=default)

    assert alone.seed == 2
    assert replaced.seed == 1


def test_local_rank_of_the_launcher_is_no_key():
    for word in (["--local_rank=1"], ["--local-rank=1"], ["--local_rank", "1"]):
        assert load_config(Stage1Config, [*word, *REQUIRED_WORDS, "seed=5"]).seed == 5


def test_text_stays_as_it_was_typed():
    config = load_stage1("run_dir=007", "data.manifest_dir=a=b: {c", "tracking.uri=")

    assert config.run_dir == "007"
    assert config.data.manifest_dir == "a=b: {c"
    assert config.tracking.uri == ""


def test_numbers_in_scientific_notation_are_numbers_in_words_and_recipes(tmp_path):
    recipe = write_recipe(tmp_path, "a.yaml", "optim:\n  weight_decay: 1e-4\n")

    config = load_stage1(recipe, "optim.learning_rate=1e-5")

    assert config.optim.learning_rate == 1e-5
    assert config.optim.weight_decay == 1e-4


def test_a_section_without_lines_changes_nothing(tmp_path):
    recipe = write_recipe(tmp_path, "a.yaml", "train:\n# num_epochs: 3\n")

    assert load_stage1(recipe) == load_stage1()


def test_saved_config_reads_back_equal(tmp_path):
    config = load_stage1(
        "optim.learning_rate=1e-5", "tracking.experiment=1e3", "data.augment=false"
    )

    save_config(config, tmp_path / "config.yaml")

    assert load_config(Stage1Config, [str(tmp_path / "config.yaml")]) == config


def test_flat_names_are_those_that_words_use():
    config = load_stage1()

    assert flatten(config)["optim.learning_rate"] == config.optim.learning_rate
    assert list(flatten(config)) == list(list_keys(Stage1Config))
    assert config_as_dict(config)["optim"]["learning_rate"] == config.optim.learning_rate


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("train.num_epoch=1", r"^train\.num_epoch: .*Did you mean: 'num_epochs'"),
        ("optm.momentum=1", r"^optm\.momentum: .*Did you mean: 'optim'"),
        ("learning_rate=1", r"^learning_rate: .*Did you mean: 'optim\.learning_rate'"),
        ("train.zzz=1", r"^train\.zzz: there is no such key\. train has: num_epochs, "),
        ("zzz.a=1", r"^zzz\.a: there is no such key\. The sections are: beam, data, "),
        ("train=1", r"^train: a section, got '1'\. Set train\.KEY\.$"),
        ("train.num_epochs.a=1", r"^train\.num_epochs\.a: there is no such key\."),
        ("train..a=1", r"^train\.\.a: there is no such key\."),
        ("train.num_epochs=1.5", r"^train\.num_epochs: expected int, got '1\.5'\.$"),
        ("train.num_epochs=", r"^train\.num_epochs: expected int, got ''\.$"),
        ("optim.momentum=x", r"^optim\.momentum: expected float, got 'x'\.$"),
        ("optim.momentum=nan", r"^optim\.momentum: expected float, got 'nan'\.$"),
        ("data.augment=3", r"^data\.augment: expected true or false, got '3'\.$"),
        (
            "model.light_t=huge",
            r"^model\.light_t: expected one of tiny, small, base, large, got 'huge'\.$",
        ),
        ("run_dir=${nope}", r"^run_dir: Interpolation key 'nope' not found\.$"),
        ("foo", r"^foo: neither KEY=VALUE nor a recipe"),
        ("=3", r"^=3: neither KEY=VALUE nor a recipe"),
        ("--optim.momentum=1", r"^--optim\.momentum=1: .*Write optim\.momentum=1, "),
        ("--resume", r"^--resume: .*Write resume=VALUE, "),
    ],
)
def test_mistyped_word_gets_its_sentence(word, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_stage1(word)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train: {num_epoch: 1}", r"a\.yaml: train\.num_epoch: .*Did you mean: 'num_epochs'"),
        (
            "train: {num_epochs: [1, 2]}",
            r"a\.yaml: train\.num_epochs: expected int, got \[1, 2\]\.",
        ),
        ("train: {num_epochs: true}", r"a\.yaml: train\.num_epochs: expected int, got True\."),
        ("train: {num_epochs: }", r"a\.yaml: train\.num_epochs: expected int, got None\."),
        ("optim: {momentum: .inf}", r"a\.yaml: optim\.momentum: expected float, got inf\."),
        ("data: {augment: 3}", r"a\.yaml: data\.augment: expected true or false, got 3\."),
        ("run_dir: 007", r"a\.yaml: run_dir: expected str, got 7\. Put it in quotes\."),
        ("text: {language: no}", r"a\.yaml: text\.language: expected str, got False\. Put it in"),
        ("train: 3", r"a\.yaml: train: a section, got 3\."),
        ("1: 2", r"a\.yaml: 1: there is no such key\."),
        ("- 1", r"a\.yaml: a recipe holds `key: value` lines, this file a list\."),
        ("seed: [", r"a\.yaml: not readable as YAML: .*line 2"),
        ("seed: 1\nseed: 2", r"a\.yaml: not readable as YAML: .*duplicate key seed.*line 2"),
        ("run_dir: !!python/object/apply:os.getcwd []", r"a\.yaml: not readable as YAML: "),
    ],
)
def test_mistake_in_a_recipe_names_the_file(tmp_path, text, sentence):
    recipe = write_recipe(tmp_path, "a.yaml", text)

    with pytest.raises(ConfigError, match=sentence):
        load_stage1(recipe)


def test_missing_recipe_names_those_that_are_there(tmp_path):
    write_recipe(tmp_path, "stage1.yaml", "")

    with pytest.raises(
        ConfigError, match=r"stage2\.yaml: there is no such recipe.* stage1\.yaml\."
    ):
        load_stage1(str(tmp_path / "stage2.yaml"))


def test_all_mistakes_are_told_at_once(tmp_path):
    recipe = write_recipe(tmp_path, "a.yaml", "sed: 3\n")

    with pytest.raises(ConfigError) as caught:
        load_stage1(recipe, "train.num_epochs=x", "optim.lr=1")

    lines = str(caught.value).splitlines()
    assert [line.removeprefix(f"{tmp_path}/").split(": ")[0] for line in lines] == [
        "a.yaml",
        "train.num_epochs",
        "optim.lr",
    ]


def test_all_required_keys_that_nobody_set_are_told_at_once():
    with pytest.raises(ConfigError, match=r"^run_dir, data\.manifest_dir, text\.tokenizer_dir: "):
        load_config(Stage1Config, [])


@pytest.mark.parametrize("schema", [Stage1Config, Stage2Config, DecodeConfig, PretrainConfig])
def test_every_key_has_a_meaning(schema):
    assert [key.name for key in list_keys(schema).values() if not key.meaning] == []


def test_help_tells_every_key_with_type_default_and_meaning(capsys):
    with pytest.raises(SystemExit) as caught:
        load_config(Stage2Config, ["--help"], doc="Trains stage 2.")

    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert text.startswith("Trains stage 2.\n")
    assert all(f"  {name}  (" in text for name in list_keys(Stage2Config))
    # The section's default of this stage, not the class's.
    assert "train.num_epochs  (int; default 40)\n      Passes over the training split." in text
    assert "run_dir  (str; required)" in text


def test_help_needs_no_torch_and_less_than_a_second():
    script = (
        "import sys; from fla.config.load import load_config;"
        "from fla.config.schema import Stage1Config;"
        "import fla.config.check, atexit;"
        "atexit.register(lambda: print('torch' in sys.modules));"
        "load_config(Stage1Config, ['--help'])"
    )

    before_s = os.times().children_user
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.endswith("False\n")
    # Time on the processor: a busy machine must not fail the test.
    assert os.times().children_user - before_s < 1.0


def test_only_local_rank_0_answers_help(capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")

    with pytest.raises(SystemExit):
        load_config(Stage1Config, ["--help"])

    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("error", "code"), [(ConfigError("a: b."), 2), (DataError("a: b."), 1)])
def test_user_error_ends_with_its_sentence_and_code_and_no_traceback(capsys, error, code):
    with pytest.raises(SystemExit) as caught, exit_on_user_error():
        raise error

    assert caught.value.code == code
    assert capsys.readouterr().err == "error: a: b.\n"


def test_other_ranks_leave_the_sentence_to_rank_0_until_it_is_clear_that_they_are_alone(
    capsys, monkeypatch
):
    waited = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(load.time, "sleep", waited.append)

    with pytest.raises(SystemExit), exit_on_user_error():
        raise DataError("a: b.")

    assert waited == [load.PATIENCE_S]
    assert capsys.readouterr().err == "error: a: b.\n"


def test_errors_of_the_program_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), exit_on_user_error():
        print(1 / 0)


def test_a_section_with_a_mode_is_set_by_its_name():
    config = load_config(Stage2Config, [*REQUIRED_WORDS, *STAGE2_WORDS, "features=cached"])

    assert config.features.mode == "cached"


def test_a_wrong_mode_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"^features\.mode: expected .*cached.*'chached'"):
        load_config(Stage2Config, [*REQUIRED_WORDS, *STAGE2_WORDS, "features=chached"])
