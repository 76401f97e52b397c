"""Ablations: expansion into runs, order, resuming, Slurm's script, and the written table."""

import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from fla.ablation.drawing import draw_svg
from fla.ablation.execute import execute
from fla.ablation.listing import describe_plan
from fla.ablation.norms import collect_norms
from fla.ablation.plan import Plan, Run, make_plan
from fla.ablation.report import as_json, render_markdown, tell_ordering
from fla.ablation.scores import CheckedOrdering, collect
from fla.ablation.seed_mean import compare_over_seeds
from fla.ablation.settings import Settings, sort_words
from fla.ablation.slurm import describe_jobs
from fla.ablation.state import check_plan, describe_state, is_done, is_trained
from fla.ablation.tables import NAMES, Ordering, build_table, parse_name
from fla.compare.charts import draw_curves
from fla.config.load import load_config, save_config
from fla.continuation import is_finished
from fla.errors import ConfigError, DataError, FlaError, RunStopped
from fla.journal import append_row
from fla.metrics.protocols import find_protocol
from fla.metrics.scores import score
from fla.metrics.significance import compare_systems
from fla.run_folder import DecodedRow, mark_complete, open_run_folder, write_decodes, write_json
from tests.helpers.commands import ROOT, environment, python, run

REFERENCES = ("The cat is red.", "The dog runs to the house.", "We eat an apple today.")
GOOD = REFERENCES
FAIR = ("The cat is red.", "The dog runs to a house.", "We eat bread today.")
BAD = ("A dog.", "The cat is here.", "We sleep.")


@dataclass(frozen=True)
class Bench:
    """A folder with what the checks of a recipe look for."""

    path: Path

    def settings(self, table: str, *words: str, corpus: str = "demo", mt5: str = "") -> Settings:
        _, words1, words2 = sort_words(words)
        return Settings(
            table=table,
            recipe1=str(ROOT / f"launchers/recipes/{corpus}_stage1.yaml"),
            recipe2=str(ROOT / f"launchers/recipes/{corpus}_stage2.yaml"),
            words1=words1,
            words2=words2,
            mt5_dir=mt5,
        )

    def plan(
        self,
        table: str,
        *words: str,
        corpus: str = "demo",
        mt5: str = "",
        seeds: tuple[int, ...] = (1,),
        num_gpus: int = 1,
    ) -> Plan:
        return make_plan(
            self.settings(table, *words, corpus=corpus, mt5=mt5),
            seeds=seeds,
            num_gpus=num_gpus,
            folder=self.path / "tables",
        )

    def checkable(self, table: str, *words: str, num_gpus: int = 1) -> Plan:
        """A plan whose data, tokenizer and LLM are there."""
        for split in ("train", "dev", "test"):
            (self.path / f"{split}.tsv").touch()
        (self.path / "config.json").touch()
        words = (
            f"data.manifest_dir={self.path}",
            f"text.tokenizer_dir={self.path}",
            f"stage2.model.llm_dir={self.path}",
            *words,
        )
        return self.plan(table, *words, num_gpus=num_gpus)


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    # Recipes name ds_configs/ from here.
    monkeypatch.chdir(ROOT)
    return Bench(tmp_path)


def stages(plan: Plan) -> list[int]:
    return [run.stage for run in plan.runs]


def row_run(plan: Plan, name: str) -> Run:
    return plan.run(plan.results[name, plan.seeds[0]])


# Tables


@pytest.mark.parametrize("word", ["9", "table 9", "Table9", "TABLE-9"])
def test_tables_are_known_by_what_users_call_them(word):
    assert parse_name(word) == "9"


def test_figures_are_known_by_what_users_call_them():
    assert [parse_name(word) for word in ("fig2", "Fig. 2", "figure 4")] == ["fig2", "fig2", "fig4"]


def test_other_tables_are_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"^11: the paper has no .*4, 5, .*, fig2, fig4\.$"):
        parse_name("11")


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_of_every_table_is_the_method_itself(name):
    table = build_table(name, num_epochs=75)
    reference = next(row for row in table.rows if row.name == table.reference)

    assert reference.bleu4 == 23.09
    assert all(pair.difference is None or pair.difference > 0 for pair in table.orderings)


# Expansion


@pytest.mark.parametrize("corpus", ["demo", "phoenix14t", "csl_daily", "how2sign"])
@pytest.mark.parametrize("table", NAMES)
def test_every_table_expands_with_the_recipes_of_every_corpus(bench, table, corpus):
    words = ("stage1.model.backbone_weights=resnet18.pth",) if corpus == "demo" else ()

    plan = bench.plan(table, *words, corpus=corpus, mt5="mt5", seeds=(1, 2))

    assert {run.config.tracking.experiment for run in plan.runs} == {"tables-ablations"}
    assert all(load_config(type(it.config), it.words) == it.config for it in plan.runs[:3])
    assert {run.config.seed for run in plan.runs} == {1, 2}
    assert len({run.config.run_dir for run in plan.runs}) == len(plan.runs)
    assert len(plan.results) == 2 * len(plan.table.rows)


