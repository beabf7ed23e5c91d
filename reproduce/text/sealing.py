"""Seals lines of JSON: the last field of the object is the CRC-32 of the line without it, `"crc32": "1f0c9a2e"`."""

from __future__ import annotations

import re
import zlib

SEAL = re.compile(rb', "crc32": "([0-9a-f]{8})"\}\s*$')


def sealed(line: bytes) -> bytes:
    """Add the checksum to a line of JSON that holds an object with at least one field and has no end of line."""
    return line[:-1] + f', "crc32": "{zlib.crc32(line):08x}"}}'.encode()


def unsealed(line: bytes) -> bytes | None:
    """Return a line without its checksum; None if that is wrong. Lines of earlier versions have none."""
    seal = SEAL.search(line)
    if seal is None:
        return line
    content = line[: seal.start()] + b"}"
    return content if zlib.crc32(content) == int(seal[1], 16) else None
