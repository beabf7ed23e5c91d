"""Lists the images in folders and tars with `train/<class>/*` and `val/<class>/*`, as machines leave them.

What operating systems leave between the images, and files that are no images by their names, are passed over and
counted. Anything that could lose an image unseen, such as a link that leads nowhere, is an error.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import posixpath
import shutil
import stat
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast

from reproduce.data.manifest import SPLITS, DataError, Split
from reproduce.data.reading.readers import FileReader, Reader, TarReader

LAYOUT = "train/<class>/* and val/<class>/*"
LEFT_BY_SYSTEMS = frozenset({
    *("@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "__macosx", "$recycle.bin", "system volume information"),
    *("lost+found", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"),
})  # fmt: skip
"""Names, in lower case, of what NAS systems, macOS and Windows leave in folders. Hidden names, which begin with a dot,
count to them."""
_SUFFIXES = (
    "apng arw avif bmp bw cr2 cr3 cur dcm dcx dds dib dng eps exr fits gif hdr heic heif icns ico j2c j2k jfif jng jp2 "
    "jpc jpe jpeg jpf jpg jpx jxl mpo msp nef orf pbm pcx pfm pgm png pnm ppm psd qoi raf ras raw rgb rgba rw2 sgi svg "
    "tga tif tiff webp xbm xcf xpm"
)
IMAGE_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
"""Suffixes of images, in lower case. Some of the formats cannot be read: such an image is an error and not passed
over. A name without a suffix may be that of an image as well."""
KINDS_NAMED = 5  # kinds of names that a note lists
DEREFERENCE = "pack the archive with tar --dereference --hard-dereference"
UNREAD_ARCHIVES = {b"PK\x03\x04": "a zip", b"\x28\xb5\x2f\xfd": "compressed by zstd", b"7z\xbc\xaf": "a 7z archive"}


class Found(NamedTuple):
    """An image of a tree."""

    name: str
    """`<split>/<class>/...`."""
    size: int
    """Size in bytes."""
    position: int
    """Offset of its bytes in the archive; 0 for a file of its own."""


@dataclass
class Tree:
    """The images of a folder or archive, the class folders, and what was passed over."""

    files: list[Found] = field(default_factory=list)
    folders: dict[Split, set[str]] = field(default_factory=lambda: {split: set() for split in SPLITS})
    """Names of the class folders of each split, including empty ones."""
    repeated: list[str] = field(default_factory=list)
    """Names of images that an archive holds more than once."""
    left: set[str] = field(default_factory=set)
    """Paths of what systems leave."""
    others: list[str] = field(default_factory=list)
    """Names of files that are no images by their names."""
    stray: list[str] = field(default_factory=list)
    """Names of files beside the class folders that are images by their names."""

    def passes_over(self, name: str) -> bool:
        """Whether part of a path is a name that systems leave. It is then counted."""
        parts = name.split("/")
        for end, part in enumerate(parts, 1):
            if _left_by_systems(part):
                self.left.add("/".join(parts[:end]))
                return True
        return False

    def add_folder(self, name: str) -> None:
        """Add a folder `<split>/...`."""
        parts = name.split("/")
        if len(parts) >= 2:
            self.folders[cast(Split, parts[0])].add(parts[1])

    def add_file(self, name: str, size: int, position: int = 0) -> None:
        """Add a file `<split>/...` that has the name of an image."""
        if name.count("/") < 2:
            self.stray.append(name)
            return
        self.add_folder(posixpath.dirname(name))
        self.files.append(Found(name, size, position))

    def is_image(self, name: str) -> bool:
        """Whether a file is an image by its name. One that is not is counted."""
        suffix = PurePosixPath(name).suffix.lower()
        if not suffix or suffix in IMAGE_SUFFIXES:
            return True
        self.others.append(name)
        return False

    def notes(self) -> tuple[str, ...]:
        """Say what was passed over and what may surprise, in one sentence each."""
        left = Counter("._*" if name.startswith("._") else name for name in map(posixpath.basename, self.left))
        others = Counter(PurePosixPath(name).suffix.lower() for name in self.others)
        deep = [file.name for file in self.files if file.name.count("/") > 2]
        notes = []
        if left:
            notes.append(f"{_count(len(self.left), 'name')} that systems leave passed over: {_kinds(left)}")
        if others:
            what = f"{_count(len(self.others), 'file')} passed over, being no images by their names"
            notes.append(f"{what}: {_kinds(others)}, such as {min(self.others)}")
        if self.stray:
            notes.append(f"{_count(len(self.stray), 'file')} in no class folder left out, such as {min(self.stray)}")
        if deep:
            what = f"{_count(len(deep), 'image')} in folders within a class folder taken as images of the class"
            notes.append(f"{what}, such as {min(deep)}")
        if self.repeated:
            what = f"{_count(len(self.repeated), 'member')} of the archive repeated, of which the last counts"
            notes.append(f"{what}, such as {min(self.repeated)}")
        return tuple(map(printable, notes))


def _left_by_systems(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFT_BY_SYSTEMS


def printable(text: str) -> str:
    """Replace what is no UTF-8 in a file's name, so that the text can be stored and printed."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _kinds(kinds: Counter[str]) -> str:
    ordered = sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0]))
    listed = [f"{kind.strip()} ({number})" for kind, number in ordered[:KINDS_NAMED]]
    return ", ".join([*listed, *(["..."] if len(ordered) > KINDS_NAMED else [])])