def test_the_rows_of_table_9_share_one_run_of_stage_1(bench):
    plan = bench.plan("9")

    assert stages(plan) == [1, 2, 2, 2]
    assert [run.needs for run in plan.runs[1:]] == ["stage1_seed1"] * 3
    assert [run.config.model.freeze for run in plan.runs[1:]] == ["nothing", "backbone", "all"]
    assert [run.is_decoded for run in plan.runs] == [False, True, True, True]


def test_rows_of_a_table_have_the_same_precision(bench):
    configs = [run.config.deepspeed for run in bench.plan("9").runs[1:]]

    assert configs == ["ds_configs/zero3_autocast.json"] * 3


def test_a_precision_that_suits_all_rows_stays(bench):
    plan = bench.plan("9", "stage2.deepspeed=ds_configs/zero3_fp32.json")

    assert {run.config.deepspeed for run in plan.runs[1:]} == {"ds_configs/zero3_fp32.json"}


def test_cached_features_become_online_where_an_encoder_is_trained(bench):
    modes = [
        {run.config.features.mode for run in plan.runs if run.stage == 2}
        for plan in (
            bench.plan("9", "stage2.features=cached"),
            bench.plan("8", "stage2.features=cached"),
        )
    ]

    assert modes == [{"online"}, {"cached"}]


def test_each_rate_of_table_6_has_its_own_stage_1_and_the_same_seconds_of_video(bench):
    plan = bench.plan("6", corpus="phoenix14t")

    assert stages(plan) == [1, 2] * 4
    for each in plan.runs:
        before = plan.run(each.needs) if each.needs else each
        assert each.config.data.frame_stride == before.config.data.frame_stride
    data = [run.config.data for run in plan.runs[1::2]]
    assert [(it.frame_stride, it.max_frames) for it in data] == [
        (1, 300),
        (2, 150),
        (4, 75),
        (8, 38),
    ]
    assert [it.frames_per_batch for it in data] == [2400, 1200, 600, 600]


def test_frames_that_a_user_names_are_those_of_the_recipes_own_rate(bench):
    plan = bench.plan("6", "data.max_frames=100", "data.frames_per_batch=300", corpus="phoenix14t")

    data = [run.config.data for run in plan.runs]
    assert [it.max_frames for it in data] == [400, 400, 200, 200, 100, 100, 50, 50]
    assert [it.frames_per_batch for it in data] == [1200, 1200, 600, 600, 300, 300, 300, 300]


def test_the_sizes_of_table_7_reach_stage_2_by_its_encoder_alone(bench):
    plan = bench.plan("7", corpus="phoenix14t")

    assert stages(plan) == [1, 2] * 4
    assert [run.config.model.light_t for run in plan.runs[::2]] == [
        "tiny",
        "small",
        "base",
        "large",
    ]
    assert [run.config.model.encoder_export for run in plan.runs[1::2]] == [
        str(run.folder.export) for run in plan.runs[::2]
    ]
    # Base is the recipe's own.
    assert [run.name for run in plan.runs[4:6]] == ["stage1_seed1", "stage2_seed1"]


def test_the_end_to_end_row_of_table_4_has_the_encoder_of_stage_1_untrained(bench):
    plan = bench.plan("4", corpus="phoenix14t")
    end_to_end = row_run(plan, "end to end")

    assert stages(plan) == [2, 1, 2]
    assert end_to_end.needs == ""
    assert end_to_end.config.model.encoder_export == ""
    assert end_to_end.config.model.backbone_weights == "models/resnet18-f37072fd.pth"
    assert end_to_end.config.model.freeze == "nothing"


def test_a_row_of_table_5_is_stage_1s_own_translations(bench):
    plan = bench.plan("5", corpus="phoenix14t")

    assert row_run(plan, "stage 1 only").name == "stage1_seed1"
    assert row_run(plan, "both stages").needs == "stage1_seed1"
    assert row_run(plan, "stage 2 only").config.model.freeze == "backbone"
    assert all(run.is_decoded for run in plan.runs)


def test_table_5_needs_the_weights_of_imagenet(bench):
    with pytest.raises(ConfigError, match=r"Add stage1\.model\.backbone_weights=FILE"):
        bench.plan("5")


