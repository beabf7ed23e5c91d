"""From MLflow to a report: `report()` writes index.html, results.md, CSV files and LaTeX tables.

The page is self-contained: styles, script and figures are inlined and nothing is fetched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from analysis import figures, statistics
from analysis.claims import ledger_table
from analysis.frames import AnalysisError, Recorded, read
from analysis.tables import (
    DASH,
    MINUS,
    Cell,
    Table,
    duration,
    interval,
    missing,
    number,
    p_value,
    percent,
    points,
    quantity,
)
from reproduce import schema

WORDS = {
    "higher": "Raises top-1",
    "lower": "Lowers top-1",
    "within the noise": "Within the noise",
    "not after correction": "Not clear: gone after Holm's correction",
    "no interval": "No interval: it takes two seeds an arm",
}
PROCESSOR = schema.TAG_ENVIRONMENT + "cpu"
MARKS = {schema.FINISHED: "✓", schema.FAILED: "✗", schema.INTERRUPTED: "‖", "running": "…", "waiting": "·"}


@dataclass(frozen=True)
class Tile:
    label: str
    value: str
    aside: str
    verdict: str
    note: str = ""


def report(
    experiment: str,
    *,
    tracking_uri: str,
    out: Path,
    claims: Callable[[Recorded], Sequence[Mapping[str, Any]]] | None = None,
) -> Path:
    """Write the report of `experiment` into `out` and return the path of its index.html.

    `claims` decides the rows of the ledger that the experiment is for, as in the JSON of `deeper claims`.

    Raises `AnalysisError`: no such store, a server that does not answer, an unknown experiment, no finished run.
    """
    recorded = read(experiment, tracking_uri=tracking_uri)
    finished = recorded.finished
    if finished.empty:
        states = recorded.runs["outcome"].value_counts()
        reasons = [f"{name}: {why}" for name, _, why in _unfinished(recorded) if why != DASH]
        raise AnalysisError(
            f"experiment: {experiment!r} has no finished run; "
            + ", ".join(f"{count} {state}" for state, count in states.items())
            + "".join(f"\n  {reason}" for reason in reasons)
        )
    arms = recorded.arms
    summary = statistics.arms(finished, arms)
    effects = pd.concat([statistics.effects(finished, m) for m in _outcomes(finished)], ignore_index=True)

    out.mkdir(parents=True, exist_ok=True)
    _write_csv(out, recorded, summary, effects)
    on_top1 = effects[effects["outcome"] == schema.FINAL_TOP1]
    results, effect_table = results_table(summary), effects_table(on_top1)
    (out / "tables").mkdir(exist_ok=True)
    (out / "tables" / "results.tex").write_text(results.latex("results"), encoding="utf-8")
    tables = {"results": results}
    if effect_table.rows:
        tables["effects"] = effect_table
        (out / "tables" / "effects.tex").write_text(effect_table.latex("effects"), encoding="utf-8")
    environment = environment_rows(recorded, tracking_uri)
    (out / "results.md").write_text(_markdown(recorded, tables, environment), encoding="utf-8")

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = templates.get_template("report.html.j2").render(
        experiment=experiment,
        description=recorded.description,
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        tiles=tiles(recorded, summary, on_top1),
        results=results,
        effects=effect_table,
        claims=ledger_table(claims(recorded) if claims else ()),
        forest=figures.forest(on_top1),
        legend=[(arm, i, figures.marker(i)) for i, arm in enumerate(arms)],
        palette=figures.PALETTE,
        arm_count=len(arms),
        curves=figures.learning_curves(recorded.epochs, arms, whole=set(finished["run_id"])),
        cost=figures.against_cost(summary),
        gradients=figures.gradients(recorded.epochs, arms),
        grid=completeness(recorded),
        seeds=sorted(recorded.runs["seed"].unique()),
        unfinished=_unfinished(recorded),
        limits=limits(recorded, on_top1),
        baseline=statistics.baseline(finished),
        environment=environment,
        dash=DASH,
    )
    index = out / "index.html"
    index.write_text(page, encoding="utf-8")
    return index


# --- parts of the page -----------------------------------------------------------------------------


def results_table(summary: pd.DataFrame) -> Table:
    """A row an arm."""
    labels = {
        "gpu_busy_percent": "GPU busy, %",
        "shared_gpu_busy_percent": "Shared GPU busy, %",
        "cpu_percent": "CPU, %",
    }
    device = next((column for column in labels if summary[column].notna().any()), "cpu_percent")
    rows = []
    for _, row in summary.iterrows():
        cells = [Cell(row["arm"], sort=row["arm"]), _cell(str(row["n"]), row["n"])]
        for name in ("top1", "top5"):
            aside = interval(row[f"{name}_low"], row[f"{name}_high"])
            cells.append(_cell(percent(row[name]), row[name], "" if aside == DASH else aside))
        cells += [
            _cell(quantity(row["parameters"]), row["parameters"]),
            _cell(quantity(row["parameters_inference"]), row["parameters_inference"]),
            _cell(quantity(row["macs"]), row["macs"]),
            _cell(number(row["images_per_s"], 0 if row["images_per_s"] >= 100 else 1), row["images_per_s"]),
            _cell(number(row[device]), row[device]),
            _cell(duration(row["duration_s"]), row["duration_s"]),
        ]
        rows.append(cells)
    columns = [
        "Arm", "n", "Top-1, %", "Top-5, %", "Parameters, training", "Parameters, inference", "Multiply-adds",
        "Images/s", labels[device], "Time a run",
    ]  # fmt: skip
    brackets = ", 95 % intervals in brackets" if summary["top1_low"].notna().any() else ""
    return Table(f"Results by arm: means over seeds{brackets}", columns, rows)


def effects_table(effects: pd.DataFrame) -> Table:
    """A row an effect on one outcome, in points."""
    rows = []
    for _, row in effects.iterrows():
        name = f"{row['effect']}: {row['contrast']}" if row["kind"] == "main" else row["contrast"]
        if row["kind"] == "interaction":
            name = f"Interaction {row['effect']}: {row['contrast']}"
        rows.append(
            [
                Cell(name, sort=name),
                _cell(points(row["difference"]), row["difference"]),
                _cell(interval(row["low"], row["high"], signed=True), row["low"]),
                _cell(p_value(row["p"]), row["p"]),
                _cell(p_value(row["p_holm"]), row["p_holm"]),
                _cell(points(row["detectable"]).removeprefix("+"), row["detectable"]),
                Cell(row["verdict"], sort=row["verdict"]),
            ]
        )
    columns = ["Effect", "Points", "95 % interval", "p", "p, Holm", "Detectable", "Verdict"]
    caption = "Effects on top-1, in percentage points"
    return Table(caption, columns, rows, text_columns=frozenset({0, 6}))


def tiles(recorded: Recorded, summary: pd.DataFrame, effects: pd.DataFrame) -> list[Tile]:
    """The headline: the first question of each of the first factors, the best arm, how much is done."""
    found = []
    main = effects[effects["kind"] == "main"].drop_duplicates("effect")
    for _, row in main.head(3).iterrows():
        note = ""
        if row["verdict"] == "within the noise":
            note = f"Under {points(row['detectable'], 1).removeprefix('+')} points, a difference may go unseen here."
        found.append(
            Tile(
                label=f"{row['effect']}, {row['contrast']}",
                value=f"{points(row['difference'])} points",
                aside=interval(row["low"], row["high"], signed=True),
                verdict=WORDS[row["verdict"]],
                note=" ".join(part for part in (note, _cost_note(row, recorded.finished)) if part),
            )
        )
    return [*found, _best(recorded.finished, summary), _progress(recorded)]


def completeness(recorded: Recorded) -> list[tuple[str, list[tuple[str, str]]]]:
    """For each arm, for each seed: the outcome's name and what the grid shows."""
    last = recorded.epochs.groupby("run_id")["epoch"].max() + 1
    seeds = sorted(recorded.runs["seed"].unique())
    rows = []
    for arm in recorded.arms:
        cells = []
        for seed in seeds:
            own = recorded.runs[(recorded.runs["arm"] == arm) & (recorded.runs["seed"] == seed)]
            if own.empty:
                cells.append(("absent", DASH))
                continue
            run = own.iloc[-1]
            text = percent(run[schema.FINAL_TOP1])
            if run["outcome"] != schema.FINISHED:
                text = f"epoch {last[run['run_id']]}" if run["run_id"] in last.index else run["outcome"]
            cells.append((run["outcome"], f"{MARKS.get(run['outcome'], '')} {text}".strip()))
        rows.append((arm, cells))
    return rows


