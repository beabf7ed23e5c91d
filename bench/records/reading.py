"""Reads files of records that are JSON, YAML or Parquet, and names one that is damaged in a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from reproduce.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader, in C where libyaml is installed, since a thousand configurations take many seconds without it."""


class DamagedRecordError(UserError):
    """Raised if the content of a file is not what this program has written. The message names the file."""

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(f"{path}: damaged: {_one_line(reason)}; restore it from a copy of these records")


@contextmanager
def naming_unreadable(path: Path) -> Iterator[None]:
    """Raise `DamagedRecordError` in place of the errors for a folder that stands for a file and for a missing right."""
    try:
        yield
    except (IsADirectoryError, PermissionError) as error:
        raise DamagedRecordError(path, error.strerror) from error


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedRecordError: It is a folder, or may not be read.
    """
    with naming_unreadable(path):
        return path.read_bytes()


def read_json(path: Path, kind: type[Any]) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        kind: What it holds: `dict` or `list`.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedRecordError: It is not JSON, or holds something else.
    """
    try:
        content = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DamagedRecordError(path, error) from error
    return _checked(path, content, kind)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedRecordError: It is not YAML, or holds something else.
    """
    try:
        content = yaml.load(read_bytes(path), Loader=YAML_LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DamagedRecordError(path, error) from error
    found: dict[str, Any] = _checked(path, content, dict)
    return found


def read_frame(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read columns of a Parquet file, and compare its pages with their checksums, which older files lack.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedRecordError: It is no such Parquet file, or a page does not have its checksum.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found: pd.DataFrame = pq.read_table(path, columns=list(columns), page_checksum_verification=True).to_pandas()
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedRecordError(path, error) from error
    if missing := [name for name in columns if name not in found]:
        raise DamagedRecordError(path, f"it has no column {missing[0]}")
    return found


def _checked(path: Path, content: Any, kind: type[Any]) -> Any:
    if not isinstance(content, kind):
        raise DamagedRecordError(path, f"it holds a {type(content).__name__} in place of a {kind.__name__}")
    return content


def _one_line(reason: object) -> str:
    return " ".join(str(reason).split()) or type(reason).__name__