def test_table_10_has_mt5_where_its_folder_is_named(bench):
    without, having = bench.plan("10"), bench.plan("10", mt5="models/mt5-base")

    assert len(without.table.rows) == 2
    assert "mT5, random, mT5, pretrained" in without.table.notes[-1]
    assert stages(having) == [1, 2, 2, 2, 2]
    random = row_run(having, "mT5, random").config
    assert (random.model.llm_dir, random.text.tokenizer_dir) == ("models/mt5-base",) * 2
    assert random.model.random_llm


@pytest.mark.parametrize(
    ("corpus", "epochs"), [("phoenix14t", [25, 50, 75, 100]), ("demo", [1, 2, 3, 4])]
)
def test_figure_4_takes_the_papers_lengths_in_proportion(bench, corpus, epochs):
    plan = bench.plan("fig4", corpus=corpus)

    assert [run.config.train.num_epochs for run in plan.runs if run.stage == 1] == epochs
    assert "is assumed" in plan.table.notes[0]


def test_figure_4_of_one_epoch_still_has_a_longer_one():
    table = build_table("fig4", num_epochs=1)

    assert [row.name for row in table.rows] == ["1 epoch", "2 epochs"]


def test_seeds_come_one_after_the_other(bench):
    plan = bench.plan("9", seeds=(1, 2, 3))

    assert stages(plan) == [1, 2, 2, 2] * 3
    assert [run.config.seed for run in plan.runs] == [1] * 4 + [2] * 4 + [3] * 4


def test_tables_of_one_folder_share_runs(bench):
    of_8, of_7, of_4, of_9 = (
        {run.name: run.config for run in bench.plan(name, corpus="phoenix14t").runs}
        for name in ("8", "7", "4", "9")
    )

    assert of_8["stage2_seed1"] == of_7["stage2_seed1"]
    assert of_4["stage2_zero3_autocast_seed1"] == of_9["stage2_zero3_autocast_seed1"]
    assert {it["stage1_seed1"] for it in (of_8, of_7, of_4, of_9)} == {of_8["stage1_seed1"]}


def test_a_stage_2_is_gathered_with_its_stage_1_in_mlflow(bench):
    names = [run.config.tracking.pipeline for run in bench.plan("7", corpus="phoenix14t").runs]

    assert names[:2] == ["light_t-tiny_seed1"] * 2
    assert names[4:6] == ["recipe_seed1"] * 2


# What is refused


@pytest.mark.parametrize(
    ("table", "word", "message"),
    [
        ("9", "stage2.model.freeze=all", r"stage2\.model\.freeze: Table 9 sets this key itself"),
        ("9", "seed=3", r"stage1\.seed: Table 9 sets this key itself"),
        ("6", "data.target_fps=6", r"Add stage1\.data\.target_fps=0\."),
        ("fig4", "stage1.train.max_steps=3", r"Add stage1\.train\.max_steps=0\."),
        ("8", "stage1.train.num_epoch=3", r"train\.num_epoch: .*Did you mean: 'num_epochs'"),
    ],
)
def test_words_that_contradict_a_table_are_refused(bench, table, word, message):
    with pytest.raises(ConfigError, match=message):
        bench.plan(table, word)


def test_a_word_is_for_both_stages_or_for_one():
    words = ["a.yaml", "b.yaml", "x.y=1", "stage1.x.z=2", "stage2.w=3"]

    assert sort_words(words) == (("a.yaml", "b.yaml"), ("x.y=1", "x.z=2"), ("x.y=1", "w=3"))


def test_exports_that_the_plan_makes_need_not_be_there(bench):
    check_plan(bench.checkable("9"))


def test_what_is_missing_is_told_once_for_all_runs(bench):
    plan = bench.checkable("9")
    (bench.path / "dev.tsv").unlink()

    with pytest.raises(ConfigError) as caught:
        check_plan(plan)

    assert str(caught.value).startswith(f"data.manifest_dir ({bench.path}): there is no dev.tsv")
    assert len(str(caught.value).splitlines()) == 1


def test_batches_are_checked_for_the_number_of_gpus(bench):
    plan = bench.checkable("9", num_gpus=3)

    with pytest.raises(ConfigError, match=r"a multiple of train\.micro_batch_size x world size"):
        check_plan(plan)


def test_a_folder_with_runs_of_other_settings_is_refused(bench):
    write_trained(bench.checkable("9").runs[0])
    plan = bench.checkable("9", "stage1.optim.learning_rate=1e-4")

    with pytest.raises(ConfigError, match=r"optim\.learning_rate was .* another folder with --dir"):
        check_plan(plan)


@pytest.mark.parametrize("word", ["stage1.train.num_epochs=7", "train.max_steps=50"])
def test_a_folder_with_runs_of_another_length_is_refused(bench, word):
    write_trained(bench.checkable("9").runs[0])
    plan = bench.checkable("9", word)

    assert not is_trained(plan.runs[0])
    with pytest.raises(ConfigError, match=rf"{word.removeprefix('stage1.').partition('=')[0]} was"):
        check_plan(plan)


