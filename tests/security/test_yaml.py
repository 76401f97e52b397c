"""Recipes and the settings of a run folder are plain YAML: tags that name code are refused."""

from pathlib import Path

import pytest
import yaml

from fla.compare.from_folder import read_folder
from fla.config.load import load_config
from fla.config.schema import Stage1Config
from fla.errors import ConfigError
from fla.run_folder import RunFolder
from fla.saved_config import read_saved_config
from fla.sync import sync_run

# What each of them makes of MARK.
TAGS = {
    "apply": "!!python/object/apply:os.mkdir [MARK]",
    "new": "!!python/object/new:os.mkdir [MARK]",
    "apply with keys": "!!python/object/apply:os.mkdir {kwds: {path: MARK}}",
    "apply below a list": "[1, !!python/object/apply:os.mkdir [MARK]]",
    "in the place of a key": "{? !!python/object/apply:os.mkdir [MARK] : 1}",
}


@pytest.fixture(params=TAGS.values(), ids=TAGS.keys())
def text(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Settings, one of which makes the folder `mark`."""
    return "seed: " + request.param.replace("MARK", str(tmp_path / "mark")) + "\n"


def test_the_tags_do_leave_their_mark_where_they_are_trusted(text, tmp_path):
    yaml.unsafe_load(text)

    assert (tmp_path / "mark").is_dir()


def test_a_recipe_runs_nothing(text, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)

    with pytest.raises(ConfigError, match=r"recipe\.yaml: not readable as YAML: could not determ"):
        load_config(Stage1Config, [str(recipe)])

    assert not (tmp_path / "mark").exists()


def test_the_settings_of_a_run_run_nothing(text, tmp_path):
    folder = RunFolder(tmp_path)
    folder.config_yaml.write_text(text)

    with pytest.raises(ConfigError, match=r"config\.yaml: this is no plain YAML") as caught:
        read_saved_config(folder)

    assert "\n" not in str(caught.value)
    assert not (tmp_path / "mark").exists()


def test_a_run_is_not_compared_nor_sent_by_such_settings(text, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "tracking.json").write_text("{}")

    for read in (read_folder, sync_run):
        with pytest.raises(ConfigError, match="this is no plain YAML"):
            read(tmp_path, uri="")

    assert not (tmp_path / "mark").exists()


def test_a_word_is_not_yaml_with_tags_either(tmp_path):
    word = f"seed=!!python/object/apply:os.mkdir [{tmp_path / 'mark'}]"

    with pytest.raises(ConfigError, match="seed: expected int"):
        load_config(Stage1Config, [word])

    assert not (tmp_path / "mark").exists()
