"""Write and read the checkpoints of a run.

`checkpoint.pt` is the newest one and `checkpoint-before.pt` the one before, which is used if the newest is damaged.
Each is replaced atomically: even if the writing process is killed, a reader finds the last complete checkpoint, or none
if there was none. A file is what `torch.save` writes, followed by the SHA-256 of these bytes; `torch.load` ignores what
follows. Files of earlier versions lack it; the checksums within the zip file are then compared instead. The content is
a dictionary that `torch.load(weights_only=True)` reads:

    key          the run's key
    epoch, step  the next step to run, both from 0; if `step` is the number of steps of an epoch, validation is next
    finished     True if all epochs are trained and validated
    network      state dict of the network with its last weights; None if `finished` and the recipe averages
    averaged     {"network": state dict, "steps": int} of the averaged weights; None if the recipe does not average
    optimiser    state dict of the optimiser; None if `finished`
    history      metrics of the complete epochs, one dictionary for each epoch
    ranks        one dictionary for each rank, ordered by rank: `generators` holds the states of torch's random
                 generators, `sums` the metrics of the current epoch so far (None between two epochs)
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from reproduce.errors import UserError
from reproduce.files.atomic import replacing, sync_folder

FILE_NAME = "checkpoint.pt"
FILE_NAME_BEFORE = "checkpoint-before.pt"

MARK = b"SHA-256 of all bytes before this line: "
TRAILER_SIZE = len(MARK) + 2 * hashlib.sha256().digest_size + 1
ZIP_END = b"PK\x05\x06"  # the signature of the last record of a zip file, which has 22 bytes if there is no comment
ZIP_END_SIZE = 22

log = logging.getLogger(__name__)


class CheckpointError(UserError):
    """Raised when a checkpoint belongs to another run, cannot be read, or differs between the ranks of a run."""


class DamagedCheckpointError(Exception):
    """Raised if the bytes of a checkpoint are not those that were written. The message says why."""


def save(folder: Path, content: dict[str, Any]) -> None:
    """Write `checkpoint.pt` into a folder; an older one becomes `checkpoint-before.pt`.

    The file is durable when this function returns.

    Args:
        folder: The folder of the run's record. It must exist.
        content: The checkpoint, with the keys that the module's docstring lists.

    Raises:
        DiskFullError: There is no room for the checkpoint. Older checkpoints are untouched.
        OSError: The checkpoint could not be written for another reason. Older checkpoints are untouched.
    """
    newest = folder / FILE_NAME
    with replacing(newest) as file:
        _write(content, file)
        file.flush()
        os.fsync(file.fileno())
        if newest.exists():
            newest.replace(folder / FILE_NAME_BEFORE)


def load(folder: Path, key: str) -> dict[str, Any] | None:
    """Read the newest undamaged checkpoint of a run onto the CPU.

    Args:
        folder: The folder of the run's record.
        key: The run's key.

    Returns:
        The checkpoint, with the keys that the module's docstring lists. None if the folder has no undamaged checkpoint.

    Raises:
        CheckpointError: The checkpoint in this folder belongs to another run.
    """
    return load_and_name_damaged(folder, key)[0]


def load_and_name_damaged(folder: Path, key: str) -> tuple[dict[str, Any] | None, list[str]]:
    """Read the newest undamaged checkpoint as `load` does, and list the damaged files that were passed over.

    Returns:
        What `load` returns, and the names of the newer files, which are damaged.

    Raises:
        CheckpointError: The checkpoint in this folder belongs to another run, or cannot be read.
    """
    damaged = []
    for name in (FILE_NAME, FILE_NAME_BEFORE):
        path = folder / name
        try:
            content = _read(path)
        except FileNotFoundError:
            continue
        except (IsADirectoryError, PermissionError) as error:
            raise CheckpointError(
                f"{path}: cannot be read: {error.strerror}; mend that, or move it away to start from the one before"
            ) from error
        except DamagedCheckpointError as error:
            log.warning("%s: the checkpoint is damaged: %s", path, error)
            damaged.append(name)
            continue
        if content["key"] != key:
            raise CheckpointError(
                f"{path}: belongs to run {content['key']}, not to {key}; move the file away to start this run from "
                "its beginning"
            )
        return content, damaged
    return None, damaged


def resume_point(folder: Path, key: str) -> tuple[dict[str, int] | None, list[str]]:
    """Find the point from which a run would be resumed.

    Args:
        folder: The folder of the run's record.
        key: The run's key.

    Returns:
        The keys `epoch` and `step`, both counted from 0; None if the folder has no undamaged checkpoint of this run.
        And the names of the newer checkpoints, which are damaged.
    """
    try:
        content, damaged = load_and_name_damaged(folder, key)
    except CheckpointError:
        return None, []
    return None if content is None else {"epoch": content["epoch"], "step": content["step"]}, damaged


def put_back(folder: Path) -> None:
    """Make the checkpoint before the newest one, which is damaged, the newest.

    Otherwise the next `save` would keep the damaged file and drop the good one.
    """
    (folder / FILE_NAME_BEFORE).replace(folder / FILE_NAME)
    sync_folder(folder)


def drop_before(folder: Path) -> None:
    """Delete the checkpoint before the newest, which a finished run no longer needs once its result is durable."""
    (folder / FILE_NAME_BEFORE).unlink(missing_ok=True)


def surplus_bytes(folder: Path, key: str) -> int:
    """Return how many bytes of a finished run's checkpoint are of no use any more: momentum, and weights not evaluated.

    Tensors are not read. A checkpoint that is missing, unfinished, damaged or another run's has none.
    """
    try:
        content = torch.load(folder / FILE_NAME, map_location="cpu", weights_only=True, mmap=True)
        if content["key"] != key or not content["finished"]:
            return 0
        return sum(_tensor_bytes(content[name]) for name in _surplus(content))
    except (OSError, *UNREADABLE):
        return 0


def keep_final_weights(folder: Path, key: str) -> bool:
    """Write the checkpoint of a finished run anew with the weights alone that were evaluated.

    It is replaced atomically. A checkpoint that holds nothing else, or that is missing, unfinished or damaged, is left
    as it is.

    Returns:
        Whether the newest checkpoint is finished and undamaged, so that the one before it is of no use.

    Raises:
        CheckpointError: The checkpoint in this folder belongs to another run.
        DiskFullError: There is no room for the new file. The old one is untouched.
    """
    content, damaged = load_and_name_damaged(folder, key)
    if content is None or damaged or not content["finished"]:
        return False
    if surplus := _surplus(content):
        with replacing(folder / FILE_NAME) as file:
            _write({**content, **dict.fromkeys(surplus)}, file)
    return True


def _surplus(content: dict[str, Any]) -> list[str]:
    """Name the entries of a finished checkpoint that nothing needs any more."""
    unused = ["optimiser"] if content.get("optimiser") is not None else []
    return unused + (["network"] if content.get("averaged") is not None and content["network"] is not None else [])


def _tensor_bytes(content: Any) -> int:
    if isinstance(content, torch.Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, dict):
        return sum(map(_tensor_bytes, content.values()))
    return sum(map(_tensor_bytes, content)) if isinstance(content, (list, tuple)) else 0


def _write(content: dict[str, Any], file: BinaryIO) -> None:
    hashing = _HashingFile(file)
    torch.save(content, cast(BinaryIO, hashing))
    hashing.raise_error()
    file.write(MARK + hashing.digest.hexdigest().encode() + b"\n")


class _HashingFile:
    """A file for `torch.save` that computes the SHA-256 of what is written.

    Torch turns an exception of `write` into a failed assertion that does not name the cause, so the exception is kept
    for `raise_error`, and nothing more is written.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self._file = file
        self._error: OSError | None = None

    def write(self, content: Any) -> int:
        if self._error is None:
            try:
                self._file.write(content)
                self.digest.update(content)
            except OSError as error:
                self._error = error
        return len(content)

    def flush(self) -> None:
        """Do nothing: the caller flushes the file."""

    def raise_error(self) -> None:
        """Raise the exception of the first write that failed, if one has."""
        if self._error is not None:
            raise self._error