# --- folders ------------------------------------------------------------------------------------------


def list_folder(path: Path) -> tuple[Tree, Reader]:
    """List the images below a folder, or below its only sub-folder if that one holds `train`. Links are followed.

    Returns:
        The images, and the reader that reads them by their names.

    Raises:
        DataError: A folder cannot be read, a link leads nowhere or back to a folder that contains it, or what has the
            name of an image is no file.
    """
    tree, root = Tree(), path
    try:
        if not (path / "train").is_dir():
            inner = [entry for entry in path.iterdir() if not _left_by_systems(entry.name) and entry.is_dir()]
            if len(inner) == 1 and (inner[0] / "train").is_dir():
                root = inner[0]
    except OSError as error:
        raise _unread(error.filename or path, error) from error
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [
        (split, frozenset()) for split in SPLITS if os.path.isdir(root / split)
    ]
    while pending:
        name, above = pending.pop()
        try:
            status = (root / name).stat()
            with os.scandir(root / name) as opened:
                entries = list(opened)
        except OSError as error:
            raise _unread(root / name, error) from error
        here = (status.st_dev, status.st_ino)
        if here in above:
            raise DataError(f"{root / name}: links back to a folder that contains it; remove the link")
        for entry in entries:
            inner_name = f"{name}/{entry.name}"
            if not tree.passes_over(inner_name) and _add(tree, entry, inner_name):
                pending.append((inner_name, above | {here}))
    return tree, FileReader(root)


def _add(tree: Tree, entry: os.DirEntry[str], name: str) -> bool:
    """Add an entry of a folder to the tree; returns whether it is a folder."""
    try:
        status = entry.stat()
    except OSError as error:
        is_class = name.count("/") == 1 and entry.is_symlink()
        if not is_class and not tree.is_image(name):
            return False
        reason = "leads nowhere" if entry.is_symlink() else f"cannot be read: {error.strerror}"
        raise DataError(f"{entry.path}: {reason}; restore it, or remove it") from error
    if stat.S_ISDIR(status.st_mode):
        tree.add_folder(name)
        return True
    if tree.is_image(name):
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{entry.path}: no file, but a device, a socket or a pipe; remove it")
        tree.add_file(name, status.st_size)
    return False


