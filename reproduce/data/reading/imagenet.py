"""Reading ImageNet (ILSVRC 2012) from its three official archives, without unpacking them.

The training archive is a tar of one tar for each class, and the validation archive is a flat tar. The development kit
lists the classes and the class of each validation image. Labels are those of torchvision: the label of a class is the
position of its WordNet id, counted from 0, in the sorted list of all WordNet ids.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from reproduce.data.manifest import WORDNET_ID, DataError
from reproduce.data.reading.readers import Listing, Progress, Sample
from reproduce.data.reading.trees import members
from reproduce.limits import usable_cpus

TRAIN = "ILSVRC2012_img_train.tar"
VAL = "ILSVRC2012_img_val.tar"
KIT = "ILSVRC2012_devkit_t12.tar.gz"
CHECKSUMS: dict[str, str] = {
    TRAIN: "1d675b47d978889d74fa0da5fadfb00e",
    VAL: "29b22e2961454d5413ddabcf34fc5622",
    KIT: "fa75699e90414af021442c21a62c3abf",
}
"""MD5 of the official archives (torchvision 0.29, torchvision/datasets/imagenet.py)."""
META = "data/meta.mat"
GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
BLOCK = 1 << 22  # bytes of an archive between two reports of progress


@dataclass(frozen=True)
class Kit:
    """Classes and validation labels from ImageNet's development kit."""

    wordnet_ids: Mapping[int, str]
    """WordNet id of each class, by the number of the class in the kit, which begins at 1."""
    names: Mapping[str, str]
    """Description of each class by its WordNet id, for example `tench, Tinca tinca`."""
    ground_truth: Sequence[int]
    """The kit's class number of each validation image, in the order of the images' file names."""


# --- the archives --------------------------------------------------------------------------------------


def list_archives(folder: Path, wanted: int | Path | None = None, progress: Progress = lambda *_: None) -> Listing:
    """List the images of both splits, in the order in which torchvision's `ImageFolder` lists the unpacked archives.

    It reads the development kit, and only the headers within the other two archives. It does not check their MD5 sums;
    `check_archives` does.

    Args:
        folder: The folder of the three archives under their official names.
        wanted: The classes to take: a number of classes, spread evenly over the sorted WordNet ids; or a text file that
            begins each line with one WordNet id (lines that begin with # are comments); or None for all classes. The
            chosen classes are numbered anew from 0.
        progress: Called after each class with "listing classes", the number of classes listed so far, and their total.

    Returns:
        The listing. Classes are called by their WordNet ids; their names for people are the kit's.

    Raises:
        DataError: An archive is missing, damaged or not the one that its name says, an archive has no image of a class,
            the kit and the archives contradict each other, or `wanted` is not a list of at least two known classes.
    """
    for name in (TRAIN, VAL, KIT):
        if not (folder / name).is_file():
            raise DataError(f"imagenet: {folder / name}: no such file; the folder needs {TRAIN}, {VAL} and {KIT}")
    kit = read_kit(folder / KIT)
    members = _class_archives(folder / TRAIN, kit)
    classes = _chosen(sorted(members), wanted)
    label = {wordnet_id: number for number, wordnet_id in enumerate(classes)}
    train = _list_train(folder / TRAIN, {name: members[name] for name in classes}, label, progress)
    val = _list_val(folder / VAL, kit, label)
    if empty := sorted(set(label.values()) - {sample.label for sample in val}):
        raise DataError(f"imagenet: {folder / VAL}: no image of class {classes[empty[0]]}; is the archive complete?")
    return Listing(
        tuple(classes),
        {"train": train, "val": val},
        ArchiveReader(folder / TRAIN, folder / VAL),
        class_names=tuple(kit.names[wordnet_id] for wordnet_id in classes),
    )


@dataclass(frozen=True)
class ArchiveReader:
    """Reads images by their offset in the archive of their split. An archive is opened at the first read from it."""

    train: Path
    """Path of the training archive."""
    val: Path
    """Path of the validation archive."""

    def read(self, sample: Sample) -> bytes:
        file = self._train if sample.name.startswith("train/") else self._val
        return os.pread(file.fileno(), sample.size, sample.position)

    @cached_property
    def _train(self) -> BinaryIO:
        return self.train.open("rb")

    @cached_property
    def _val(self) -> BinaryIO:
        return self.val.open("rb")

    def __getstate__(self) -> dict[str, Path]:
        return {"train": self.train, "val": self.val}