def test_a_run_that_died_before_its_first_checkpoint_may_have_other_settings(bench):
    first = bench.checkable("9").runs[0]
    save_config(first.config, open_run_folder(first.folder.path).config_yaml)
    plan = bench.checkable("9", "stage1.optim.learning_rate=1e-4")

    check_plan(plan)

    checkpoint = first.folder.checkpoint(4)
    checkpoint.mkdir()
    mark_complete(checkpoint)
    with pytest.raises(ConfigError, match=r"optim\.learning_rate was"):
        check_plan(plan)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # Begun anew, made longer, and gone.
        (["2026-11-02T10:00:00+00:00"], "done"),
        (["2026-11-01T10:00:00+00:00", "2026-11-02T10:00:00+00:00"], "done"),
        ([], "done"),
        (["2026-11-02T10:00:00+00:00"], "stopped"),
    ],
)
def test_a_stage_2_of_another_stage_1_than_there_is_now_is_refused(bench, first, second):
    plan = bench.checkable("9")
    write_trained(plan.runs[0], "2026-11-01T10:00:00+00:00", "2026-11-01T11:00:00+00:00")
    for it in plan.runs[1:]:
        write_trained(it, "2026-11-01T12:00:00+00:00", "2026-11-03T12:00:00+00:00")
    check_plan(plan)
    stage1, stage2 = (it.folder for it in plan.runs[:2])

    if second == "stopped":
        (stage2.path / "DONE").unlink()
        stage2.checkpoint(4).mkdir()
        mark_complete(stage2.checkpoint(4))
    if first:
        write_json(stage1.provenance_json, started_at(*first))
    else:
        shutil.rmtree(stage1.path)

    with pytest.raises(ConfigError, match=rf"{stage2.path} was trained on another"):
        check_plan(plan)


# Run folders made by hand


def started_at(*times: str) -> dict[str, object]:
    """Provenance of a run that was started then."""
    *earlier, last = ({"started": time} for time in times)
    return {**last, "earlier_starts": earlier}


def write_trained(run: Run, *starts: str) -> None:
    """What training leaves, as far as a plan looks at it."""
    folder = open_run_folder(run.folder.path)
    write_json(folder.provenance_json, started_at(*(starts or ("2026-11-01T10:00:00+00:00",))))
    save_config(run.config, folder.config_yaml)
    (folder.path / "DONE").touch()
    folder.export.mkdir(exist_ok=True)
    (folder.export / "config.json").touch()


def write_decoded(
    run: Run,
    hypotheses: tuple[str, ...],
    *,
    references: tuple[str, ...] = REFERENCES,
    protocol: str = "text",
) -> None:
    """What decoding leaves."""
    scores = score(hypotheses, references, protocol=find_protocol(protocol))
    rows = [
        DecodedRow(str(number), *texts)
        for number, texts in enumerate(zip(hypotheses, references, strict=True))
    ]
    write_decodes(run.folder.decodes_tsv("export", "test"), rows, signature=scores.signature)
    beam = run.config.beam
    entry = {
        **scores.as_dict(),
        "dtype": "float32",
        "shuffle_videos": False,
        "beam": {
            "num_beams": beam.num_beams,
            "length_penalty": beam.length_penalty,
            "max_new_tokens": beam.max_new_tokens,
        },
    }
    write_json(run.folder.scores_json, {"test": entry})


def write_plan(plan: Plan, hypotheses: Mapping[tuple[str, int], tuple[str, ...]]) -> None:
    """All of a plan; hypotheses by row and seed."""
    for run_ in plan.runs:
        write_trained(run_)
    for key, texts in hypotheses.items():
        write_decoded(plan.run(plan.results[key]), texts)


# Resuming


def test_a_run_is_trained_when_its_folder_says_so_of_the_same_settings(bench):
    plan = bench.plan("9")
    changed = bench.plan("9", "stage1.optim.learning_rate=1e-4")
    states = [is_trained(plan.runs[0])]
    write_trained(plan.runs[0])

    states += [is_trained(plan.runs[0]), is_trained(changed.runs[0])]

    assert states == [False, True, False]
    # As the run itself says, which would not train again.
    assert states[1:] == [is_finished(it.runs[0].config) for it in (plan, changed)]


def test_what_decides_no_row_starts_no_run_again(bench):
    write_trained(bench.plan("9").runs[0])

    assert is_trained(bench.plan("9", "data.num_threads=1", "tracking.uri=sqlite:///x.db").runs[0])


