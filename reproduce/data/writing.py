"""Preparing a data set: worker processes encode the images, and this process writes them in order.

There is a single writer. The same images therefore make the same file whatever the number of workers, and a worker that
dies ends the job with an error.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import ValidationError

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
from reproduce.data.reading.readers import Listing, Progress
from reproduce.data.sources import Source
from reproduce.data.verification import stamp_written
from reproduce.files.atomic import replacing, sync_folder
from reproduce.files.disk import naming_full_disk
from reproduce.files.locks import try_lock
from reproduce.limits import usable_cpus
from reproduce.spec import Config

PARTIAL = ".partial"
LOCK = ".prepare.lock"
SCRATCH = ".scratch-"
LEAVING = re.compile(r"(train|val)\.beton\.partial|\.?scratch-[a-z0-9_]{8}|\.manifest\.json(\.partial)?\.\d+")
MENDABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EIO),
    *(errno.ENOENT, errno.ESTALE, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR),
)
PROBED = 48  # images encoded in advance to estimate the disk space
LISTED = 20  # unreadable images that an error names


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Options of `prepare`: how images are stored, by how many processes, and how to treat bad images and old files."""

    options: PrepareOptions = field(default_factory=PrepareOptions)
    """Format, size and quality of the stored images."""
    workers: int | None = None
    """Number of worker processes, at least 1. None starts one for each CPU core that this process may use."""
    skip_bad: bool = False
    """Leave out unreadable images instead of failing."""
    force: bool = False
    """Write all files anew even if the folder holds a data set, whose manifest is deleted before writing begins."""
    markers: bool = True
    """Put restart markers into JPEGs. They change neither the pixels nor the manifest's hash."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise DataError(f"workers: {self.workers}; use 1 or more")


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
    same source and options, keeps the splits that are finished, and removes what a killed one has left half done. If
    the folder already holds this data set in full, the files stay as they are. With `force`, all files are written
    anew. One job at a time writes to a folder.

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
            class in a split are unreadable. The disk has too little space by the estimate, or `out` cannot be written,
            or another job is writing to it. `out` holds another data set, an FFCV file without a manifest, or lacks
            images that were unreadable, and `force` is not set. A worker process died.
        DiskFullError: The disk is full nevertheless.
        KeyboardInterrupt: As Python raises it; the message says what is kept.
    """
    with _disk_errors(out), _only_job(out):
        _remove_leavings(out)
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=out) as scratch:
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
        splits = self._resumed(journal, fingerprint)
        self._check_space([split for split in SPLITS if split not in splits])
        (self.out / MANIFEST).unlink(missing_ok=True)
        try:
            self._write_journal(journal, fingerprint, splits)
            for split in SPLITS:
                if split not in splits:
                    splits[split] = self._write_split(split)
                    self._write_journal(journal, fingerprint, splits)
        except BaseException as error:
            if not splits:
                journal.unlink(missing_ok=True)
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(self._interrupted(splits)) from None
            raise
        manifest = Manifest(
            source=self.source.name,
            origin=self.source.origin,
            classes=self.listing.classes,
            splits=splits,
            options=self.config.options,
            fingerprint=fingerprint,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            hash=content_hash(self.listing.classes, splits),
            class_names=self.listing.class_names,
            notes=self.listing.notes,
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
                digest.update(
                    f"{split}\0{sample.name}\0{sample.label}\0{sample.size}\n".encode(errors="surrogateescape")
                )
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

    def _resumed(self, journal: Path, fingerprint: str) -> dict[Split, SplitManifest]:
        """Return the splits of an interrupted job that are finished and can be kept as they are.

        Raises:
            DataError: An FFCV file is there that no journal of this job names, and `force` is not set.
        """
        if self.config.force:
            return {}
        try:
            unfinished = _Finished.model_validate_json(journal.read_bytes())
        except (FileNotFoundError, ValidationError):
            unfinished = None
        if unfinished is None or unfinished.fingerprint != fingerprint:
            for path in (beton(self.out, split) for split in SPLITS):
                if path.exists():
                    reason = "no manifest says what it holds" if unfinished is None else "it is of an unfinished job"
                    raise DataError(
                        f"{path}: exists, and {reason}{' with another source or options' if unfinished else ''}; "
                        f"prepare {self.source.name} into another folder, or replace the file (--force)"
                    )
            return {}
        return {
            split: entry
            for split, entry in unfinished.splits.items()
            if beton(self.out, split).is_file()
            and beton(self.out, split).stat().st_size == entry.bytes
            and (self.config.skip_bad or not entry.skipped)
        }

    def _write_journal(self, journal: Path, fingerprint: str, splits: dict[Split, SplitManifest]) -> None:
        with replacing(journal) as file:
            file.write(_Finished(fingerprint=fingerprint, splits=splits).model_dump_json().encode())

    def _interrupted(self, splits: dict[Split, SplitManifest]) -> str:
        if not splits:
            return "interrupted before a file was finished; the same command starts anew"
        kept = " and ".join(beton(self.out, split).name for split in splits)
        without = " without --force" if self.config.force else ""
        return f"interrupted; {kept} {'is' if len(splits) == 1 else 'are'} kept: the same command{without} goes on"

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
        labels: set[int] = set()
        done = 0
        self.progress(split, 0, len(samples))
        with FFCVFile(partial, capacity=len(samples)) as file:
            for chunk, results in encode_chunks(encoder, samples, workers):
                for sample, result in zip(chunk, results, strict=True):
                    if isinstance(result, Unreadable):
                        bad.append(result)
                    elif skip_bad or not bad:  # a job that has failed goes on only to find all unreadable images
                        file.add(result, sample.label)
                        labels.add(sample.label)
                done += len(chunk)
                self.progress(split, done, len(samples))
            if bad and not skip_bad:
                raise DataError(_unreadable(split, bad))
            if lost := sorted({sample.label for sample in samples} - labels):
                named = f"class {self.listing.classes[lost[0]]}" + (f" and {len(lost) - 1} more" if lost[1:] else "")
                first = f"the first of {len(bad)} unreadable ones is {bad[0].name}: {bad[0].reason}"
                raise DataError(f"{split}: no image of {named} can be read; {first}")
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
        stamp_written(path, entry.sha256)
        return entry


def _unreadable(split: Split, bad: Sequence[Unreadable]) -> str:
    lines = [f"  {name}: {reason}" for name, reason in bad[:LISTED]]
    if len(bad) > LISTED:
        lines.append(f"  and {len(bad) - LISTED} more")
    return "\n".join([f"{split}: {len(bad)} unreadable images; repair them, or leave them out (--skip-bad):", *lines])


@contextmanager
def _only_job(out: Path) -> Iterator[None]:
    """Create the folder and lock it against other jobs until the block ends; a killed job's lock ends with it.

    Raises:
        DataError: Another job holds the lock, or files cannot be created in the folder.
    """
    path = out / LOCK
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(path)
    except FileExistsError as error:
        raise DataError(f"{error.filename}: is a file; name a folder to write the prepared files to") from error
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be written: {error.strerror}") from error
    if descriptor is None:
        raise DataError(f"{out}: another job is preparing data into this folder; wait for it, or name another folder")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path) -> int | None:
    """Create and lock a file; returns None if it is locked already."""
    while True:
        try:
            descriptor = try_lock(path)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)  # the file system has no locks, and one does without
        if descriptor is None:
            return None
        with suppress(FileNotFoundError):  # else the job before has removed the file meanwhile
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)


def _remove_leavings(out: Path) -> None:
    """Remove the scratch folders and half-written files of jobs that were killed."""
    for entry in out.iterdir():
        if LEAVING.fullmatch(entry.name):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Raise a `UserError` in place of an `OSError` that the user can mend: a full or read-only disk, a wrong path."""
    try:
        with naming_full_disk(out):
            yield
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        path = Path(os.fsdecode(error.filename or out))
        action = "written" if path == out or out in path.parents else "read"
        raise DataError(f"{path}: cannot be {action}: {error.strerror}") from error
