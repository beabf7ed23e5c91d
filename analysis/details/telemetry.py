"""Reads raw telemetry over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.details.artifacts import fetched, read_artifact
from analysis.frames import Recorded
from analysis.tables import is_missing, number
from reproduce import schema

SUMMARISED_FROM = 50
"""Number of runs from which one run of each arm is read in place of all."""
MOST_STRIPS = 49
BINS = 90
"""Number of points of a strip."""
HOST = "host"
"""The device of samples of the host."""
PROCESSES = 1.05
"""Mean number of computing processes on a GPU above which others used it as well, as for the recorded aggregates."""


@dataclass(frozen=True, kw_only=True)
class Strip:
    """How busy the devices of a run were while it trained."""

    name: str
    """Arm and seed, for example "baseline s0"."""
    arm: str
    on_gpu: bool
    """Whether the values are GPU busy, as the mean over the run's GPUs. Otherwise they are the CPU use of the host."""
    shared: bool
    """Whether other runs or other processes used the same GPU, so that the values are not those of the run alone."""
    minutes: npt.NDArray[np.float64]
    """Times since the run began, in minutes, without the pauses between attempts."""
    percent: npt.NDArray[np.float64]
    """The values at these times, from 0 to 100."""
    resumed: Sequence[float]
    """The times, in minutes, at which another attempt went on."""
    aside: str = ""
    """What is said beside the strip: the mean of the run, or that of all runs of its arm."""


def telemetry_strips(recorded: Recorded, tracking_uri: str) -> list[Strip]:
    """Read how busy the devices of the runs were.

    Args:
        recorded: The experiment. Of at least `SUMMARISED_FROM` runs, the first finished one of each arm is read, and
            `aside` gives the mean over the runs of its arm.
        tracking_uri: URI of its MLflow store.

    Returns:
        Strips in the order of the arms and the seeds. Runs without telemetry are left out.
    """
    runs = recorded.runs[recorded.runs["run_id"].notna()]
    many = len(recorded.runs) >= SUMMARISED_FROM
    if many:
        runs = recorded.finished.drop_duplicates("arm")
    order = {arm: index for index, arm in enumerate(recorded.arms)}
    runs = runs.assign(_order=runs["arm"].map(order)).sort_values(["_order", "seed"]).head(MOST_STRIPS)
    with fetched(schema.ARTIFACT_TELEMETRY, recorded.folders(runs), tracking_uri) as files:
        strips = []
        for run in runs.to_dict("records"):
            if run["run_id"] not in files:
                continue
            aside = _mean_of_arm(recorded.finished, run["arm"]) if many else ""
            strip = read_strip(files[run["run_id"]], name=f"{run['arm']} s{run['seed']}", arm=run["arm"], aside=aside)
            strips += [strip] if strip else []
    return strips


def read_strip(path: Path, *, name: str, arm: str, aside: str = "") -> Strip | None:
    """Read the strip of a run from its `telemetry.parquet`; None if it holds neither GPU busy nor CPU use.

    It is None for a damaged file as well, see `read_artifact`.
    """
    samples = read_artifact(path)
    if samples is None:
        return None
    samples = samples.sort_values("t", kind="stable")
    gpus = samples[samples["device"].ne(HOST)].dropna(subset=["busy_percent"])
    on_gpu = len(gpus) > 0
    own = gpus if on_gpu else samples[samples["device"].eq(HOST)].dropna(subset=["cpu_percent"])
    if own.empty:
        return None
    shared = on_gpu and (
        ("share" in own and bool(own["share"].lt(1).any()))
        or ("processes" in own and float(own["processes"].mean()) > PROCESSES)
    )
    times, values = own["t"].to_numpy(dtype=float), own["busy_percent" if on_gpu else "cpu_percent"].to_numpy(float)
    elapsed = np.empty_like(times)
    offset, resumed = 0.0, []
    attempts = own["attempt"].to_numpy()
    for attempt in np.unique(attempts):
        mine = attempts == attempt
        if offset:
            resumed.append(offset / 60)
        elapsed[mine] = offset + times[mine] - times[mine].min()
        offset = float(elapsed[mine].max()) + 1
    edges = np.linspace(0, max(float(elapsed.max()), 1.0), BINS + 1)
    bins = np.clip(np.digitize(elapsed, edges) - 1, 0, BINS - 1)
    means = pd.Series(values).groupby(bins).mean()
    return Strip(
        name=name,
        arm=arm,
        on_gpu=on_gpu,
        shared=shared,
        minutes=(edges[means.index.to_numpy()] + edges[means.index.to_numpy() + 1]) / 120,
        percent=means.to_numpy(dtype=float),
        resumed=resumed,
        aside=aside or f"mean {number(float(values.mean()))} %",
    )


def _mean_of_arm(finished: pd.DataFrame, arm: str) -> str:
    own = finished[finished["arm"] == arm]
    for metric in (schema.GPU_BUSY_PERCENT, schema.SHARED_GPU_BUSY_PERCENT, schema.HOST_CPU_PERCENT):
        if metric in own and not is_missing(mean := float(own[metric].mean())):
            return f"mean of {len(own)} runs {number(mean)} %"
    return ""