def test_a_row_is_done_when_it_was_translated_after_its_training(bench):
    last = bench.plan("9").runs[-1]
    states = [describe_state(last)]
    write_trained(last)
    states.append(describe_state(last))
    write_decoded(last, GOOD)
    states.append(describe_state(last))
    later = last.folder.scores_json.stat().st_mtime + 10
    os.utime(last.folder.path / "DONE", (later, later))
    states.append(describe_state(last))

    assert states == ["new", "to translate", "done", "to translate"]


def test_translations_by_another_search_do_not_count(bench):
    last = bench.plan("9").runs[-1]
    write_trained(last)
    write_decoded(last, GOOD)

    assert is_done(last)
    assert not is_done(bench.plan("9", "beam.num_beams=3").runs[-1])


def test_the_list_has_runs_states_and_words(bench):
    plan = bench.plan("9")
    write_trained(plan.runs[0])

    text = describe_plan(plan)

    assert "4 runs for 3 rows and 1 seed(s)" in text
    assert "; 1 done." in text
    assert "stage1_seed1: done\n" in text
    assert ': new, after stage1_seed1; its scores: "backbone"\n' in text
    assert "    launchers/stage2.py " in text


# Executing, with a launcher that only pretends

LAUNCHER = """#!{python}
import pathlib, sys
words = sys.argv[1:]
script = next(i for i, word in enumerate(words) if word.endswith(".py"))
given = dict(word.split("=", 1) for word in words[script + 1 :] if "=" in word)
name = pathlib.Path(given.get("run_dir") or given["export_dir"][: -len("/export")]).name
with open({calls!r}, "a") as file:
    file.write(f"{{words[script]}} {{name}}\\n")
if {fails!r} and {fails!r} in name:
    print("something before\\nerror: x.y (3): it is wrong. Mend it.\\n[launcher] exits")
    sys.exit(2)
"""


def pretend(bench: Bench, *, fails: str = "") -> Path:
    path = bench.path / "deepspeed"
    calls = str(bench.path / "calls")
    path.write_text(LAUNCHER.format(python=sys.executable, calls=calls, fails=fails))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def calls(bench: Bench) -> list[str]:
    return (bench.path / "calls").read_text().splitlines()


def test_runs_are_started_in_order_each_with_its_translation(bench):
    plan = bench.plan("8")

    execute(plan, launcher=pretend(bench))

    assert calls(bench) == [
        "launchers/stage1.py stage1_seed1",
        "launchers/stage2.py stage2_input_features-frame-wise_seed1",
        "launchers/decode.py stage2_input_features-frame-wise_seed1",
        "launchers/stage2.py stage2_seed1",
        "launchers/decode.py stage2_seed1",
        "launchers/stage2.py stage2_input_features-light-t_seed1",
        "launchers/decode.py stage2_input_features-light-t_seed1",
    ]


def test_what_is_done_is_not_started_again(bench):
    plan = bench.plan("8")
    first, second, third, fourth = plan.runs
    for it in (first, second, third):
        write_trained(it)
    write_decoded(second, GOOD)

    execute(plan, launcher=pretend(bench))

    assert calls(bench) == [
        f"launchers/decode.py {third.name}",
        f"launchers/stage2.py {fourth.name}",
        f"launchers/decode.py {fourth.name}",
    ]


def test_a_run_that_fails_ends_the_table_with_its_own_words(bench):
    plan = bench.plan("8")

    with pytest.raises(FlaError) as caught:
        execute(plan, launcher=pretend(bench, fails="frame-wise"))

    log = plan.folder / "logs" / "stage2_input_features-frame-wise_seed1.log"
    assert caught.value.exit_code == 1
    assert str(caught.value) == (
        "Train stage2_input_features-frame-wise_seed1 (2 of 4) ended with code 2: x.y (3): it is "
        f"wrong. Mend it. All of it is in {log}. When it is mended, the same command goes on from "
        "here."
    )
    assert len(calls(bench)) == 2
    assert "something before" in log.read_text()


SEEING = """#!{python}
import os, sys
print(*map(os.environ.get, ("CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR")), *sys.argv[1:3])
"""


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("3,5,7", "3,5 None --master_port"),
        ("", " None --num_gpus 2"),
        ("-1", "-1 cpu --num_gpus 2"),
        (None, "None None --num_gpus 2"),
    ],
)
def test_runs_are_on_the_gpus_that_a_user_chose(bench, monkeypatch, capfd, visible, expected):
    launcher = bench.path / "deepspeed"
    launcher.write_text(SEEING.format(python=sys.executable))
    launcher.chmod(0o755)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    execute(bench.plan("8", num_gpus=2), launcher=launcher)

    log = bench.path / "tables" / "logs" / "stage1_seed1.log"
    assert log.read_text().startswith(expected)
    assert ("$ CUDA_VISIBLE_DEVICES=3,5 deepspeed" in capfd.readouterr().out) == (
        visible == "3,5,7"
    )