def limits(recorded: Recorded, effects: pd.DataFrame) -> list[str]:
    """What these numbers can and cannot show."""
    counts = recorded.finished["arm"].value_counts()
    lines = []
    if counts.max() < 2:
        lines.append("One run an arm: differences between arms cannot be told from differences between seeds.")
    elif effects["detectable"].notna().any():
        found = []
        for kind, name in (("main", "main effects"), ("interaction", "interactions"), ("pairwise", "pairs of arms")):
            values = effects.loc[effects["kind"] == kind, "detectable"].dropna()
            if len(values):
                low, high = (points(v, 1).removeprefix("+") for v in (values.min(), values.max()))
                found.append(f"{name} {low}" if low == high else f"{name} {low} to {high}")
        lines.append(
            "The smallest differences in top-1 that would be found with 80 % power, given the spread seen, in points: "
            f"{', '.join(found)}."
        )
    if counts.min() != counts.max() or len(counts) < len(recorded.arms):
        lines.append("Arms have unequal numbers of finished runs; failed or missing runs are not filled in.")
    if schema.SHARED_GPU_BUSY_PERCENT in recorded.runs:
        lines.append(
            "Some runs shared a GPU: busy and power are the device's and not a run's, no run is given its energy, and "
            "images/s are those of a share."
        )
    lines += [f"GPU telemetry is incomplete: {reason}." for reason in untold_devices(recorded.runs)]
    concurrent = statistics.concurrent_runs(recorded.runs)
    if concurrent > 1:
        lines.append(
            f"Up to {concurrent} runs shared a machine: their images/s and times say how long this took, they are no "
            "benchmark of an arm."
        )
    return lines


