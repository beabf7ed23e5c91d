"""A writer of FFCV files. FFCV's own writer is not used, since it waits for ever if one of its workers dies."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from reproduce.data.encoding import LARGEST_STORED, Encoded
from reproduce.data.loading.engine import (
    ALLOC_TABLE_TYPE,
    CURRENT_VERSION,
    TYPE_ID_HANDLER,
    FieldDescType,
    HeaderType,
    IntField,
    RGBImageField,
    get_metadata_type,
)


class FFCVFile:
    """A writer of one FFCV file (format 2) with the fields `image` and `label`.

    Use it as a context manager: call `add` for each image, then `finish`, without which the file is not valid. Leaving
    the block closes the file; an exception in the block also deletes it. As FFCV requires, no image crosses the
    boundary of a page (32 MiB).

    Args:
        path: The file, which is created or overwritten at once.
        capacity: Maximum number of images that will be added.
    """

    fields = {"image": RGBImageField(), "label": IntField()}

    def __init__(self, path: Path, *, capacity: int) -> None:
        self._path = path
        self._file = path.open("wb")
        self._types: dict[Any, int] = {handler: number for number, handler in TYPE_ID_HANDLER.items()}
        self._metadata = np.zeros(capacity, get_metadata_type(list(self.fields.values())))
        self._allocations: list[tuple[int, int, int]] = []
        self._position = HeaderType.itemsize + len(self.fields) * FieldDescType.itemsize + self._metadata.nbytes
        self._file.seek(self._position)
        self.images = 0
        """Images added so far."""
        self.marked = 0
        """Number of the added images that are JPEGs with restart markers."""
        self.content = hashlib.sha256()
        """Running hash of the added images, see `SplitManifest.content`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()  # writes what is buffered, which fails on a full disk
        except OSError:
            self._path.unlink(missing_ok=True)
            raise
        if error is not None:
            self._path.unlink(missing_ok=True)

    def add(self, image: Encoded, label: int) -> None:
        """Append an image and the number of its class."""
        size = len(image.stored)
        left = LARGEST_STORED - self._position % LARGEST_STORED
        if size > left:
            self._position += left
            self._file.seek(self._position)
        self._file.write(image.stored)
        self._metadata[self.images] = ((image.mode, image.width, image.height, self._position), label)
        self._allocations.append((self.images, self._position, size))
        self._position += size
        self.images += 1
        self.marked += image.marked is not None
        self.content.update(f"{label} {image.mode} {image.height} {image.width} {len(image.data)}\n".encode())
        self.content.update(image.data)

    def finish(self) -> None:
        """Write the tables that precede and follow the images, and wait until the file is on the disk.

        Call it once, after the last `add`.
        """
        self._file.write(np.array(self._allocations, ALLOC_TABLE_TYPE).tobytes())
        header = np.zeros(1, HeaderType)
        header["version"], header["num_fields"] = CURRENT_VERSION, len(self.fields)
        header["page_size"], header["num_samples"] = LARGEST_STORED, self.images
        header["alloc_table_ptr"] = self._position
        descriptors = np.zeros(len(self.fields), FieldDescType)
        for descriptor, (name, field) in zip(descriptors, self.fields.items(), strict=True):
            descriptor["type_id"] = self._types[type(field)]
            descriptor["name"][: len(name)] = list(name.encode())
        self._file.seek(0)
        self._file.write(header.tobytes() + descriptors.tobytes() + self._metadata.tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())
