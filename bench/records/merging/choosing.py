"""Decides what is pooled: for each run one of its copies, and for each experiment one plan. Writes nothing.

Copies of a run are one run if the events of one are the beginning of the other's: the longer one is taken. Of copies
that went different ways, the only finished one is taken. Others are two trainings of one run, which cannot be one: they
are an error, unless the first one is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.records.plan import PlanEntry, experiments, read_plan
from bench.records.states import EVENTS, is_held, read_state, run_folder
from reproduce import schema
from reproduce.errors import UserError

COMPARED = (EVENTS, schema.ARTIFACT_PREDICTIONS, schema.ARTIFACT_CONFIG)
"""Files in which copies of a finished run must agree."""


class MergeError(UserError):
    """Raised if records cannot be pooled. The message names the runs or experiments and says why."""


@dataclass(frozen=True)
class Pooled:
    """What is pooled from some folders of records."""

    plans: Mapping[str, Sequence[PlanEntry]]
    """The pooled plan of each experiment."""
    runs: Mapping[str, Path]
    """The folder of records from which each run is taken, by the run's key."""
    repeated: int
    """Number of copies that are left out because another copy of the run is taken."""
    absent: int
    """Number of planned runs that no source has begun."""


def choose(sources: Sequence[Path], only: Collection[str] = (), *, first_wins: bool = False) -> Pooled:
    """Choose what to pool.

    Args:
        sources: Folders of records.
        only: Names of the experiments to pool. Empty takes all. Of each, the runs of the present plans are taken.
        first_wins: Whether the source that is named first decides where two copies of a run are two trainings.

    Raises:
        MergeError: A source holds no records, or none of a named experiment. A run is being trained. Two finished
            copies of a run differ, and `first_wins` is not set. Two sources have different runs for the same arm and
            seed of an experiment, or other names for the same run.
    """
    for source in sources:
        if not experiments(source):
            raise MergeError(f"records: {source} holds no experiment; name a folder of records")
    known = dict.fromkeys(name for source in sources for name in experiments(source))
    for name in only:
        if name not in known:
            raise MergeError(f"--experiment: {name!r} is in none of the records, which hold {', '.join(known)}")
    plans = {name: _pooled_plan(name, sources) for name in known if not only or name in only}
    keys = dict.fromkeys(entry.key for entries in plans.values() for entry in entries)
    copies = {key: [source for source in sources if (run_folder(source, key) / EVENTS).is_file()] for key in keys}
    _refuse_runs_in_hand(copies)
    runs, differing = {}, []
    for key, holders in copies.items():
        if holders:
            taken, alike = _taken(key, holders)
            runs[key] = taken
            if not alike and not first_wins:
                differing.append(f"{key} in {' and '.join(map(str, holders))}")
    if differing:
        raise MergeError(
            f"records: {len(differing)} runs were trained more than once, and their records differ: "
            f"{'; '.join(differing)}. Leave one of the folders out, or take the one that is named first: --first-wins"
        )
    repeated = sum(len(holders) - 1 for holders in copies.values() if holders)
    return Pooled(plans, runs, repeated, sum(not holders for holders in copies.values()))


def _pooled_plan(name: str, sources: Sequence[Path]) -> list[PlanEntry]:
    """Join the present plans of an experiment, ordered by seed and then by arm, as planning orders runs."""
    by_key: dict[str, tuple[PlanEntry, Path]] = {}
    by_name: dict[tuple[str, int], tuple[PlanEntry, Path]] = {}
    for source, entry in _present_entries(name, sources):
        other, where = by_key.get(entry.key, (entry, source))
        if (other.arm, other.seed) != (entry.arm, entry.seed):
            raise MergeError(
                f"records: run {entry.key} of {name} is {other.name} in {where} and {entry.name} in {source}; "
                "give it the same arm and seed in both, and plan again"
            )
        other, where = by_name.get((entry.arm, entry.seed), (entry, source))
        if other.key != entry.key:
            raise MergeError(
                f"records: {name}: {entry.name} is run {other.key} in {where} and {entry.key} in {source}; these are "
                "two experiments under one name: other options, or other data"
            )
        by_key.setdefault(entry.key, (entry, source))
        by_name.setdefault((entry.arm, entry.seed), (entry, source))
    arms = list(dict.fromkeys(entry.arm for entry, _ in by_key.values()))
    return sorted((entry for entry, _ in by_key.values()), key=lambda entry: (entry.seed, arms.index(entry.arm)))


def _present_entries(name: str, sources: Sequence[Path]) -> Iterator[tuple[Path, PlanEntry]]:
    for source in sources:
        if name in experiments(source):
            for entry in read_plan(source, name):
                yield source, entry


def _refuse_runs_in_hand(copies: Mapping[str, Sequence[Path]]) -> None:
    held = [
        f"{key} in {source}"
        for key, sources in copies.items()
        for source in sources
        if is_held(run_folder(source, key))
    ]
    if held:
        raise MergeError(f"records: {len(held)} runs are being trained: {'; '.join(held)}; wait until they have ended")


def _taken(key: str, holders: Sequence[Path]) -> tuple[Path, bool]:
    """Choose a copy of a run. Also return whether the others are the same run, or can be left out by the rules."""
    taken, alike = holders[0], True
    for other in holders[1:]:
        mine, theirs = _events(taken, key), _events(other, key)
        if theirs.startswith(mine) and len(theirs) > len(mine):
            taken = other
        elif mine == theirs:
            alike &= _same_files(run_folder(taken, key), run_folder(other, key))
        elif not mine.startswith(theirs):
            finished = [read_state(run_folder(source, key)).status == schema.FINISHED for source in (taken, other)]
            alike &= finished[0] != finished[1]
            taken = other if finished == [False, True] else taken
    return taken, alike


def _events(source: Path, key: str) -> bytes:
    return (run_folder(source, key) / EVENTS).read_bytes()


def _same_files(first: Path, second: Path) -> bool:
    """Whether the files of two copies are equal byte by byte. A copy may lack some, as committed ones lack weights."""
    return all(
        (first / name).read_bytes() == (second / name).read_bytes()
        for name in COMPARED
        if (first / name).is_file() and (second / name).is_file()
    )