def _class_archives(path: Path, kit: Kit) -> dict[str, tarfile.TarInfo]:
    """List the tars of single classes within the training archive, by WordNet id. Raises `DataError`."""
    known = set(kit.wordnet_ids.values())
    found: dict[str, tarfile.TarInfo] = {}
    with _opened(path) as archive:
        for member in _members(archive, path):
            wordnet_id = PurePosixPath(member.name).stem
            if not member.name.endswith(".tar") or not WORDNET_ID.fullmatch(wordnet_id):
                raise DataError(f"imagenet: {path}: {member.name} is not the tar of a class, such as n01440764.tar")
            if wordnet_id not in known:
                raise DataError(f"imagenet: {path}: {member.name} is no class of {KIT}; are both of ILSVRC 2012?")
            found[wordnet_id] = member
    if len(found) < 2:
        raise DataError(f"imagenet: {path}: holds the tars of {len(found)} classes; at least 2 are needed")
    return found


def _list_train(
    path: Path, members: Mapping[str, tarfile.TarInfo], label: Mapping[str, int], progress: Progress
) -> tuple[Sample, ...]:
    def list_class(wordnet_id: str) -> list[Sample]:
        member = members[wordnet_id]
        with path.open("rb") as file:
            window = _Window(file, member.offset_data, member.size)
            with _opened(path, window, member.name) as archive:
                samples = [
                    Sample(
                        f"train/{wordnet_id}/{PurePosixPath(inner.name).name}",
                        label[wordnet_id],
                        inner.size,
                        member.offset_data + inner.offset_data,
                    )
                    for inner in _members(archive, path, member.name)
                ]
        if not samples:
            raise DataError(f"imagenet: {path}: {member.name} holds no image")
        return sorted(samples)

    listed: list[Sample] = []
    with ThreadPoolExecutor(usable_cpus()) as pool:
        for done, samples in enumerate(pool.map(list_class, sorted(members)), 1):
            listed += samples
            progress("listing classes", done, len(members))
    return tuple(listed)


def _list_val(path: Path, kit: Kit, label: Mapping[str, int]) -> tuple[Sample, ...]:
    with _opened(path) as archive:
        images = sorted(_members(archive, path), key=lambda member: member.name)
    if len(images) != len(kit.ground_truth):
        raise DataError(
            f"imagenet: {path}: {len(images)} images, and {KIT} has labels for {len(kit.ground_truth)}; "
            "both must be complete and of ILSVRC 2012"
        )
    samples = []
    for image, number in zip(images, kit.ground_truth, strict=True):
        wordnet_id = kit.wordnet_ids[number]
        if wordnet_id in label:
            name = f"val/{wordnet_id}/{PurePosixPath(image.name).name}"
            samples.append(Sample(name, label[wordnet_id], image.size, image.offset_data))
    return tuple(sorted(samples, key=lambda sample: (sample.label, sample.name)))


def _opened(path: Path, file: io.RawIOBase | None = None, inner: str = "") -> tarfile.TarFile:
    """Open an uncompressed tar; members of a compressed one could not be read in any order. Raises `DataError`."""
    try:
        return tarfile.open(path, "r:", fileobj=file)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"imagenet: {path}{f', {inner}' if inner else ''}: not a tar: {error}") from error


def _members(archive: tarfile.TarFile, path: Path, inner: str = "") -> Iterator[tarfile.TarInfo]:
    """Iterate over the files of a tar. Raises `DataError` where the tar is damaged or truncated."""
    where = f"imagenet: {path}, {inner}" if inner else f"imagenet: {path}"
    return (member for member in members(archive, where, "; download it again") if member.isfile())


