"""Packs a folder into numbered parts, with their checksums and the script that installs them."""

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
    """A stream that is written to files of a given size: `name.part-000`, `name.part-001` and so on."""

    def __init__(self, folder: Path, name: str, size: int) -> None:
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
    """Pack a folder.

    Args:
        content: The folder to pack.
        out: Folder for the parts, `install.sh` and `SHA256SUMS`; it is replaced.
        name: Name of the bundle.
        part_bytes: Largest size of a part.
        values: What replaces the words between @ in the script, by word.

    Returns:
        The files that were written.
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
    """The most disk space in MiB that installing takes: for the unpacked bundle and the contents of its archives."""
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
    """Remove the user and group who packed an archive's member."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
