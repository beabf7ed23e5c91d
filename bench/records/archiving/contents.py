"""Chooses which files of the records an archive of an experiment holds. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.records.evaluations import evaluation_files, read_evaluation
from bench.records.plan import EXPERIMENT, PLAN, PlanEntry, experiment_folder, read_plan
from bench.records.refusals import CHECKPOINT
from bench.records.states import RunState, is_held, read_state, run_folder
from reproduce import schema
from reproduce.errors import UserError

OF_A_RUN = (
    schema.ARTIFACT_CONFIG,
    schema.ARTIFACT_EVENTS,
    schema.ARTIFACT_ENVIRONMENT,
    schema.ARTIFACT_TELEMETRY,
    schema.ARTIFACT_PREDICTIONS,
)
"""Files of a run that are archived if it has them, besides the changes to its code."""
CHANGES = "code-*.diff"


class ArchiveError(UserError):
    """Raised if an experiment cannot be archived. The message says why."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What an archive of an experiment holds."""

    experiment: str
    plan: Sequence[PlanEntry]
    """All runs of the plan, also those that have not begun and are not in the archive."""
    states: Mapping[str, RunState]
    """The states of the runs that have begun, by key."""
    of_experiment: Sequence[Path]
    """Files of the experiment and of its evaluations, relative to the records."""
    of_runs: Mapping[str, Sequence[Path]]
    """Files of each run that has begun, relative to the records, by key."""

    @property
    def finished(self) -> int:
        """The number of finished runs."""
        return sum(state.status == "finished" for state in self.states.values())


def choose_contents(records: Path, experiment: str, *, plan: str | None = None, weights: bool = False) -> Contents:
    """Choose what an archive holds.

    The history of the plans and what processes printed are left out, since they name people and places. So are
    files that only a run in hand needs.

    Args:
        records: The folder of the records.
        experiment: The name of the experiment.
        plan: The hash of the plan, or its beginning. None means the present plan.
        weights: Whether to include the weights of finished runs.

    Raises:
        SpecError: The records hold no such experiment or plan.
        ArchiveError: No run has begun, or one is being trained.
    """
    entries = read_plan(records, experiment, plan)
    folders = {entry.key: run_folder(records, entry.key) for entry in entries}
    if held := [entry.name for entry in entries if is_held(folders[entry.key])]:
        raise ArchiveError(
            f"experiment: runs of {experiment!r} are being trained: {', '.join(held)}; archive it when they have ended"
        )
    states = {key: read_state(folder) for key, folder in folders.items()}
    begun = {key: state for key, state in states.items() if state.status != "waiting"}
    if not begun:
        raise ArchiveError(
            f"experiment: no run of {experiment!r} has begun, so that there is nothing to archive; "
            f"run it first: deeper run {experiment}"
        )
    own = experiment_folder(records, experiment)
    plans = [path for path in (own / PLAN, own / EXPERIMENT, *sorted((own / "plans").glob("*.json"))) if path.is_file()]
    evaluated = [
        path for file in evaluation_files(records) if _is_of(file.parent, begun) for path in file.parent.iterdir()
    ]

    def files(key: str, state: RunState) -> list[Path]:
        names = [*OF_A_RUN, *([CHECKPOINT] if weights and state.status == "finished" else [])]
        present = [folders[key] / name for name in names if (folders[key] / name).is_file()]
        return [path.relative_to(records) for path in (*present, *sorted(folders[key].glob(CHANGES)))]

    return Contents(
        experiment=experiment,
        plan=entries,
        states=begun,
        of_experiment=[path.relative_to(records) for path in (*plans, *sorted(evaluated)) if path.is_file()],
        of_runs={key: files(key, state) for key, state in begun.items()},
    )


def _is_of(folder: Path, runs: Mapping[str, RunState]) -> bool:
    """Whether all models of an evaluation are among these runs."""
    evaluation = read_evaluation(folder)
    return evaluation is not None and all(model.get("run") in runs for model in evaluation["models"])
