"""Keeps note of how much of an experiment a tracking store holds.

    <records>/publisher/<hash of the store's URI>/<experiment>/
        experiment_id             MLflow's id of the experiment
        plan                      the hash of the present plan whose names and tags the store holds
        pages                     the format in which notes, colours and views were published last
        <key>.json                the cursor of a run
        evaluation-<name>.json    a marker: the evaluation is published

    <records>/publisher/id        a random number, which tells folders of records apart that one store knows

Each file but `id` is written after the store has accepted what the file records. A publisher that is killed therefore
repeats steps but skips none.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.records.reading import DamagedRecordError, read_bytes, read_json
from reproduce.files.atomic import write_atomically


@dataclass(frozen=True)
class Cursor:
    """The position up to which the events of one run are published to a tracking store."""

    run_id: str
    """MLflow's id of the run."""
    offset: int = 0
    """Number of bytes of events.jsonl that are published."""
    status: str = "RUNNING"
    """MLflow's status of the run."""
    epoch: int = 0
    """The last published epoch, counted from 0. Final metrics get it as their step."""
    described: bool = False
    """Whether the run's configuration is published. It stays False for a run that failed before it had one."""


def planner(records: Path) -> str:
    """Return 8 hexadecimal digits that tell these records from others that are published to the same store.

    The number is kept in the records; the path tells a copy of the folder from the original. Only the publisher may
    call the function.

    Args:
        records: The folder of the records, as an absolute path.
    """
    path = records / "publisher" / "id"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, secrets.token_hex(8).encode())
    return hashlib.sha256(read_bytes(path) + f" {records}".encode()).hexdigest()[:8]


class ExperimentCursors:
    """The cursors of one experiment in one tracking store, kept in files below the records.

    Cursors are cached, so that an instance does not see what another process writes later. Only the publisher, which
    holds a lock on the records, may write.

    Args:
        records: The folder of the records.
        uri: The URI of the tracking store. The folder of the cursors is named after its hash.
        experiment: The name of the experiment.
    """

    def __init__(self, records: Path, uri: str, experiment: str) -> None:
        self._folder = records / "publisher" / hashlib.sha256(uri.encode()).hexdigest()[:8] / experiment
        self._cursors: dict[str, Cursor] = {}

    def experiment_id(self) -> str | None:
        """Return MLflow's id of the experiment, or None if the experiment was never published to this store."""
        try:
            return _read_text(self._folder / "experiment_id")
        except FileNotFoundError:
            return None

    def clear(self) -> None:
        """Delete all cursors and all markers of evaluations, because the store that they describe is gone."""
        self._cursors.clear()
        for path in self._folder.glob("*.json"):
            path.unlink()
        for name in ("plan", "pages"):
            (self._folder / name).unlink(missing_ok=True)

    def write_experiment_id(self, experiment_id: str) -> None:
        """Keep MLflow's id of the experiment, and create the folder that all other methods write to."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / "experiment_id", experiment_id.encode())

    def plan(self) -> str | None:
        """Return the hash of the plan that was published as the present one last, or None if there was none."""
        try:
            return _read_text(self._folder / "plan")
        except FileNotFoundError:
            return None

    def write_plan(self, digest: str) -> None:
        """Keep the hash of the present plan, once the store holds it."""
        write_atomically(self._folder / "plan", digest.encode())

    def pages(self) -> str | None:
        """Return the format of the pages that the store holds, or None if an older version published them."""
        try:
            return _read_text(self._folder / "pages")
        except FileNotFoundError:
            return None

    def write_pages(self, form: str) -> None:
        """Keep the format of the pages, once the store holds them."""
        write_atomically(self._folder / "pages", form.encode())

    def read(self, key: str) -> Cursor | None:
        """Return the cursor of the run with this key, or None if nothing of the run is published.

        A damaged file counts as missing: the run is found in the store by its tags, and is sent again, which changes
        nothing there.
        """
        if key not in self._cursors:
            try:
                cursor = Cursor(**read_json(self._folder / f"{key}.json", dict))
            except (FileNotFoundError, DamagedRecordError, TypeError):
                return None
            if [type(value) for value in vars(cursor).values()] != [str, int, str, int, bool]:
                return None
            self._cursors[key] = cursor
        return self._cursors[key]

    def write(self, key: str, cursor: Cursor) -> None:
        """Replace the cursor of the run with this key."""
        write_atomically(self._folder / f"{key}.json", json.dumps(asdict(cursor)).encode())
        self._cursors[key] = cursor

    def has_evaluation(self, name: str) -> bool:
        """Return whether the evaluation whose folder has this name is published."""
        return self._marker(name).exists()

    def mark_evaluation(self, name: str) -> None:
        """Record that the evaluation whose folder has this name is published."""
        write_atomically(self._marker(name), b"{}")

    def _marker(self, name: str) -> Path:
        return self._folder / f"evaluation-{name}.json"


def _read_text(path: Path) -> str:
    return read_bytes(path).decode("utf-8", errors="replace")