def untold_devices(runs: pd.DataFrame) -> list[str]:
    """What of the runs' GPUs was not sampled and why, each reason with its number of runs."""
    if schema.TAG_GPU_ABSENT not in runs:
        return []
    reasons = runs[schema.TAG_GPU_ABSENT].dropna().value_counts().drop("-", errors="ignore")
    return [f"{reason} ({_count(count, 'run')})" for reason, count in reasons.items()]


def environment_rows(recorded: Recorded, tracking_uri: str) -> list[tuple[str, str]]:
    """What the runs ran on; where runs differ, each value with its number of runs."""
    runs = recorded.finished
    packages = sorted(c for c in runs.columns if c.startswith(schema.TAG_ENVIRONMENT) and c != PROCESSOR)
    rows = [
        ("Commit", _commit(runs)),
        ("Machine", _values(runs, schema.TAG_HOST)),
        ("Processor", _values(runs, PROCESSOR)),
        ("GPUs", _values(runs, schema.TAG_GPU)),
        ("Workers a run", _values(runs, "workers")),
        ("Data", _values(runs, schema.TAG_DATA)),
        ("Data hash", _values(runs, schema.TAG_DATA_HASH)),
        ("Seeds", ", ".join(str(seed) for seed in sorted(recorded.runs["seed"].unique()))),
        ("Epochs", _values(runs, "recipe.epochs")),
        ("Batch size", _values(runs, "recipe.batch_size")),
        ("Resolution", _values(runs, "recipe.resolution")),
        (
            "Packages",
            ", ".join(f"{c.removeprefix(schema.TAG_ENVIRONMENT)} {_values(runs, c)}" for c in packages) or DASH,
        ),
        ("Tracking", f"experiment {recorded.experiment_id} in {_without_password(tracking_uri)}"),
    ]
    return [row for row in rows if row[1] != DASH or row[0] in ("Commit", "Machine", "GPUs", "Data hash", "Packages")]


# --- pieces ----------------------------------------------------------------------------------------


def _cell(text: str, value: float, aside: str = "") -> Cell:
    return Cell(text, aside, "" if missing(value) else value)


def _outcomes(finished: pd.DataFrame) -> list[str]:
    return [m for m in (schema.FINAL_TOP1, schema.FINAL_TOP5) if m in finished and finished[m].notna().all()]


