"""Reads the plans of an experiment from its tags in MLflow, and chooses the one whose runs are analysed.

An experiment that is edited under its old name has several plans, and several people may publish to one name. MLflow
shows all their runs together; only those of one plan are a grid.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.tables import counted
from reproduce import schema
from reproduce.errors import UserError


class PlanError(UserError):
    """Raised if the plan that is asked for is not among those of the experiment."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan that an experiment has or had under its name."""

    hash: str
    """The 8 hexadecimal digits that identify it."""
    since: float
    """When it was last recorded as the present plan, in seconds since 1970."""
    by: str
    """Who recorded it. It may be empty."""
    runs: Mapping[str, tuple[str, int]]
    """Arm and seed of each planned run, by its key, in the order of the plan."""

    def __str__(self) -> str:
        date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.since))
        return f"{self.hash} ({counted(len(self.runs), 'run')}, {date}{f' by {self.by}' if self.by else ''})"


@dataclass(frozen=True, kw_only=True)
class PlanChoice:
    """The plan whose runs are analysed, beside the other plans of the experiment."""

    plan: Plan | None = None
    """The plan; None if the store holds no plan of the experiment."""
    presents: Sequence[Plan] = ()
    """The present plans of all folders of records that publish under this name, each plan once, the newest first."""
    known: Sequence[Plan] = ()
    """All plans, the newest first."""

    @property
    def rivals(self) -> list[Plan]:
        """The plans that are the present ones of other folders of records."""
        return [plan for plan in self.presents if self.plan is not None and plan.hash != self.plan.hash]

    @property
    def is_present(self) -> bool:
        """Whether the plan is the present one of some folder of records."""
        return any(self.plan is not None and plan.hash == self.plan.hash for plan in self.presents)


def choose_plan(tags: Mapping[str, str], experiment: str, *, wanted: str | None, own: str | None) -> PlanChoice:
    """Choose the plan whose runs are analysed.

    Args:
        tags: The tags of the experiment.
        experiment: The name of the experiment.
        wanted: The hash of a plan, or the beginning of it. None leaves the choice to `own`.
        own: The hash of the present plan in the reader's records. None takes the newest present plan in the store.

    Raises:
        PlanError: There is not exactly one plan with the hash `wanted`, or the store holds plans but not `own`.
    """
    plans = {plan.hash: plan for plan in _published_plans(tags)}
    known = sorted(plans.values(), key=lambda plan: plan.since, reverse=True)
    presents = _present_plans(tags, plans)
    listed = f"there are: {', '.join(map(str, known))}" if known else "no plan is published; deeper publish --once does"
    if wanted is not None:
        found = [plan for plan in known if plan.hash.startswith(wanted)]
        if len(found) != 1:
            raise PlanError(f"--plan: {wanted!r} names no single plan of {experiment!r}; {listed}")
        return PlanChoice(plan=found[0], presents=presents, known=known)
    if own is not None and known and own not in plans:
        raise PlanError(
            f"experiment: the present plan of {experiment!r} in these records, {own}, is not published; publish it "
            f"(deeper publish --once) or name another with --plan; {listed}"
        )
    plan = plans.get(own or "") or next(iter((*presents, *known)), None)
    return PlanChoice(plan=plan, presents=presents, known=known)


def runs_of_plan(runs: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return the runs of a plan, with the arms and the seeds that the plan gives them.

    Args:
        runs: Runs in the format of `analysis.frames.Recorded.runs`.
        plan: The plan.

    Returns:
        The runs in their order, then one row with the outcome "waiting" for each planned run that never started.
    """
    own = runs[runs["key"].isin(list(plan.runs))].copy()
    own["arm"] = [plan.runs[key][0] for key in own["key"]]
    own["seed"] = [plan.runs[key][1] for key in own["key"]]
    started = set(own["key"])
    waiting = [
        {"key": key, "arm": arm, "seed": seed, "outcome": "waiting"}
        for key, (arm, seed) in plan.runs.items()
        if key not in started
    ]
    planned = pd.concat([own, pd.DataFrame(waiting)], ignore_index=True) if waiting else own.reset_index(drop=True)
    return planned.astype({"seed": int})


def notices(choice: PlanChoice, runs: pd.DataFrame, others: int) -> list[str]:
    """Write sentences on what else is recorded under the name of the experiment.

    Args:
        choice: The plan and the other plans.
        runs: The runs that are analysed, in the format of `analysis.frames.Recorded.runs`.
        others: The number of runs under the name that are left out.

    Returns:
        The sentences. The list is empty if the runs are those of the only plan.
    """
    if choice.plan is None:
        twice = runs[runs.duplicated(["arm", "seed"], keep=False)]
        if twice.empty:
            return []
        names = ", ".join(dict.fromkeys(f"{run.arm} s{run.seed}" for run in twice.itertuples()))
        return [
            f"Several different runs have the same arm and seed ({names}), and no plan is published that tells which "
            "of them belong together: the experiment was edited under its old name. Publish its records again: "
            "deeper publish --once."
        ]
    lines = []
    for rival in choice.rivals if choice.is_present else ():
        lines.append(
            f"Two plans go by this name: these are the runs of {choice.plan}; other records have {rival} as their "
            "present plan. Give one of the experiments another name."
        )
    if not choice.is_present and choice.presents:
        lines.append(f"These are the runs of the older plan {choice.plan}; the present plan is {choice.presents[0]}.")
    if others:
        other_plans = ", ".join(str(plan) for plan in choice.known if plan.hash != choice.plan.hash)
        lines.append(
            f"{counted(others, 'other run')} under this name {'is' if others == 1 else 'are'} not in plan "
            f"{choice.plan.hash} and {'is' if others == 1 else 'are'} left out."
            + (f" --plan HASH takes another plan: {other_plans}." if other_plans else "")
        )
    return lines


def _published_plans(tags: Mapping[str, str]) -> list[Plan]:
    """Read those plans of which all pieces are published."""
    plans = []
    for name, value in tags.items():
        digest = name.removeprefix(schema.TAG_PLAN)
        if digest == name or "." in digest:
            continue
        head = json.loads(value)
        arms = json.loads("".join(tags[f"{name}.{index}"] for index in range(head["pieces"])))
        runs = {key: (arm, int(seed)) for arm, seeds in arms.items() for seed, key in seeds.items()}
        plans.append(Plan(hash=digest, since=head["since"], by=head["by"], runs=runs))
    return plans


def _present_plans(tags: Mapping[str, str], plans: Mapping[str, Plan]) -> list[Plan]:
    presents: list[dict[str, Any]] = [
        json.loads(value) for name, value in tags.items() if name.startswith(schema.TAG_PLANNER)
    ]
    newest = sorted(presents, key=lambda present: present["since"], reverse=True)
    hashes = dict.fromkeys(present["plan"] for present in newest if present["plan"] in plans)
    return [plans[digest] for digest in hashes]
