"""Preparing a data set: images encoded by worker processes, written in order by this one.

One writer makes the files the same for the same images, however many workers there are, and lets an unreadable image
or a dead worker end the job with an error; FFCV's own writer waits for ever then.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from pydantic import ValidationError

from reproduce.atomic import replacing, sync_folder
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
from reproduce.data.loading.pool import Unreadable, encode_sample, encoded_chunks
from reproduce.data.manifest import (
    MANIFEST,
    SPLITS,
    DataError,
    Manifest,
    PrepareOptions,
    Split,
    SplitManifest,
    beton,
    content_hash,
    load_manifest,
    sha256,
)
from reproduce.data.sources import Listing, Source
from reproduce.spec import Config

Progress = Callable[[Split, int, int], None]
"""split, images done, images in all."""

PARTIAL = ".partial"
TRIED = 48  # images encoded beforehand to estimate the disk space
LISTED = 20  # unreadable images named in an error


class _Finished(Config):
    """What `manifest.json.partial` remembers of the splits that an interrupted job had finished."""

    fingerprint: str
    splits: dict[Split, SplitManifest]


def prepare(
    source: Source,
    out: Path,
    *,
    options: PrepareOptions = PrepareOptions(),  # noqa: B008  (frozen)
    progress: Progress = lambda split, done, total: None,
    workers: int | None = None,
    skip_bad: bool = False,
    force: bool = False,
    markers: bool = True,
) -> Manifest:
    """Write `train.beton`, `val.beton` and, last, `manifest.json` into the folder `out`.

    Files get their names only when they are whole. An interrupted job, started again, keeps the split that it had
    finished; a finished one is left alone. workers: processes, by default one a core. markers: put restart markers into
    JPEGs, which changes no pixel and not the manifest's hash.

    Raises `DataError`: nothing to read; unreadable images (all of them are found and the first 20 listed), unless
    `skip_bad`; too little disk space; `out` holds another data set, unless `force`; a worker process died.
    """
    with _disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="scratch-", dir=out) as scratch:
            listing = source.open(Path(scratch))
            return _prepare(source, listing, out, options, progress, workers or _cores(), skip_bad, force, markers)


def _prepare(
    source: Source,
    listing: Listing,
    out: Path,
    options: PrepareOptions,
    progress: Progress,
    workers: int,
    skip_bad: bool,
    force: bool,
    markers: bool,
) -> Manifest:
    fingerprint = _fingerprint(source, listing, options)
    if (out / MANIFEST).exists() and not force:
        return _already_prepared(out, source, fingerprint, skip_bad)
    journal = out / f"{MANIFEST}{PARTIAL}"
    (out / MANIFEST).unlink(missing_ok=True)
    splits = {} if force else _finished_splits(out, journal, fingerprint, skip_bad)
    _check_space(out, listing, options, [split for split in SPLITS if split not in splits])
    for split in SPLITS:
        if split not in splits:
            splits[split] = _write_split(listing, split, out, options, progress, workers, skip_bad, markers)
            with replacing(journal) as file:
                file.write(_Finished(fingerprint=fingerprint, splits=splits).model_dump_json().encode())
    manifest = Manifest(
        source=source.name,
        origin=source.origin,
        classes=listing.classes,
        splits=splits,
        options=options,
        fingerprint=fingerprint,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        hash=content_hash(listing.classes, splits),
    )
    with replacing(out / MANIFEST) as file:
        file.write(manifest.model_dump_json(indent=2).encode())
    journal.unlink()
    return manifest


# --- what is there already -----------------------------------------------------------------------------


def _fingerprint(source: Source, listing: Listing, options: PrepareOptions) -> str:
    digest = hashlib.sha256(json.dumps([source.name, listing.classes, options.model_dump()]).encode())
    if source.name == "synthetic":
        digest.update(source.origin.encode())
    for split in SPLITS:
        for sample in listing.splits[split]:
            digest.update(f"{split}\0{sample.name}\0{sample.label}\0{sample.size}\n".encode())
    return digest.hexdigest()


def _already_prepared(out: Path, source: Source, fingerprint: str, skip_bad: bool) -> Manifest:
    found = load_manifest(out)
    skipped = sum(split.skipped for split in found.splits.values())
    if found.fingerprint == fingerprint and (skip_bad or not skipped):
        return found
    if found.fingerprint == fingerprint:
        difference = f"{skipped} unreadable images left out"
    else:
        difference = f"another data set or other options ({found.source} from {found.origin})"
    raise DataError(
        f"{out}: already holds {difference}; prepare {source.name} into another folder, or say that this one "
        "is to be replaced (--force)"
    )


def _finished_splits(out: Path, journal: Path, fingerprint: str, skip_bad: bool) -> dict[Split, SplitManifest]:
    try:
        finished = _Finished.model_validate_json(journal.read_bytes())
    except (FileNotFoundError, ValidationError):
        return {}
    if finished.fingerprint != fingerprint:
        return {}
    return {
        split: entry
        for split, entry in finished.splits.items()
        if beton(out, split).is_file()
        and beton(out, split).stat().st_size == entry.bytes
        and (skip_bad or not entry.skipped)
    }


# --- disk space ----------------------------------------------------------------------------------------


def _check_space(out: Path, listing: Listing, options: PrepareOptions, splits: Sequence[Split]) -> None:
    """Raise `DataError` if the files, judged by a few of their images, will not fit."""
    needed = 0.0
    for split in splits:
        samples = listing.splits[split]
        chosen = samples[:: max(1, len(samples) // TRIED)][:TRIED]
        results = (encode_sample(listing.reader, sample, options, markers=False) for sample in chosen)
        sizes = [len(encoded.data) for encoded in results if isinstance(encoded, Encoded)]
        if sizes:
            needed += 1.1 * len(samples) * (float(np.mean(sizes)) + 64)  # 64: metadata and allocation table
    free = shutil.disk_usage(out).free
    if needed > free:
        raise DataError(
            f"{out}: too little disk space: about {needed / 2**30:.2f} GiB needed, {free / 2**30:.2f} GiB free; "
            "choose another folder, or store less with a smaller max_resolution"
        )


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise
        raise DataError(f"{error.filename or out}: cannot be written: {error.strerror}") from error


# --- one split -----------------------------------------------------------------------------------------


def _write_split(
    listing: Listing,
    split: Split,
    out: Path,
    options: PrepareOptions,
    progress: Progress,
    workers: int,
    skip_bad: bool,
    markers: bool,
) -> SplitManifest:
    samples = listing.splits[split]
    path, partial = beton(out, split), beton(out, split).with_suffix(f".beton{PARTIAL}")
    bad: list[Unreadable] = []
    done = 0
    progress(split, 0, len(samples))
    with _Beton(partial, capacity=len(samples)) as file:
        for chunk, results in encoded_chunks(listing.reader, samples, options, markers, workers):
            for sample, result in zip(chunk, results, strict=True):
                if isinstance(result, Unreadable):
                    bad.append(result)
                elif skip_bad or not bad:  # once the job is lost, it goes on only to find all bad images
                    file.add(result, sample.label)
            done += len(chunk)
            progress(split, done, len(samples))
        if bad and not skip_bad:
            raise DataError(_unreadable(split, bad))
        if len(bad) == len(samples):
            raise DataError(f"{split}: none of {len(samples)} images can be read; {bad[0].name}: {bad[0].reason}")
        file.finish()
    entry = SplitManifest(
        images=file.images,
        skipped=len(bad),
        marked=file.marked,
        bytes=partial.stat().st_size,
        sha256=sha256(partial),
        content=file.content.hexdigest(),
    )
    os.replace(partial, path)
    sync_folder(out)
    return entry


def _unreadable(split: Split, bad: Sequence[Unreadable]) -> str:
    lines = [f"  {name}: {reason}" for name, reason in bad[:LISTED]]
    if len(bad) > LISTED:
        lines.append(f"  and {len(bad) - LISTED} more")
    return "\n".join([f"{split}: {len(bad)} unreadable images; repair them, or leave them out (--skip-bad):", *lines])


# --- the file ------------------------------------------------------------------------------------------


class _Beton:
    """An FFCV file (format 2) with fields `image` and `label`, written front to back.

    Images lie one after the other; as FFCV requires, none crosses a page boundary.
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
        self.marked = 0
        self.content = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if error is not None:
            self._path.unlink()

    def add(self, image: Encoded, label: int) -> None:
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
        """Write what stands before and after the images, down to the disk."""
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


def _cores() -> int:
    return len(os.sched_getaffinity(0))