def _write_csv(out: Path, recorded: Recorded, summary: pd.DataFrame, effects: pd.DataFrame) -> None:
    for name, frame in (
        ("runs", recorded.runs),
        ("epochs", recorded.epochs),
        ("arms", summary),
        ("effects", effects),
    ):
        frame.to_csv(out / f"{name}.csv", index=False)


def _cost_note(effect: pd.Series, finished: pd.DataFrame) -> str:
    """What reductions save: the multiply-adds of the arms with them over those without."""
    field = statistics.REDUCTION
    if effect["effect"] != statistics.LABELS[field] or schema.COST_MACS not in finished:
        return ""
    macs = finished.drop_duplicates("arm").groupby(field)[schema.COST_MACS].mean()
    other = effect["contrast"].split(f" {MINUS} ")[1]
    return f"At {100 * macs['reduced'] / macs[other]:.0f} % of the multiply-adds."


def _best(finished: pd.DataFrame, summary: pd.DataFrame) -> Tile:
    ranked = summary[summary["top1"].notna()].sort_values("top1", ascending=False)
    first = ranked.iloc[0]
    verdict = "The only arm"
    if len(ranked) > 1:
        second = ranked.iloc[1]["arm"]
        values = [finished.loc[finished["arm"] == arm, schema.FINAL_TOP1].tolist() for arm in (first["arm"], second)]
        p = statistics.welch(*values).p
        if missing(p):
            verdict = f"Ahead of {second}; no interval"
        else:
            verdict = f"Ahead of {second}" if p < statistics.ALPHA else f"Not told apart from {second}"
    return Tile(
        label=f"Best arm: {first['arm']}",
        value=f"{percent(first['top1'])} %",
        aside=interval(first["top1_low"], first["top1_high"]),
        verdict=verdict,
    )


def _progress(recorded: Recorded) -> Tile:
    counts = recorded.runs["outcome"].value_counts()
    rest = [f"{count} {state}" for state, count in counts.items() if state != schema.FINISHED]
    return Tile(
        label="Runs finished",
        value=f"{counts.get(schema.FINISHED, 0)} of {len(recorded.runs)}",
        aside=f"{_count(len(recorded.arms), 'arm')}, {_count(recorded.runs['seed'].nunique(), 'seed')}",
        verdict=", ".join(rest).capitalize() or "Complete",
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _unfinished(recorded: Recorded) -> list[tuple[str, str, str]]:
    return [
        (f"{run.arm} s{run.seed}", str(run.outcome), DASH if missing(run.error) else str(run.error))
        for run in recorded.runs.itertuples()
        if run.outcome != schema.FINISHED
    ]


def _values(runs: pd.DataFrame, column: str) -> str:
    if column not in runs or runs[column].isna().all():
        return DASH
    counts = runs[column].dropna().value_counts()
    if len(counts) == 1:
        return str(counts.index[0])
    return ", ".join(f"{value} ({_count(count, 'run')})" for value, count in counts.items())


def _commit(runs: pd.DataFrame) -> str:
    if schema.TAG_COMMIT not in runs or schema.TAG_DIRTY not in runs:
        return _values(runs, schema.TAG_COMMIT)
    dirty = runs[schema.TAG_DIRTY].fillna("").str.lower().eq("true")
    shown = runs[schema.TAG_COMMIT].str[:12] + dirty.map({True: " with local changes", False: ""})
    return _values(pd.DataFrame({"commit": shown}), "commit")


def _without_password(uri: str) -> str:
    """A tracking URI that can be published: no credentials, and of a local store only the file's name."""
    scheme, _, rest = uri.partition("://")
    if scheme == "sqlite":
        return f"sqlite, {Path(rest).name}"
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _markdown(recorded: Recorded, tables: dict[str, Table], environment: list[tuple[str, str]]) -> str:
    facts: dict[str, Any] = dict(environment)
    line = [f"n = {len(recorded.finished)} finished of {len(recorded.runs)} runs"]
    line += [f"{name.lower()}: {value}" for name, value in facts.items() if value != DASH and name != "Tracking"]
    parts = [f"**{table.caption}.**\n\n{table.markdown()}" for table in tables.values()]
    parts.append("; ".join(line) + ".")
    parts.append(f"Made by `deeper report {recorded.experiment}`.")
    return f"### {recorded.experiment}\n\n" + "\n\n".join(parts) + "\n"
