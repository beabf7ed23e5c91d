"""What CPU this is: its model, its vendor, and those of its instruction sets that decide how fast a network runs."""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass
from pathlib import Path

SETS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "bf16", "sve", "asimd")
"""As Linux names them, best first: x86's four, then Arm's three."""
VENDORS = {  # x86's vendor, Arm's implementer
    "GenuineIntel": "intel",
    "AuthenticAMD": "amd",
    "HygonGenuine": "hygon",
    "0x41": "arm",
    "0x46": "fujitsu",
    "0x48": "hisilicon",
    "0x4e": "nvidia",
    "0x61": "apple",
    "0x6d": "microsoft",
    "0xc0": "ampere",
}


@dataclass(frozen=True)
class Cpu:
    """A CPU, as far as figures measured on it depend on it."""

    model: str
    vendor: str
    """In small letters; the architecture where the vendor is not known."""
    flags: tuple[str, ...]
    """Those of `SETS` that it has."""


def parse(text: str) -> Cpu:
    """The first processor of a text of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    found = (fields.get("flags") or fields.get("Features") or "").split()
    vendor = fields.get("vendor_id") or fields.get("CPU implementer") or ""
    return Cpu(
        model=fields.get("model name", platform.machine()),
        vendor=VENDORS.get(vendor, platform.machine()),
        flags=tuple(name for name in SETS if name in found),
    )


@functools.cache
def this_cpu() -> Cpu:
    """This machine's; outside Linux without its flags."""
    try:
        return parse(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Cpu(platform.processor() or platform.machine(), platform.machine(), ())
