"""Reports on a real MLflow store: the page, the tables, and what is said where a report cannot be made."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from analysis.frames import AnalysisError, epochs_frame, read
from analysis.reading.opening import open_store
from analysis.report.figures.contrasts import forest
from analysis.report.rendering.files import write_files
from analysis.report.sections import build_sections
from analysis.report.writing import write_report
from analysis.settings import Settings
from reproduce import schema
from tests.analysis.conftest import STARTED, build_store

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def page(tracking_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report("grid", tracking_uri=tracking_uri, out=tmp_path_factory.mktemp("report") / "grid")


def test_frames_hold_every_run_and_epoch(tracking_uri: str) -> None:
    recorded = read("grid", tracking_uri=tracking_uri)
    assert len(recorded.runs) == 12
    assert len(recorded.finished) == 11
    assert recorded.arms == ["heads-reduced", "heads-unreduced", "plain-reduced", "plain-unreduced"]
    assert len(recorded.epochs) == 11 * 4 + 1
    assert {"network.aux", schema.FINAL_TOP1, schema.TAG_GPU} <= set(recorded.runs.columns)
    assert recorded.epochs[schema.VAL_TOP1].notna().all()
    assert recorded.finished["error"].isna().all()


def test_of_several_attempts_the_last_written_epoch_counts(tracking_uri: str) -> None:
    client = MlflowClient(tracking_uri=tracking_uri)
    empty = client.get_experiment_by_name("empty")
    assert empty is not None
    run_id = client.create_run(empty.experiment_id).info.run_id  # without a key it is no run of ours
    later_first = [Metric(schema.VAL_TOP1, 0.6, 2000, 0), Metric(schema.VAL_TOP1, 0.9, 1000, 0)]
    client.log_batch(run_id, metrics=later_first)
    store = open_store(tracking_uri)
    runs = [run for run in store.runs(empty.experiment_id) if run.id == run_id]
    epochs, _ = epochs_frame(store, runs)
    store.close()
    assert epochs[schema.VAL_TOP1].tolist() == [0.6]


def test_infinity_is_read_back_and_left_out_of_means_and_figures(tmp_path: Path) -> None:
    uri = build_store(tmp_path)
    client = MlflowClient(tracking_uri=uri)
    grid = client.get_experiment_by_name("grid")
    assert grid is not None
    run = client.search_runs([grid.experiment_id], order_by=["start_time"])[0]
    norms = [
        Metric(f"{schema.GRADIENT_NORM}stem", value, STARTED + 10**6, epoch)
        for epoch, value in enumerate((math.inf, math.nan))
    ]
    client.log_batch(run.info.run_id, metrics=[*norms, Metric("final/odd", -math.inf, STARTED, 0)])
    (stored, _) = client.get_metric_history(run.info.run_id, "gradient/stem")[-2:]
    assert stored.value == sys.float_info.max  # what MLflow makes of it

    recorded = read("grid", tracking_uri=uri)
    mine = recorded.epochs[recorded.epochs["run_id"] == run.info.run_id]["gradient/stem"].tolist()
    assert mine[0] == math.inf
    assert math.isnan(mine[1])
    assert recorded.not_finite == {"gradient/stem": 2}
    assert recorded.finite_epochs["gradient/stem"].max() < 10
    assert -math.inf in recorded.runs["final/odd"].tolist()

    page = write_report("grid", tracking_uri=uri, out=tmp_path / "report").read_text(encoding="utf-8")
    assert (
        "Some recorded values are not finite, and means and figures leave them out: gradient/stem in 2 epochs." in page
    )
    assert "Norms that are not finite are left out (2 epochs of stage stem)." in page
    assert "e+308" not in (tmp_path / "report" / "epochs.csv").read_text(encoding="utf-8")
    assert math.inf in pd.read_csv(tmp_path / "report" / "epochs.csv")["gradient/stem"].tolist()


def test_runs_without_an_epoch_can_be_read(tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    tags = {schema.TAG_KEY: "k", schema.TAG_ARM: "a", schema.TAG_SEED: "0"}
    client.create_run(client.create_experiment("new", artifact_location=tmp_path.as_uri()), tags=tags)
    recorded = read("new", tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert (len(recorded.runs), len(recorded.epochs), recorded.not_finite) == (1, 0, {})


def test_a_table_of_effects_of_an_earlier_report_does_not_stay(tracking_uri: str, tmp_path: Path) -> None:
    write_report("claim-heads", tracking_uri=tracking_uri, out=tmp_path)
    assert (tmp_path / "tables" / "effects.tex").exists()
    write_report("single", tracking_uri=tracking_uri, out=tmp_path)
    assert not (tmp_path / "tables" / "effects.tex").exists()


def test_a_shared_gpu_and_missing_telemetry_are_among_the_limits(tracking_uri: str, tmp_path: Path) -> None:
    page = write_report("shared", tracking_uri=tracking_uri, out=tmp_path).read_text(encoding="utf-8")
    assert "Shared GPU busy, %" in page
    assert "energy is not attributed to single runs" in page
    assert "GPU telemetry is incomplete: NVML does not know device 7; it has GPU-a (1 run)." in page
    assert "Shared GPU busy, %" in (tmp_path / "results.md").read_text(encoding="utf-8")


def test_page_is_self_contained_and_well_formed(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    html_without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", html)
    assert not re.findall(r"https?://|@import|<link|<img|\bsrc=|url\((?!#)", html_without_namespaces)
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert len(html) < 400_000

    open_tags: list[str] = []

    class Balance(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in {"meta", "br", "input", "path", "circle", "rect", "use", "line"}:
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in {"path", "circle", "rect", "use", "line"}:
                assert open_tags.pop() == tag

    Balance().feed(html)
    assert open_tags == []


def test_the_page_shows_results_effects_failures_and_environment(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    for text in (
        "Auxiliary classifiers, both − none",
        "11 of 12",
        "NotFiniteLoss: loss is nan in epoch 1, step 17",
        "none: no NVML library on this machine",
        "0123456789ab with local changes",
        '<p class="lead">Heads and reductions of GoogLeNet on a small set.</p>',
        "<dd>ffcv 1.0.2, torch 2.9.0</dd>",
        "<dd>Test CPU, 2 cores</dd>",
        "Up to 2 runs shared a machine",
        "deeper report grid",
    ):
        assert text in html
    assert "nan" not in re.sub(r"<[^>]*>", " ", html.replace("loss is nan in epoch", "").split("<script>")[0]).split()


def test_tables_are_written_as_csv_markdown_and_latex(page: Path) -> None:
    folder = page.parent
    runs, arms, effects, epochs = (
        pd.read_csv(folder / f"{name}.csv") for name in ("runs", "arms", "effects", "epochs")
    )
    assert (len(runs), len(arms), len(epochs)) == (12, 4, 45)
    assert set(effects["kind"]) == {"main", "interaction"}
    markdown = (folder / "results.md").read_text(encoding="utf-8")
    assert "| plain-unreduced | 2 |" in markdown
    assert "commit: 0123456789ab with local changes" in markdown
    latex = (folder / "tables" / "results.tex").read_text(encoding="utf-8")
    assert r"\toprule" in latex
    assert r"Top-1, \%" in latex
    assert latex.isascii()
    assert (folder / "tables" / "effects.tex").read_text(encoding="utf-8").isascii()


def test_one_run_gives_a_report_without_intervals(tracking_uri: str, tmp_path: Path) -> None:
    index = write_report("single", tracking_uri=tracking_uri, out=tmp_path)
    assert "Each arm has one run" in index.read_text(encoding="utf-8")
    assert pd.read_csv(tmp_path / "arms.csv")["top1_low"].isna().all()
    assert not re.search(r"\[[+−\d]", (tmp_path / "results.md").read_text(encoding="utf-8"))
    assert not (tmp_path / "tables" / "effects.tex").exists()


def test_a_grid_without_a_finished_run_has_a_partial_report(tracking_uri: str, tmp_path: Path) -> None:
    page = write_report("broken", tracking_uri=tracking_uri, out=tmp_path).read_text(encoding="utf-8")
    for text in (
        "The only run is not finished (1 diverged), so that nothing is known of its accuracy.",
        "The loss of plain-reduced s0 was not finite: training ended there.",
        "NotFiniteLoss: loss is nan in epoch 1, step 17",
        "Validation top-1 by epoch",
        "testhost",
        "deeper report broken",
    ):
        assert text in page
    assert "The intervals cover" not in page
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 1


def test_claims_that_the_runs_decide_have_a_section(claims_records: Path, tmp_path: Path) -> None:
    index = write_report("claim-heads", tracking_uri=f"sqlite:///{claims_records / 'mlflow.db'}", out=tmp_path)
    page = index.read_text(encoding="utf-8")
    assert '<h2 id="claims-part">' in page
    assert re.search(r"S-aux-helps</th>.*not enough runs at 64 px, 4 epochs, with normalisation</td>", page)
    assert "P-aux-half-percent" in page
    assert "P-avgpool" not in page  # of another experiment


def test_a_target_that_no_run_reaches_keeps_its_section(tracking_uri: str, tmp_path: Path) -> None:
    recorded = dataclasses.replace(read("grid", tracking_uri=tracking_uri), settings=Settings(target=0.999))
    html = write_files(build_sections(recorded, tracking_uri), tmp_path).read_text(encoding="utf-8")
    section = html.split('<h2 id="targets-part">')[1].split("<h2")[0]
    assert "No run reached this target." in section
    assert "0 of 3" in section
    assert "<figure>" not in section


def test_intervals_of_accuracies_in_arms_csv_stay_within_0_and_1(tracking_uri: str, tmp_path: Path) -> None:
    recorded = read("grid", tracking_uri=tracking_uri)
    recorded.runs[schema.FINAL_TOP1] = recorded.runs["seed"].map({0: 0.1, 1: 0.9, 2: 0.95})
    write_files(build_sections(recorded, tracking_uri), tmp_path)
    arms = pd.read_csv(tmp_path / "arms.csv")
    assert (arms["top1_low"].min(), arms["top1_high"].max()) == (0, 1)


def test_everyone_who_is_named_has_an_entry_and_nobody_else(page: Path) -> None:
    text = (page.parent / "results.md").read_text(encoding="utf-8")
    before, entries = text.split("References. ")
    entries = entries.split("\n\n")[0]
    for name in ("Bouthillier", "Holm", "Kaplan", "Satterthwaite", "Welch", "Hedges"):
        assert name in before
        assert name in entries
    for name in ("Schuirmann", "McNemar", "Szegedy"):
        assert name not in before
        assert name not in entries


def test_rows_of_the_forest_plot_are_told_apart_and_leave_the_axes_their_width() -> None:
    row = {"kind": "interaction", "difference": 0.1, "low": 0.0, "high": 0.2, "detectable": 0.05}
    effect = "Auxiliary classifiers × recipe.learning_rate / recipe.warmup_epochs"
    rows = [
        {**row, "effect": effect, "contrast": f"(both − none) × ({level} − 0.01 / 1)"} for level in ("0.02", "0.05")
    ]
    long, short = (
        forest(pd.DataFrame([{**one, "effect": name} for one in rows])) for name in (effect, "Auxiliary classifiers")
    )
    assert long is not None
    assert short is not None
    (axes,) = long.figure.axes
    labels = [text.get_text() for text in axes.texts]
    assert len(set(labels)) == 2
    assert max(len(line) for label in labels for line in label.splitlines()) <= 58
    widths = []
    for plot in (long, short):
        _ = plot.svg_file  # lays it out
        widths.append(plot.figure.axes[0].get_position().width)
    assert widths[0] == pytest.approx(widths[1], abs=0.01)
    assert "Squares" not in long.caption


def test_the_best_arm_is_compared_with_the_second_in_words(tracking_uri: str) -> None:
    recorded = read("grid", tracking_uri=tracking_uri)
    runs = recorded.runs[recorded.runs["network.reduction"].eq("reduced")]
    best = build_sections(dataclasses.replace(recorded, runs=runs), tracking_uri).tiles[-2]
    assert (best.label, best.verdict) == ("Best arm: heads-reduced", "Clearly above plain-reduced, the second")


def test_other_experiments_have_no_section_of_claims(page: Path) -> None:
    assert 'id="claims-part"' not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        ("gird", "'gird' is not in .*there are: broken, claim-heads, empty, grid, shared, single"),
        ("empty", "'empty' .* has no runs yet"),
    ],
)
def test_a_report_that_cannot_be_made_says_why(
    tracking_uri: str, tmp_path: Path, experiment: str, message: str
) -> None:
    with pytest.raises(AnalysisError, match=message):
        write_report(experiment, tracking_uri=tracking_uri, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_store_is_an_error_and_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="no store"):
        write_report("grid", tracking_uri=f"sqlite:///{tmp_path / 'none.db'}", out=tmp_path)
    assert not (tmp_path / "none.db").exists()


def test_a_server_that_is_down_is_an_error(tmp_path: Path) -> None:
    code = (
        "import sys; from analysis.report.writing import write_report\n"
        "try: write_report('grid', tracking_uri='http://127.0.0.1:9', out=sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error, 'mlflow' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True).stdout
    sentence = "tracking_uri: http://127.0.0.1:9 does not answer: Connection refused; is its server running?"
    assert said.strip() == f"AnalysisError {sentence} False", "before MLflow is imported"
