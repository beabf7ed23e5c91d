"""How much of an experiment a tracking store holds.

    <records>/publisher/<hash of the store's URI>/<experiment>/
        experiment_id             MLflow's id of the experiment
        <key>.json                the cursor of a run
        evaluation-<name>.json    a marker: the evaluation is published

Each file is written after what it stands for, so that a publisher that is killed repeats steps but skips none.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from reproduce.atomic import write_atomically


@dataclass(frozen=True)
class Cursor:
    """How much of a run's events a tracking store holds."""

    run_id: str
    """MLflow's id of the run."""
    offset: int = 0
    """Number of bytes of events.jsonl that are published."""
    status: str = "RUNNING"
    """MLflow's status of the run."""
    epoch: int = 0
    """Last published epoch, which is the step of final metrics."""
    described: bool = False
    """Whether the run's configuration is published; a run that failed before it began has none."""


class ExperimentCursors:
    """The cursors of one experiment in one tracking store. What was read or written is remembered."""

    def __init__(self, records: Path, uri: str, experiment: str) -> None:
        self._folder = records / "publisher" / hashlib.sha256(uri.encode()).hexdigest()[:8] / experiment
        self._cursors: dict[str, Cursor] = {}

    def experiment_id(self) -> str | None:
        """MLflow's id of the experiment; None if it was never published to this store."""
        try:
            return (self._folder / "experiment_id").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def clear(self) -> None:
        """Forget all cursors and evaluations, as is necessary if the store that they describe is gone."""
        self._cursors.clear()
        for path in self._folder.glob("*.json"):
            path.unlink()

    def write_experiment_id(self, experiment_id: str) -> None:
        """Remember MLflow's id of the experiment."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / "experiment_id", experiment_id.encode())

    def read(self, key: str) -> Cursor | None:
        """The cursor of a run; None if nothing of the run is published."""
        if key not in self._cursors:
            try:
                content = json.loads((self._folder / f"{key}.json").read_text(encoding="utf-8"))
            except FileNotFoundError:
                return None
            self._cursors[key] = Cursor(**content)
        return self._cursors[key]

    def write(self, key: str, cursor: Cursor) -> None:
        """Replace the cursor of a run."""
        write_atomically(self._folder / f"{key}.json", json.dumps(asdict(cursor)).encode())
        self._cursors[key] = cursor

    def has_evaluation(self, name: str) -> bool:
        """Whether an evaluation is published."""
        return self._marker(name).exists()

    def mark_evaluation(self, name: str) -> None:
        """Remember that an evaluation is published."""
        write_atomically(self._marker(name), b"{}")

    def _marker(self, name: str) -> Path:
        return self._folder / f"evaluation-{name}.json"