def _unread(path: object, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read: {error.strerror or error}")


# --- tars ---------------------------------------------------------------------------------------------


class _Member(NamedTuple):
    """A member of a tar: a file with its place, a folder, a link to the member `target`, or something else."""

    kind: str
    size: int = 0
    position: int = 0
    target: str = ""


def list_tar(path: Path, scratch: Path) -> tuple[Tree, Reader]:
    """List the images of a tar with `train` and `val` at its top or one folder down.

    Links to other members count as these. Of members with the same name the last counts, as when the tar is unpacked.

    Args:
        path: The tar. A compressed one is decompressed as a whole into `scratch`.
        scratch: An existing folder.

    Returns:
        The images, and the reader that reads them by their positions.

    Raises:
        DataError: The tar is missing, damaged or truncated, or an image is a link out of the tar, or no file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a tar of {LAYOUT}")
    plain = _uncompressed(path, scratch)
    tree = Tree()
    try:
        with tarfile.open(plain, "r:") as archive:
            held, repeated = _held(archive, path)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path}: not a tar, or damaged: {error}") from error
    folders = {str(folder) for full in held for folder in PurePosixPath(full).parents}
    inside: dict[str, dict[str, str]] = {}  # names of members by their names from the split on, by the folder above
    for full in held:
        parts = full.split("/")
        split = next((place for place, part in enumerate(parts[:2]) if part in SPLITS), None)
        if split is not None and not tree.passes_over(full):
            inside.setdefault("/".join(parts[:split]), {})["/".join(parts[split:])] = full
    if len(inside) > 1 and "" not in inside:
        raise DataError(f"{path}: train/ and val/ lie in several folders ({', '.join(sorted(inside))}); give one set")
    for name, full in (inside.get("") or next(iter(inside.values()), {})).items():
        member = _followed(held, full)
        if held[full].kind == "folder":
            tree.add_folder(name)
        elif member.kind == "folder" or member.target in folders or tree.is_image(name):
            if member.kind != "file":
                reason = f"a link to {member.target}, which is no file of it" if member.target else f"a {member.kind}"
                raise DataError(printable(f"{path}: {full}: {reason}; {DEREFERENCE}"))
            tree.add_file(name, member.size, member.position)
            tree.repeated += [name] if full in repeated else []
    return tree, TarReader(plain)


def _held(archive: tarfile.TarFile, path: Path) -> tuple[dict[str, _Member], set[str]]:
    """Read which members a tar holds, by their paths, and which paths it holds more than once.

    Hard links become the files that they name.
    """
    held: dict[str, _Member] = {}
    repeated: set[str] = set()
    for member in members(archive, str(path)):
        name = _normal(member.name)
        if member.isdir():
            held[name] = _Member("folder")
            continue
        if name in held and held[name].kind != "folder":
            repeated.add(name)
        if member.issparse():
            held[name] = _Member("sparse file")
        elif member.isreg():
            held[name] = _Member("file", member.size, member.offset_data)
        elif member.islnk():
            target = _normal(member.linkname)
            held[name] = held.get(target, _Member("link", target=target))
        elif member.issym():
            held[name] = _Member("link", target=_normal(posixpath.join(posixpath.dirname(name), member.linkname)))
        else:
            held[name] = _Member("device or pipe")
    return held, repeated


def _normal(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")


def _followed(held: dict[str, _Member], name: str) -> _Member:
    """Follow links to the member that they end at; a link is returned if it is the last one that can be followed."""
    member, seen = held[name], {name}
    while member.kind == "link" and member.target in held and member.target not in seen:
        seen.add(member.target)
        member = held[member.target]._replace(target=held[member.target].target or member.target)
    return member


def members(archive: tarfile.TarFile, where: str, hint: str = "") -> Iterator[tarfile.TarInfo]:
    """Iterate over the members of an uncompressed tar, to its end marker.

    `tarfile` takes whatever is no header for the end, so that damage would hide all that follows.

    Args:
        archive: The opened tar.
        where: Path of the tar, with which messages begin.
        hint: End of the messages, such as "; download it again".

    Raises:
        DataError: A header is damaged, or the tar does not hold a member in full or lacks its end marker.
    """
    file: Any = archive.fileobj
    end = int(file.seek(0, os.SEEK_END))
    while True:
        try:
            member = archive.next()
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:  # of what headers may say
            raise DataError(f"{where}: damaged or truncated: {error}{hint}") from error
        if member is None:
            break
        if member.size < 0:
            raise DataError(printable(f"{where}: damaged: {member.name} has a size of {member.size} bytes{hint}"))
        if not member.issparse() and member.offset_data + member.size > end:
            raise DataError(printable(f"{where}: truncated within {member.name}{hint}"))
        yield member
    file.seek(archive.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise DataError(f"{where}: truncated: it lacks the end marker of a tar{hint}")
    if any(block):
        raise DataError(f"{where}: damaged at byte {archive.offset}, where a member should begin{hint}")


def _uncompressed(path: Path, scratch: Path) -> Path:
    """Return `path` if the tar is not compressed, else an uncompressed copy in `scratch`.

    Members of an uncompressed tar can be read in any order.
    """
    try:
        with path.open("rb") as file:
            start = file.read(6)
    except OSError as error:
        raise _unread(path, error) from error
    for magic, what in UNREAD_ARCHIVES.items():
        if start.startswith(magic):
            raise DataError(f"{path}: {what}; unpack it and give the folder, or give a tar (plain, gzip, bzip2 or xz)")
    openers: dict[bytes, Any] = {
        b"\x1f\x8b": gzip.open,
        b"BZh": bz2.open,
        b"\xfd7zXZ\0": lzma.open,
    }
    opener = next((opener for magic, opener in openers.items() if start.startswith(magic)), None)
    if opener is None:
        return path
    plain = scratch / "source.tar"
    unpacked: BinaryIO
    with plain.open("wb") as unpacked:
        try:
            with opener(path, "rb") as packed:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise DataError(f"{path}: damaged or truncated: {error}") from error
        except OSError as error:
            if error.errno is not None:  # of the disk: decompressors name no number
                raise
            raise DataError(f"{path}: damaged or truncated: {error}") from error
    return plain
