"""Preparing a data set: worker processes encode the images, and this process writes them in order.

There is a single writer. The same images therefore make the same file whatever the number of workers, and a worker that
dies ends the job with an error.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from reproduce.atomic import replacing, sync_folder
from reproduce.data.encoding import Encoded
from reproduce.data.ffcv_file import FFCVFile
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
from reproduce.data.pool import Encoder, Unreadable, encode_chunks
from reproduce.data.readers import Listing, Progress
from reproduce.data.sources import Source
from reproduce.limits import usable_cpus
from reproduce.spec import Config

PARTIAL = ".partial"
PROBED = 48  # images encoded in advance to estimate the disk space
LISTED = 20  # unreadable images that an error names


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Options of `prepare`: how images are stored, by how many processes, and how to treat bad images and old files."""

    options: PrepareOptions = field(default_factory=PrepareOptions)
    """Format, size and quality of the stored images."""
    workers: int | None = None
    """Number of worker processes. None starts one for each CPU core that this process may use."""
    skip_bad: bool = False
    """Leave out unreadable images instead of failing."""
    force: bool = False
    """Write all files anew even if the folder holds a data set, whose manifest is deleted before writing begins."""
    markers: bool = True
    """Put restart markers into JPEGs. They change neither the pixels nor the manifest's hash."""


class _Finished(Config):
    """Content of `manifest.json.partial`: the splits that a job has finished so far, from which a later job goes on."""

    fingerprint: str
    splits: dict[Split, SplitManifest]


def prepare(
    source: Source,
    out: Path,
    config: PrepareConfig = PrepareConfig(),
    *,
    progress: Progress = lambda split, done, total: None,
) -> Manifest:
    """Write `train.beton`, `val.beton` and finally `manifest.json` into a folder.

    Each file gets its final name only when it is complete. A job that is started again after an interruption, with the
    same source and options, keeps the splits that are finished. If the folder already holds this data set in full, the
    files stay as they are. With `force`, all files are written anew.

    Args:
        source: The data set to read.
        out: The output folder, which is created if it does not exist.
        config: Options of storage and of the job.
        progress: Called in this process while the source lists its samples, and then before the first and after each
            chunk of images with the split, the number of its images processed so far, and their total.

    Returns:
        The manifest of the folder, newly written or already there.

    Raises:
        DataError: The source has no images or cannot be read. Images are unreadable and `skip_bad` is not set (the job
            still tries every image of the split, and the message lists the first 20 unreadable ones). All images of a
            split are unreadable. The disk has too little space, or `out` cannot be written. `out` holds another data
            set, or lacks images that were unreadable, and `force` is not set. A worker process died.
    """
    with _disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="scratch-", dir=out) as scratch:
            return _Preparation(source, source.open(Path(scratch), progress), out, config, progress).run()


