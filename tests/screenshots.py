"""Pictures for the README, of the finished demo in a real browser.

    python -m tests.screenshots runs/demo data/demo runs/demo/report.html tests/pictures

Nothing of the demo is changed: MLflow serves a copy of its store.
"""

import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.helpers.browser import open_browser
from tests.helpers.servers import serve_mlflow, serve_page

SIZE = {"width": 1400, "height": 860}
NUM_COLORS = 256
# The page opens with what it offers for language models.
MODEL_TRAINING = "workflowType=machine_learning"
COLUMNS = (
    "tags.`stage`",
    "metrics.`dev/bleu4`",
    "metrics.`dev/rouge_l`",
    "metrics.`test/bleu4`",
    "metrics.`test/rouge_l`",
)


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Two runs of a pipeline, by their ids in MLflow."""

    experiment: str
    pipeline: str
    compared: tuple[str, str]
    names: tuple[str, str]
    others: tuple[str, ...]
    """Runs of the experiment that are neither of the two."""


def read_runs(folders: tuple[Path, Path]) -> Runs:
    """Find what MLflow has of two run folders beside their `mlflow.db`."""
    written = [json.loads((folder / "mlflow_run.json").read_text()) for folder in folders]
    ids = (written[0]["run_id"], written[1]["run_id"])
    with closing(sqlite3.connect(folders[0].parent / "mlflow.db")) as store:
        rows = store.execute("SELECT run_uuid, name, experiment_id FROM runs").fetchall()
    names = {run: name for run, name, _ in rows}
    experiment = next(str(number) for run, _, number in rows if run == ids[0])
    return Runs(
        experiment=experiment,
        pipeline=written[0]["parent_run_id"],
        compared=ids,
        names=(names[ids[0]], names[ids[1]]),
        others=tuple(run for run in names if run not in ids),
    )


def picture_mlflow(browser: Browser, url: str, runs: Runs, out: Path) -> None:
    """Table, curves, translations side by side, and the comparison of two runs."""
    table = f"{url}#/experiments/{runs.experiment}/runs?{MODEL_TRAINING}"
    compared = json.dumps(runs.compared, separators=(",", ":"))
    views = {
        "mlflow_runs": (table, _show_runs),
        "mlflow_charts": (f"{table}&compareRunsMode=CHART", _show_charts),
        "mlflow_translations": (f"{table}&compareRunsMode=ARTIFACT", _show_translations),
        "mlflow_compare": (
            f'{url}#/compare-runs?runs={compared}&experiments=["{runs.experiment}"]'
            f"&{MODEL_TRAINING}",
            _show_comparison,
        ),
    }
    for name, (address, show) in views.items():
        with _open_page(browser, _view_of(runs)) as page:
            page.goto(address)
            show(page)
            for run in runs.names:
                page.get_by_text(run).first.wait_for()
            _take(page, out / f"{name}.png")


def picture_report(browser: Browser, report: Path, out: Path) -> None:
    """The beginning of the comparison of two runs."""
    with _open_page(browser) as page:
        # All that it needs is in the file.
        page.context.set_offline(True)
        page.goto(report.absolute().as_uri())
        _take(page, out / "report.png")


def picture_page(browser: Browser, url: str, video: Path, out: Path) -> None:
    """A recording, translated, with a subtitle on it."""
    with _open_page(browser) as page:
        page.goto(url)
        page.set_input_files("#video input[type=file]", video)
        page.locator("#video video").wait_for()
        page.get_by_role("button", name="Translate").click()
        player = page.locator("#answer video")
        page.wait_for_function("document.querySelector('#answer video')?.readyState >= 2")
        # The middle of the first sentence.
        player.evaluate(
            "it => {const cue = it.textTracks[0].cues[0];"
            "it.currentTime = (cue.startTime + cue.endTime) / 2; it.controls = false}"
        )
        _take(page, out / "page.png")


def _show_runs(page: Page) -> None:
    page.get_by_text("dev/bleu4").first.wait_for()


def _show_charts(page: Page) -> None:
    # Two curves in each of the first charts.
    page.locator(".js-plotly-plot .scatterlayer .trace").nth(5).wait_for(state="attached")


def _show_translations(page: Page) -> None:
    page.get_by_role("combobox", name="group by").click()
    for column in ("reference", "id"):
        page.get_by_role("option", name=column).click()
    page.keyboard.press("Escape")
    page.get_by_role("combobox", name="selected option").last.click()
    page.get_by_role("option", name="hypothesis").click()
    expect(page.get_by_role("columnheader", name="hypothesis").first).to_be_visible()


def _show_comparison(page: Page) -> None:
    for section in ("Visualizations", "Parameters"):
        page.get_by_text(section, exact=True).click()
    page.get_by_text("dev/bleu4").first.wait_for()


@contextmanager
def _open_page(browser: Browser, remembered: dict[str, str] | None = None) -> Iterator[Page]:
    """A page whose site finds in its memory what it had left there."""
    context = browser.new_context(viewport=SIZE, locale="en-GB")  # type: ignore[arg-type]
    context.add_init_script(
        f"for (const [key, value] of Object.entries({json.dumps(remembered or {})}))"
        " localStorage.setItem(key, value)"
    )
    yield context.new_page()
    context.close()


def _view_of(runs: Runs) -> dict[str, str]:
    """What MLflow's page remembers of a user who unfolded a pipeline and chose two of its runs."""
    state = {
        "selectedColumns": COLUMNS,
        "runsExpanded": {runs.pipeline: True},
        "runsHidden": runs.others,
        "runsVisibilityMap": dict.fromkeys(runs.others, False),
        "runsHiddenMode": "CUSTOM",
    }
    page = f'MLflowLocalStorage-1.1-ExperimentPage-["{runs.experiment}"]-ReactComponentState'
    return {
        page: json.dumps(state),
        "mlflow.assistant.panelOpen_v1": "false",
        "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    }


def _take(page: Page, path: Path) -> None:
    """Write what is to be seen, in few colors, in a third of the bytes."""
    # Charts and menus move for a moment.
    page.wait_for_timeout(700)
    page.screenshot(path=path)
    with Image.open(path) as image:
        image.convert("RGB").quantize(NUM_COLORS, dither=Image.Dither.NONE).save(
            path, optimize=True
        )


def main() -> None:
    runs, data, report, out = map(Path, sys.argv[1:])
    video = min((data / "video_level/test/rgb_front/raw_videos").glob("*.mp4"))
    out.mkdir(parents=True, exist_ok=True)
    with open_browser() as browser, TemporaryDirectory() as folder:
        temporary = Path(folder)
        with serve_mlflow(runs / "mlflow.db", temporary=temporary) as server:
            found = read_runs((runs / "stage1", runs / "stage2"))
            picture_mlflow(browser, server.url, found, out)
        picture_report(browser, report, out)
        with serve_page(runs / "stage2" / "export", temporary=temporary) as server:
            picture_page(browser, server.url, video, out)
    print("\n".join(f"{path} {path.stat().st_size}" for path in sorted(out.glob("*.png"))))


if __name__ == "__main__":
    main()