def _read(path: Path) -> dict[str, Any]:
    """Read a checkpoint and compare its bytes with their checksum.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedCheckpointError: The file is damaged.
    """
    content = path.read_bytes()
    trailer = content[-TRAILER_SIZE:]
    if trailer.startswith(MARK):
        found = hashlib.sha256(memoryview(content)[:-TRAILER_SIZE]).hexdigest()
        if trailer != MARK + found.encode() + b"\n":
            raise DamagedCheckpointError("its bytes do not have the SHA-256 at its end")
        return _parse(content)
    if content[-ZIP_END_SIZE:][: len(ZIP_END)] != ZIP_END:
        raise DamagedCheckpointError("its end is missing or overwritten")
    try:  # a checkpoint of an earlier version; whatever a damaged one makes of the two readers is damage
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            first_bad = archive.testzip()
        if first_bad is not None:
            raise DamagedCheckpointError(f"{first_bad} within it does not have its CRC-32")
        return _parse(content)
    except UNREADABLE as error:
        raise DamagedCheckpointError(f"{type(error).__name__}: {error}") from error


UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, struct.error),
    *(EOFError, LookupError, RuntimeError, ValueError),
)
"""What the readers of a zip file and of a checkpoint raise at bytes that are neither."""


def _parse(content: bytes) -> dict[str, Any]:
    parsed: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return parsed