@pytest.mark.parametrize("visible", ["3", "3,3", "GPU-8932f937,GPU-d72c5b3a"])
def test_gpus_that_are_too_few_or_have_no_numbers_are_refused(bench, monkeypatch, visible):
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    with pytest.raises(
        ConfigError, match=rf"^CUDA_VISIBLE_DEVICES \({visible}\) must have at least"
    ):
        execute(bench.plan("8", num_gpus=2), launcher=pretend(bench))

    assert not (bench.path / "calls").exists()
    plan = bench.plan("8", num_gpus=2)
    write_plan(plan, {(row.name, 1): GOOD for row in plan.table.rows})
    # Nothing is left to do on them.
    execute(plan, launcher=pretend(bench))


STOPPABLE = """#!{python}
import pathlib, signal, sys, time
folder = pathlib.Path({folder!r})
def stop(number, frame):
    (folder / "saved").touch()
    print("saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
(folder / "started").touch()
print("goes on", flush=True)
time.sleep(60)
"""


def test_a_table_that_is_terminated_lets_its_run_save(bench):
    plan = bench.plan("8")
    launcher = bench.path / "deepspeed"
    launcher.write_text(STOPPABLE.format(python=sys.executable, folder=str(bench.path)))
    launcher.chmod(0o755)

    def terminate() -> None:
        while not (bench.path / "started").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    with pytest.raises(RunStopped, match="The same command goes on with it") as caught:
        execute(plan, launcher=launcher)

    assert caught.value.exit_code == 75
    assert (bench.path / "saved").exists()
    assert (plan.folder / "logs" / "stage1_seed1.log").read_text() == "goes on\nsaved\n"


# Slurm

SBATCH = """#!{python}
import os, subprocess, sys
script = sys.stdin.read()
print("options", *sys.argv[1:], file=open({log!r}, "a"))
array = next(word for word in sys.argv if word.startswith("--array="))
for task in range(int(array.rpartition("-")[2]) + 1):
    shown = script.replace("exec bash launchers/slurm/train.sbatch", "printf '%s '")
    subprocess.run(["bash"], input=shown, text=True, check=True, stdout=open({log!r}, "a"),
                   env={{**os.environ, "SLURM_ARRAY_TASK_ID": str(task)}})
    print(file=open({log!r}, "a"))
print(10 + len(array))
"""


def submit(bench: Bench, plan: Plan) -> list[str]:
    """Run the script with an sbatch that notes its options and each task's words."""
    log = bench.path / "submitted"
    fake = bench.path / "bin" / "sbatch"
    fake.parent.mkdir()
    fake.write_text(SBATCH.format(python=sys.executable, log=str(log)))
    fake.chmod(0o755)
    script = bench.path / "jobs.sh"
    script.write_text(describe_jobs(plan, command="python tools/run_ablation.py 9"))
    path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", str(script)], check=True, cwd=bench.path, env={**environment(), "PATH": path}
    )
    return log.read_text().splitlines()


def test_slurm_gets_an_array_a_level_each_after_the_ones_before(bench):
    plan = bench.plan("9", num_gpus=4)

    lines = submit(bench, plan)

    options = [line for line in lines if line.startswith("options")]
    assert [word for line in options for word in line.split() if "--array" in word] == [
        "--array=0-0",
        "--array=0-2",
        "--array=0-2",
    ]
    assert "--dependency" not in options[0]
    assert "--dependency=afterok:21" in options[1]
    assert "--dependency=afterok:21:21" in options[2]
    for word in ("--nodes=1", "--gpus-per-node=4", "--signal=B:USR1@300", "--requeue"):
        assert all(word in line.split() for line in options)


def test_slurms_tasks_have_the_words_of_the_runs(bench):
    plan = bench.plan("9")

    tasks = [line.split() for line in submit(bench, plan) if not line.startswith("options")]

    assert [tuple(words[1:]) for words in tasks[:4]] == [run.words for run in plan.runs]
    assert [words[0] for words in tasks] == [
        "launchers/stage1.py",
        *["launchers/stage2.py"] * 3,
        *["launchers/decode.py"] * 3,
    ]
    assert tuple(tasks[-1][1:]) == plan.runs[-1].decode_words


def test_slurm_leaves_out_what_is_done(bench):
    plan = bench.plan("9")
    write_trained(plan.runs[0])

    text = describe_jobs(plan, command="python tools/run_ablation.py 9")

    assert "launchers/stage1.py" not in text
    assert "second=" not in text
    assert text.endswith("this writes the table:\n#   python tools/run_ablation.py 9\n")


