"""What disturbances cost a run, from its events, from the positions that were seen of it, and from its job's starts.

A position counts the steps of a run from its beginning. A step is wasted if a later attempt has to do it again.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.records.states import attempts_of
from reproduce import schema

PARTS = ("stopping", "away", "starting", "warming up", "catching up")
"""What the time that a disturbance costs consists of: until the attempt has recorded its end; until SLURM has started
the job again; until the next attempt begins; until its first step; until it is further than the run was before."""


@dataclass(frozen=True)
class Disturbance:
    """Something that was done to a job, and when."""

    kind: str
    t: float
    """Seconds since 1970."""
    load: float
    """Load average of the last minute on the machine of all hosts."""


@dataclass(frozen=True)
class Seen:
    """How far an attempt was at a moment."""

    t: float
    """Seconds since 1970."""
    attempt: int
    position: int


def cost(
    disturbance: Disturbance,
    events: Sequence[Mapping[str, Any]],
    seen: Sequence[Seen],
    job_starts: Sequence[float],
    steps: int,
) -> dict[str, Any]:
    """Compute what a disturbance cost.

    Args:
        disturbance: The disturbance, after which the run went further than before.
        events: All events of the run.
        seen: The positions that were seen, in the order of time.
        job_starts: When SLURM started the job, in seconds since 1970.
        steps: Steps of an epoch.

    Returns:
        Its `kind`; the `position` at which it came; the `wasted_steps`; the seconds in which the run made no progress
        (`lost_s`) and how they were spent (`parts_s`, see `PARTS`; one that did not occur is absent); the `load`.
    """
    begun = next(event for event in events if event["kind"] == schema.START and event["t"] > disturbance.t)
    resume = begun["resume"] or {"epoch": 0, "step": 0}
    resumed = resume["epoch"] * steps + resume["step"]
    furthest = max((one.position for one in seen if one.attempt < begun["attempt"]), default=0)
    later = [one for one in seen if one.attempt == begun["attempt"]]
    first = next(one.t for one in later if one.position > resumed)
    further = next(one.t for one in later if one.position > furthest)
    ended = [event["t"] for event in events if event["kind"] == schema.END and disturbance.t < event["t"] < begun["t"]][
        -1:
    ]
    again = [t for t in job_starts if disturbance.t < t < begun["t"]][-1:]
    marks = {
        "stopping": ended,
        "away": again,
        "starting": [begun["t"]],
        "warming up": [first],
        "catching up": [further],
    }
    parts, before = {}, disturbance.t
    for part, (t,) in ((part, marks[part]) for part in PARTS if marks[part]):
        parts[part] = round(max(0.0, t - before), 2)
        before = max(before, t)
    return {
        "kind": disturbance.kind,
        "position": furthest,
        "wasted_steps": max(0, furthest - resumed),
        "lost_s": round(further - disturbance.t, 2),
        "parts_s": parts,
        "load": round(disturbance.load, 1),
    }


def wall(events: Sequence[Mapping[str, Any]], job_start: float, steps: int) -> dict[str, float]:
    """Divide the time of a finished run, from the first start of its job to its end.

    Args:
        events: All events of the run.
        job_start: When SLURM started the job for the first time, in seconds since 1970.
        steps: Steps of an epoch.

    Returns:
        `wall_s`; of it `steps_s`, in steps that no later attempt had to repeat, and `validation_s`; the `goodput`,
        which is `steps_s` / `wall_s`; the number of `steps` and of `attempts`; the mean `step_s`.
    """
    epochs = [event["metrics"] for event in events if event["kind"] == schema.EPOCH]
    wall_s = events[-1]["t"] - job_start
    steps_s = sum(metrics[schema.TRAIN_SECONDS] for metrics in epochs)
    return {
        "wall_s": round(wall_s, 1),
        "steps_s": round(steps_s, 1),
        "validation_s": round(sum(metrics[schema.VAL_SECONDS] for metrics in epochs), 1),
        "goodput": round(steps_s / wall_s, 4),
        "steps": steps * len(epochs),
        "attempts": len(attempts_of([dict(event) for event in events])),
        "step_s": round(steps_s / (steps * len(epochs)), 3),
    }


def tables(measured: Mapping[str, Any]) -> str:
    """Return the tables of the page, in Markdown."""
    lines = [
        "| disturbed by | n | wasted steps, median (most) | lost, s: median (range) | of it "
        + " / ".join(PARTS)
        + ", s: medians |",
        "|---|--:|--:|--:|---|",
    ]
    for kind in dict.fromkeys(one["kind"] for one in measured["costs"]):
        costs = [one for one in measured["costs"] if one["kind"] == kind]
        wasted, lost = [one["wasted_steps"] for one in costs], [one["lost_s"] for one in costs]
        parts = " / ".join(_median([one["parts_s"].get(part) for one in costs]) for part in PARTS)
        lines.append(
            f"| {kind} | {len(costs)} | {statistics.median(wasted):g} ({max(wasted)}) "
            f"| {statistics.median(lost):.0f} ({min(lost):.0f} to {max(lost):.0f}) | {parts} |"
        )
    lines += [
        "",
        "| job | steps | wall, s | in steps that count, s | validation, s | goodput |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name in ("undisturbed", "disturbed"):
        one = measured[name]
        label = f"{name}, {len(measured['costs'])} times" if name == "disturbed" else name
        lines.append(
            f"| {label} | {one['steps']} | {one['wall_s']:.0f} | {one['steps_s']:.0f} | {one['validation_s']:.0f} "
            f"| {100 * one['goodput']:.0f} % |"
        )
    return "\n".join(lines)


def _median(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.0f}" if known else "–"
