"""Predictions on a validation set, one row per image, as Parquet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce import schema
from reproduce.atomic import replacing

if TYPE_CHECKING:
    import numpy as np


def write_predictions(folder: Path, table: Mapping[str, np.ndarray]) -> None:
    """Write `predictions.parquet`.

    Args:
        folder: folder of the run or evaluation.
        table: columns `index`, `label` and `correct` of shape [n], and `top5` of shape [n, 5].
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        name: pa.array(values)
        if values.ndim == 1
        else pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        for name, values in table.items()
    }
    with replacing(folder / schema.ARTIFACT_PREDICTIONS) as file:
        pq.write_table(pa.table(columns), file, compression="zstd")
