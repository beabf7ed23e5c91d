"""Reads the tables of a tracking store in an SQLite file, without MLflow.

Reading through MLflow takes a query for each metric of each run and seconds to import. The tables are read only, and
only if MLflow's schema has a version that is known here.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from analysis.reading.stored import History, StoredExperiment, StoredRun

KNOWN_SCHEMAS = ("dc11669786a5",)
"""Versions of MLflow's schema, as its table `alembic_version` holds them, that are read like this: that of 3.17."""
BUSY_TIMEOUT_S = 60.0
"""Longest wait for a process that is writing."""
WORKSPACE = "default"
"""The only workspace that the client of a store without workspaces sees."""
ROW = np.dtype([("run", "i8"), ("step", "i8"), ("value", "f8"), ("is_nan", "?")])

log = logging.getLogger(__name__)


def open_sqlite(file: Path) -> SqliteStore | None:
    """Open a tracking store in an SQLite file for reading.

    Args:
        file: The path of the file, which exists.

    Returns:
        The store. None if the file cannot be read like this; unless it is empty, a warning names the reason.
    """
    try:
        database = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)
    except sqlite3.Error as error:
        log.warning("%s is read through MLflow, which is slower: %s", file, error)
        return None
    try:
        versions = [version for (version,) in database.execute("SELECT version_num FROM alembic_version")]
    except sqlite3.Error as error:
        reason = str(error)
    else:
        if len(versions) == 1 and versions[0] in KNOWN_SCHEMAS:
            return SqliteStore(database)
        reason = f"its schema has the unknown version {', '.join(versions) or 'none'}"
    database.close()
    if file.stat().st_size:
        log.warning("%s is read through MLflow, which is slower: %s", file, reason)
    return None


class SqliteStore:
    """A tracking store in an SQLite file; see `analysis.reading.stored.Store`.

    Args:
        database: A connection to the file. Its schema is one of `KNOWN_SCHEMAS`.
    """

    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.execute("PRAGMA temp_store = MEMORY")
        database.execute("CREATE TEMP TABLE wanted (run_uuid TEXT PRIMARY KEY, place INTEGER) WITHOUT ROWID")

    def experiment(self, name: str) -> StoredExperiment | None:
        """See `Store`."""
        found = self._database.execute(
            "SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = ? AND workspace = ?", (name, WORKSPACE)
        ).fetchone()
        if found is None:
            return None
        tags = self._database.execute("SELECT key, value FROM experiment_tags WHERE experiment_id = ?", found[:1])
        return StoredExperiment(id=str(found[0]), is_deleted=found[1] == "deleted", tags=dict(tags))

    def experiment_names(self) -> list[str]:
        """See `Store`."""
        rows = self._database.execute(
            "SELECT name FROM experiments WHERE lifecycle_stage = 'active' AND workspace = ?", (WORKSPACE,)
        )
        return [name for (name,) in rows]

    def runs(self, experiment_id: str) -> list[StoredRun]:
        """See `Store`."""
        rows = self._database.execute(
            "SELECT run_uuid, status, start_time, end_time, artifact_uri FROM runs "
            "WHERE experiment_id = ? AND lifecycle_stage = 'active' ORDER BY start_time DESC, run_uuid",
            (int(experiment_id),),
        ).fetchall()
        params, tags = (self._texts(table, experiment_id) for table in ("params", "tags"))
        metrics = self._latest(experiment_id)
        return [
            StoredRun(
                id=run,
                status=status,
                start_ms=start,
                end_ms=end,
                params=params.get(run, {}),
                metrics=metrics.get(run, {}),
                tags=tags.get(run, {}),
                artifacts=artifacts or "",
            )
            for run, status, start, end, artifacts in rows
        ]

    def histories(self, wanted: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, History]]:
        """See `Store`."""
        for name, runs in wanted.items():
            with contextlib.closing(self._database.cursor()) as cursor:
                cursor.execute("DELETE FROM temp.wanted")
                cursor.executemany("INSERT INTO temp.wanted VALUES (?, ?)", ((run, i) for i, run in enumerate(runs)))
                rows = np.fromiter(
                    cursor.execute(
                        "SELECT place, step, value, is_nan FROM temp.wanted JOIN metrics USING (run_uuid) "
                        "WHERE key = ? ORDER BY timestamp, step, value",
                        (name,),
                    ),
                    dtype=ROW,
                )
            yield name, History(rows["run"].copy(), rows["step"].copy(), _values(rows["value"], rows["is_nan"]))

    def close(self) -> None:
        """See `Store`."""
        self._database.close()

    def _texts(self, table: str, experiment_id: str) -> dict[str, dict[str, str]]:
        """Read the params or the tags of all runs of an experiment, by run, in the order in which they were written."""
        found: dict[str, dict[str, str]] = {}
        for run, key, value in self._database.execute(
            f"SELECT run_uuid, key, value FROM {table} JOIN runs USING (run_uuid) "
            f"WHERE experiment_id = ? ORDER BY {table}.rowid",
            (int(experiment_id),),
        ):
            found.setdefault(run, {})[key] = value
        return found

    def _latest(self, experiment_id: str) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for run, key, value, is_nan in self._database.execute(
            "SELECT run_uuid, key, value, is_nan FROM latest_metrics JOIN runs USING (run_uuid) "
            "WHERE experiment_id = ? ORDER BY latest_metrics.rowid",
            (int(experiment_id),),
        ):
            found.setdefault(run, {})[key] = float("nan") if is_nan else value
        return found


def _values(value: np.ndarray, is_nan: np.ndarray) -> np.ndarray:
    return np.where(is_nan, np.nan, value)
