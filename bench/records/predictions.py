"""Writes predictions on a validation set as a Parquet file with one row per image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce import schema
from reproduce.files.atomic import replacing

if TYPE_CHECKING:
    import numpy as np


def write_predictions(folder: Path, table: Mapping[str, np.ndarray], class_names: Sequence[str] = ()) -> None:
    """Write `predictions.parquet` into the folder of a run or an evaluation, atomically replacing an earlier one.

    Args:
        folder: The folder of the run or evaluation, which must exist.
        table: Columns by name, for n images: `index` [n] int64, the image's place in the data set; `label` [n] int64;
            `top5` [n, min(5, classes)] int64, the classes with the highest scores in descending order; `correct` [n]
            bool, whether the first of them is the label.
        class_names: Names of the classes for people, in the order of the labels. They become the entry
            `schema.CLASS_NAMES` of the file's metadata, as a JSON list. Empty if they are unknown.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        name: pa.array(values)
        if values.ndim == 1
        else pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        for name, values in table.items()
    }
    metadata = {schema.CLASS_NAMES: json.dumps(list(class_names), ensure_ascii=False)} if class_names else None
    with replacing(folder / schema.ARTIFACT_PREDICTIONS) as file:
        pq.write_table(pa.table(columns, metadata=metadata), file, compression="zstd", write_page_checksum=True)
