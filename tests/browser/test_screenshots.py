"""The pictures of the README show what they are to show, of runs of a real tracker."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from fla.run_folder import open_run_folder
from fla.tracking import open_tracker
from tests.helpers.servers import serve_mlflow
from tests.screenshots import SIZE, picture_mlflow, read_runs

TRANSLATIONS = {"id": ["a", "b"], "reference": ["The cat.", "The dog."]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of a pipeline, with two points of a curve and translations."""
    folder = tmp_path_factory.mktemp("runs")
    for number in (1, 2):
        tracker = open_tracker(
            run_folder=open_run_folder(folder / f"stage{number}"),
            uri="",
            experiment="demo",
            run_name=f"stage{number}-seed1",
            pipeline="demo",
            params={"stage": number},
            tags={"stage": f"stage{number}"},
        )
        with tracker:
            for step in (1, 2):
                scores = {f"dev/{name}": 10.0 * number * step for name in ("bleu4", "rouge_l")}
                tracker.log(scores | {"dev/chrf2": 40.0}, step=step)
    found = read_runs((folder / "stage1", folder / "stage2"))
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    for run, hypothesis in zip(found.compared, ("A cat.", "The cat."), strict=True):
        table = TRANSLATIONS | {"hypothesis": [hypothesis, "The dog."]}
        client.log_table(run, table, "translations/test.json")
    return folder


@pytest.mark.slow
def test_mlflow_shows_both_runs_in_every_picture(browser, runs: Path, tmp_path: Path):
    found = read_runs((runs / "stage1", runs / "stage2"))

    with serve_mlflow(runs / "mlflow.db", temporary=tmp_path) as server:
        picture_mlflow(browser, server.url, found, tmp_path)

    names = ("runs", "charts", "translations", "compare")
    for path in (tmp_path / f"mlflow_{name}.png" for name in names):
        with Image.open(path) as image:
            assert image.size == (SIZE["width"], SIZE["height"])
        assert path.stat().st_size < 150_000
