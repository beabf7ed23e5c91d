"""Packs a folder into numbered parts, and adds their checksums and the script that installs them."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

INSTALL = Path(__file__).with_name("install.sh")
SUMS = "SHA256SUMS"


class Parts(io.RawIOBase):
    """A writable stream that is split into files of equal size: `name.part-000`, `name.part-001` and so on.

    Closing the stream closes the last file.
    """

    def __init__(self, folder: Path, name: str, size: int) -> None:
        """Create a stream without files. The first write creates the first file.

        Args:
            folder: Folder of the files, which must exist.
            name: Name of the files without their number.
            size: Size of each file but the last, in bytes.
        """
        self._folder, self._name, self._size = folder, name, size
        self._file: BinaryIO | None = None
        self._left = 0
        self.paths: list[Path] = []

    def writable(self) -> bool:
        return True

    def write(self, content: object) -> int:
        data = memoryview(content)  # type: ignore[arg-type]
        written = 0
        while written < len(data):
            if self._left == 0:
                self._open_next()
            assert self._file is not None
            count = self._file.write(data[written : written + self._left])
            written += count
            self._left -= count
        return written

    def _open_next(self) -> None:
        if self._file is not None:
            self._file.close()
        self.paths.append(self._folder / f"{self._name}.part-{len(self.paths):03d}")
        self._file = self.paths[-1].open("wb")
        self._left = self._size

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def pack(content: Path, out: Path, name: str, part_bytes: int, values: Mapping[str, object]) -> list[Path]:
    """Pack a folder into an archive, split it into parts, and write the script that installs them.

    Args:
        content: The folder to pack.
        out: Folder for the parts, `install.sh` and `SHA256SUMS`. An existing folder is removed first.
        name: Name of the bundle, with which the names of the parts begin.
        part_bytes: Largest size of a part in bytes.
        values: Values for the placeholders in `install.sh`: `@word@` is replaced by the value of `word`. `name` and
            `mib` are added to them.

    Returns:
        The files that were written: `install.sh`, the parts in order, and `SHA256SUMS`.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with Parts(out, name, part_bytes) as parts, tarfile.open(fileobj=parts, mode="w|") as archive:
        for path in sorted(content.iterdir()):
            archive.add(path, path.name, filter=anonymous)
    script = out / INSTALL.name
    text = INSTALL.read_text(encoding="utf-8")
    for word, value in ({**values, "name": name, "mib": installed_mib(content)}).items():
        text = text.replace(f"@{word}@", str(value))
    script.write_text(text, encoding="utf-8")
    script.chmod(0o755)
    listed = [script, *parts.paths]
    (out / SUMS).write_text("".join(f"{_sha256(path)}  {path.name}\n" for path in listed), encoding="utf-8")
    return [*listed, out / SUMS]


def installed_mib(content: Path) -> int:
    """Estimate the most disk space that an installation takes at any time, in MiB.

    It is the size of the unpacked bundle and of the contents of its archives, with bytecode of the size of the sources.

    Args:
        content: The folder that is packed, with wheels and .xz archives.
    """
    total = 0
    for path in content.rglob("*"):
        if path.is_file():
            total += path.stat().st_size
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                # The bytecode of a source file is about as large as the file.
                total += sum(m.file_size * (2 if m.filename.endswith(".py") else 1) for m in archive.infolist())
        elif path.suffix == ".xz":
            with tarfile.open(path) as packed:
                total += sum(member.size for member in packed)
    return total // 2**20 + 1


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Replace the owner and group of an archive's member by root. It changes `member` and returns it."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