class _Window(io.RawIOBase):
    """A read-only file object for the bytes [start, start + size) of another file."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._place = file, start, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = base + offset
        return self._place

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._place)
        content = os.pread(self._file.fileno(), left if size < 0 else min(size, left), self._start + self._place)
        self._place += len(content)
        return content


# --- classes -------------------------------------------------------------------------------------------


def _chosen(classes: Sequence[str], wanted: int | Path | None) -> list[str]:
    if wanted is None:
        return list(classes)
    if isinstance(wanted, int):
        if not 2 <= wanted <= len(classes):
            raise DataError(
                f"imagenet: classes: {wanted}; use a number from 2 to {len(classes)}, or a file of WordNet ids"
            )
        return [classes[number * len(classes) // wanted] for number in range(wanted)]
    try:
        lines = wanted.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(f"imagenet: classes: {wanted} cannot be read: {reason}; name a file of WordNet ids") from error
    asked = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    for wordnet_id in asked:
        if wordnet_id not in classes:
            raise DataError(
                f"imagenet: classes: {wanted}: {wordnet_id!r} is no class of {TRAIN}; write ids like {classes[0]}"
            )
    if len(asked) < 2 or len(set(asked)) != len(asked):
        raise DataError(
            f"imagenet: classes: {wanted}: {len(asked)} lines name {len(set(asked))} classes; "
            "name at least 2, each once"
        )
    return sorted(asked)


def read_kit(path: Path) -> Kit:
    """Read the classes and validation labels from the archive of the development kit.

    Raises:
        DataError: The archive cannot be read, lacks one of the two files, or one of them is damaged.
    """
    from scipy.io import loadmat  # slow to import

    try:
        with tarfile.open(path) as archive:
            meta, truth = (_content(archive, path, name) for name in (META, GROUND_TRUTH))
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise DataError(
            f"imagenet: {path}: not the development kit, or damaged: {reason}; download it again"
        ) from error
    try:
        load: Any = loadmat  # it has no annotations
        rows = load(io.BytesIO(meta), squeeze_me=True)["synsets"]
        leaves = [row for row in rows if int(row["num_children"]) == 0]
        wordnet_ids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
        names = {str(row["WNID"]): str(row["words"]) for row in leaves}
    except Exception as error:  # a damaged file makes scipy raise errors of many types
        raise DataError(f"imagenet: {path}: {META} is not the list of classes of ILSVRC 2012: {error}") from error
    try:
        ground_truth = [int(line) for line in truth.decode("ascii").split()]
    except ValueError as error:
        raise DataError(f"imagenet: {path}: {GROUND_TRUTH} is not one number on each line: {error}") from error
    if unknown := set(ground_truth) - wordnet_ids.keys():
        raise DataError(f"imagenet: {path}: {GROUND_TRUTH} names class {min(unknown)}, which {META} does not have")
    return Kit(wordnet_ids, names, ground_truth)


def _content(archive: tarfile.TarFile, path: Path, name: str) -> bytes:
    for member in archive:
        if member.isfile() and member.name.endswith(f"/{name}"):
            file = archive.extractfile(member)
            assert file is not None
            return file.read()
    raise DataError(f"imagenet: {path}: has no {name}; is it the development kit of ILSVRC 2012, tasks 1 and 2?")


# --- checksums -----------------------------------------------------------------------------------------


def check_archives(folder: Path, progress: Progress = lambda *_: None) -> None:
    """Compare the MD5 sums of the three archives with the official ones.

    It reads all 145 GB, which takes minutes on a fast disk.

    Args:
        folder: The folder of the archives, all of which must exist.
        progress: Called after each 4 MiB with "checking ARCHIVE", the bytes read so far, and the archive's size.

    Raises:
        DataError: The MD5 sum of an archive differs; the message names the archive.
    """
    for name, expected in CHECKSUMS.items():
        digest = hashlib.md5(usedforsecurity=False)
        size, done = (folder / name).stat().st_size, 0
        with (folder / name).open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                done += len(block)
                progress(f"checking {name}", done, size)
        if digest.hexdigest() != expected:
            raise DataError(
                f"imagenet: {folder / name}: MD5 {digest.hexdigest()}, and the official archive has {expected}; "
                "download it again, or add ,checksums=off to the source to take it as it is"
            )
