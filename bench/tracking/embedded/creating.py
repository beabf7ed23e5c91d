"""Creates an SQLite store whole or not at all.

MLflow makes its tables in dozens of steps. A store that a full disk, or a kill, leaves after some of them is never
mended: MLflow repeats the first steps and finds their columns there already.
"""

from __future__ import annotations

import os
from pathlib import Path

from bench.tracking.location import SQLITE
from bench.tracking.mlflow_setup import QUIET
from reproduce.files.temporary_folders import temporary_folder

PREFIX = ".creating-"


def create_whole(file: Path) -> None:
    """Create the SQLite file of a tracking store beside its place, and move it there once it is complete.

    Does nothing if the file exists. What a killed process has left beside it is removed.

    Args:
        file: The path of the file. Its folder must exist.

    Raises:
        Exception: MLflow's own error, for instance because the disk is full.
    """
    if file.exists():
        return
    os.environ.update(QUIET)
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    longest = os.pathconf(file.parent, "PC_PATH_MAX")
    with temporary_folder(PREFIX, longest=longest, parents=[str(file.parent)]) as folder:
        complete = folder / file.name
        store = SqlAlchemyStore(f"{SQLITE}{complete}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
        store.engine.dispose()  # closes its connections
        if not file.exists():
            complete.rename(file)
