"""Writes predictions on a validation set as a Parquet file with one row per image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce import schema
from reproduce.files.atomic import replacing

if TYPE_CHECKING:
    import numpy as np


def write_predictions(folder: Path, table: Mapping[str, np.ndarray]) -> None:
    """Write `predictions.parquet` into the folder of a run or an evaluation, atomically replacing an earlier one.

    Args:
        folder: The folder of the run or evaluation, which must exist.
        table: Columns by name, for n images: `index` [n] int64, the image's place in the data set; `label` [n] int64;
            `top5` [n, min(5, classes)] int64, the classes with the highest scores in descending order; `correct` [n]
            bool, whether the first of them is the label.
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