def test_limits_are_those_of_the_batch_script_however_they_are_written(bench, monkeypatch):
    sbatch = bench.path / "train.sbatch"
    sbatch.write_text(
        "#!/bin/bash\n#SBATCH --job-name=fla\n#SBATCH -N 2 --time=1:00:00\n#SBATCH -p gpu\n"
        "#SBATCH --account=a   # ours\n#SBATCH --comment='two words' --constraint=a100|h100\n"
        "#SBATCH --requeue\n# SBATCH --exclusive\n"
    )
    monkeypatch.setattr("fla.ablation.slurm.SBATCH", sbatch)

    text = describe_jobs(bench.plan("9"), command="")

    line = next(line for line in text.splitlines() if line.startswith("limits="))
    assert shlex.split(line.removeprefix("limits=(").removesuffix(")"))[3:] == [
        *("--time=1:00:00", "-p", "gpu", "--account=a", "--comment=two words"),
        *("--constraint=a100|h100", "--requeue"),
    ]


@pytest.mark.parametrize(("mode", "turns"), [("cached", "%1"), ("online", "")])
def test_runs_that_read_one_cache_of_features_take_turns(bench, mode, turns):
    plan = bench.plan("10", f"stage2.features.mode={mode}")

    lines = describe_jobs(plan, command="").splitlines()

    arrays = [word for line in lines for word in line.split() if word.startswith("--array=")]
    assert arrays == ["--array=0-0", f"--array=0-1{turns}", "--array=0-1"]


# The written table


def test_means_and_standard_deviations_are_those_of_the_seeds(bench):
    plan = bench.plan("9", seeds=(1, 2))
    rows = ("nothing", "backbone", plan.table.reference)
    write_plan(
        plan,
        {
            **{(rows[0], seed): BAD for seed in (1, 2)},
            (rows[1], 1): GOOD,
            (rows[1], 2): FAIR,
            **{(rows[2], seed): GOOD for seed in (1, 2)},
        },
    )
    fair = score(FAIR, REFERENCES, protocol=find_protocol("text")).bleu4

    results = collect(plan)

    spread = results.rows[1].spreads["bleu4"]
    assert spread.values == (pytest.approx(100), pytest.approx(fair))
    assert spread.mean == pytest.approx((100 + fair) / 2)
    # Of two numbers: their distance over the root of two.
    assert spread.deviation == pytest.approx((100 - fair) / 2**0.5)
    assert results.rows[2].spreads["bleu4"].deviation == 0
    assert [pair.agrees for pair in results.orderings] == [True, True, True]


def test_rows_of_other_sentences_are_not_compared(bench):
    plan = bench.plan("9")
    rows = [row.name for row in plan.table.rows]
    write_plan(plan, {(name, 1): GOOD for name in rows[:2]})
    write_decoded(row_run(plan, rows[2]), GOOD, references=BAD)

    with pytest.raises(DataError, match=r"its sentences are not those of .* The manifests have"):
        collect(plan)


def test_the_written_table_has_the_papers_numbers_beside_ours(bench):
    plan = bench.plan("9")
    rows = [row.name for row in plan.table.rows]
    write_plan(plan, {(rows[0], 1): FAIR, (rows[1], 1): BAD, (rows[2], 1): GOOD})

    results = collect(plan)
    text, content = render_markdown(results), as_json(results)

    line = next(line for line in text.splitlines() if line.startswith("| backbone and temporal"))
    assert line.split("|")[2:] == [
        " 100.00 ",
        " 100.00 ",
        "  ",
        "  ",
        " 23.09 ",
        " 45.27 ",
        "  ",
        "",
    ]
    assert "One seed has no standard deviation" in text
    assert "- backbone and temporal module above nothing by 5.23 BLEU-4 in the paper; here" in text
    assert "it does not agree." in text
    assert content["rows"][0]["scores"]["bleu4"]["deviation"] is None
    assert content["rows"][0]["tests"]["bleu4"]["bootstrap_p"] <= 1
    assert [it["agrees"] for it in content["orderings"]] == [False, True, True]


@pytest.mark.parametrize(
    ("difference", "end"),
    [
        (1.5, "here, too, by 1.50: it agrees."),
        (-1.5, "here it is below by 1.50: it does not agree."),
        (0.0, "here they are equal: it does not agree."),
    ],
)
def test_an_ordering_is_told_in_a_line(difference, end):
    paper = Ordering(better="a", worse="b", difference=3.0)

    told = tell_ordering(CheckedOrdering(paper=paper, difference=difference))

    assert told == f"a above b by 3.00 BLEU-4 in the paper; {end}"