@dataclass(frozen=True)
class _Preparation:
    """The state of one call of `prepare` after the source has listed its samples."""

    source: Source
    listing: Listing
    out: Path
    config: PrepareConfig
    progress: Progress

    def run(self) -> Manifest:
        fingerprint = self._fingerprint()
        if (self.out / MANIFEST).exists() and not self.config.force:
            return self._already_prepared(fingerprint)
        journal = self.out / f"{MANIFEST}{PARTIAL}"
        splits = {} if self.config.force else self._finished_splits(journal, fingerprint)
        self._check_space([split for split in SPLITS if split not in splits])
        (self.out / MANIFEST).unlink(missing_ok=True)
        for split in SPLITS:
            if split not in splits:
                splits[split] = self._write_split(split)
                with replacing(journal) as file:
                    file.write(_Finished(fingerprint=fingerprint, splits=splits).model_dump_json().encode())
        manifest = Manifest(
            source=self.source.name,
            origin=self.source.origin,
            classes=self.listing.classes,
            splits=splits,
            options=self.config.options,
            fingerprint=fingerprint,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            hash=content_hash(self.listing.classes, splits),
        )
        with replacing(self.out / MANIFEST) as file:
            file.write(manifest.model_dump_json(indent=2).encode())
        journal.unlink()
        return manifest

    def _fingerprint(self) -> str:
        identity = [self.source.name, self.listing.classes, self.config.options.model_dump()]
        digest = hashlib.sha256(json.dumps(identity).encode())
        if self.source.name == "synthetic":
            digest.update(self.source.origin.encode())
        for split in SPLITS:
            for sample in self.listing.splits[split]:
                digest.update(f"{split}\0{sample.name}\0{sample.label}\0{sample.size}\n".encode())
        return digest.hexdigest()

    def _already_prepared(self, fingerprint: str) -> Manifest:
        found = load_manifest(self.out)
        skipped = sum(split.skipped for split in found.splits.values())
        if found.fingerprint == fingerprint and (self.config.skip_bad or not skipped):
            return found
        if found.fingerprint == fingerprint:
            reason = f"the folder lacks {skipped} images that were unreadable"
        else:
            reason = f"the folder already holds another data set or other options ({found.source} from {found.origin})"
        raise DataError(
            f"{self.out}: {reason}; prepare {self.source.name} into another folder, or replace this one (--force)"
        )

    def _finished_splits(self, journal: Path, fingerprint: str) -> dict[Split, SplitManifest]:
        """Read which splits of an interrupted job are finished and can be kept as they are."""
        try:
            finished = _Finished.model_validate_json(journal.read_bytes())
        except (FileNotFoundError, ValidationError):
            return {}
        if finished.fingerprint != fingerprint:
            return {}
        return {
            split: entry
            for split, entry in finished.splits.items()
            if beton(self.out, split).is_file()
            and beton(self.out, split).stat().st_size == entry.bytes
            and (self.config.skip_bad or not entry.skipped)
        }

    def _check_space(self, splits: Sequence[Split]) -> None:
        """Raise `DataError` if the disk lacks space for the splits' files, estimated from up to 48 images of each."""
        encoder = Encoder(self.listing.reader, self.config.options, markers=False)
        needed = 0.0
        for split in splits:
            samples = self.listing.splits[split]
            probed = samples[:: max(1, len(samples) // PROBED)][:PROBED]
            sizes = [len(image.data) for image in map(encoder.encode, probed) if isinstance(image, Encoded)]
            if sizes:
                needed += 1.1 * len(samples) * (float(np.mean(sizes)) + 64)  # 64: metadata and allocation table
        free = shutil.disk_usage(self.out).free
        if needed > free:
            raise DataError(
                f"{self.out}: too little disk space: about {needed / 2**30:.2f} GiB needed, {free / 2**30:.2f} GiB "
                "free; choose another folder, or store less with a smaller max_resolution"
            )

    def _write_split(self, split: Split) -> SplitManifest:
        samples, skip_bad = self.listing.splits[split], self.config.skip_bad
        encoder = Encoder(self.listing.reader, self.config.options, self.config.markers)
        workers = self.config.workers or usable_cpus()
        path, partial = beton(self.out, split), beton(self.out, split).with_suffix(f".beton{PARTIAL}")
        bad: list[Unreadable] = []
        done = 0
        self.progress(split, 0, len(samples))
        with FFCVFile(partial, capacity=len(samples)) as file:
            for chunk, results in encode_chunks(encoder, samples, workers):
                for sample, result in zip(chunk, results, strict=True):
                    if isinstance(result, Unreadable):
                        bad.append(result)
                    elif skip_bad or not bad:  # a job that has failed goes on only to find all unreadable images
                        file.add(result, sample.label)
                done += len(chunk)
                self.progress(split, done, len(samples))
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
        sync_folder(self.out)
        return entry


def _unreadable(split: Split, bad: Sequence[Unreadable]) -> str:
    lines = [f"  {name}: {reason}" for name, reason in bad[:LISTED]]
    if len(bad) > LISTED:
        lines.append(f"  and {len(bad) - LISTED} more")
    return "\n".join([f"{split}: {len(bad)} unreadable images; repair them, or leave them out (--skip-bad):", *lines])


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Raise a `DataError` in place of an `OSError` that the user can mend: a full or read-only disk, a wrong path."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise
        raise DataError(f"{error.filename or out}: cannot be written: {error.strerror}") from error