def test_translations_of_other_sentences_are_refused(bench):
    plan = bench.plan("9")
    write_plan(plan, {(row.name, 1): GOOD for row in plan.table.rows})
    write_decodes(
        plan.runs[-1].folder.decodes_tsv("export", "test"),
        [DecodedRow("0", "a", "b")],
        signature="text.v1|",
    )

    with pytest.raises(
        DataError, match=r"1 sentences scored by text; .* has 3, .* Remove the file"
    ):
        collect(plan)


def test_one_seed_is_tested_as_any_two_systems_are():
    protocol = find_protocol("text")

    found = compare_over_seeds([GOOD], [BAD], REFERENCES, protocol=protocol)

    usual = compare_systems(GOOD, BAD, REFERENCES, protocol=protocol)
    assert found == {name: usual[name] for name in ("bleu4", "rouge_l")}


def test_the_same_outputs_from_more_seeds_are_no_more_evidence():
    protocol = find_protocol("text")

    once = compare_over_seeds([GOOD], [FAIR], REFERENCES, protocol=protocol)
    thrice = compare_over_seeds([GOOD] * 3, [FAIR] * 3, REFERENCES, protocol=protocol)

    for name in once:
        assert thrice[name].other == pytest.approx(once[name].other)
        assert thrice[name].randomisation_p == pytest.approx(once[name].randomisation_p, abs=0.02)


def test_the_tested_score_is_the_mean_of_the_seeds_scores():
    protocol = find_protocol("text")
    means = [score(texts, REFERENCES, protocol=protocol).bleu4 for texts in (FAIR, GOOD)]

    found = compare_over_seeds([BAD, BAD], [FAIR, GOOD], REFERENCES, protocol=protocol)

    assert found["bleu4"].other == pytest.approx(sum(means) / 2)


# Figure 2


def write_norms(run_: Run, norms: Mapping[str, tuple[float, float]]) -> None:
    """Two rows of metrics."""
    open_run_folder(run_.folder.path)
    for number, step in enumerate((10, 20)):
        metrics = {name: values[number] for name, values in norms.items()}
        append_row(run_.folder.metrics_jsonl, metrics, step=step)


def test_norms_are_averaged_over_seeds_and_compared_step_by_step(bench):
    plan = bench.plan("fig2", seeds=(1, 2))
    for run_ in plan.runs:
        size = run_.config.seed
        norms = {"train/grad_norm/translator": (2.0 * size, 2.0), "train/grad_norm/adapter": (1, 1)}
        if run_.stage == 1 or not run_.needs:
            norms["train/grad_norm/visual"] = (1.0, 3.0 * size)
        write_norms(run_, norms)

    end_to_end, first, second = collect_norms(plan)

    assert [(it.row, it.stage) for it in (end_to_end, first, second)] == [
        ("end to end", 2),
        ("factorized", 1),
        ("factorized", 2),
    ]
    assert end_to_end.curves["grad", "translator"] == ((10, 3.0), (20, 2.0))
    assert end_to_end.mean_of("grad", "visual") == (1 + 4.5) / 2
    assert end_to_end.share_above == 0.5
    assert second.share_above is None
    assert second.mean_of("grad", "visual") is None


def test_a_drawing_is_svg_whose_texts_stay_texts():
    charts = [
        draw_curves(title, {0: ("a", ((0, 1.0), (10, 2.0)))}, x_label="step")
        for title in ("first & second", "<third>", "fourth")
    ]

    root = ElementTree.fromstring(draw_svg(charts, columns=2, legend={0: "a < b"}))

    texts = [it.text for it in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"first & second", "<third>", "fourth", "a < b"} <= set(texts)
    assert (root.get("width"), root.get("height")) == ("600", "450")
    assert len([*root.iter("{http://www.w3.org/2000/svg}polyline")]) == 3


# The command


def test_help_and_lists_need_no_torch():
    script = "import runpy, sys\nsys.argv = ['run_ablation.py', '9', '--list']\n"
    script += "runpy.run_path('tools/run_ablation.py', run_name='__main__')\n"
    script += "print('torch' in sys.modules)"

    done = run(python("-c", script))

    assert done.stdout.splitlines()[0] == "Table 9: what stage 2 freezes"
    assert done.stdout.endswith("\nFalse\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["3"], "3: the paper has no such ablation. Name one of 4, 5, 6"),
        (["9", "one.yaml"], "one.yaml: name two recipes, of stage 1 and of stage 2, or none."),
        (["9", "--num-gpus", "0"], "--num-gpus (0) must be at least 1."),
    ],
)
def test_bad_words_get_a_sentence_and_code_2(words, message):
    done = run(python("tools/run_ablation.py", *words))

    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_printed_script_is_well_formed(bench):
    text = describe_jobs(bench.plan("6", seeds=(1, 2)), command="python tools/run_ablation.py 6")

    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
