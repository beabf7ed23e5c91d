"""What CPU this is: its model, its vendor, and those of its instruction sets that decide how fast a network runs."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from reproduce.native import cpu
from reproduce.native.cpu import CpuInfo

SETS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "bf16", "sve", "asimd")
"""Instruction sets as Linux names them, the best first: four of x86, then three of Arm."""
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
    """In lower case; the architecture where the vendor is not known."""
    flags: tuple[str, ...]
    """Those of `SETS` that it has."""


def parse(text: str) -> Cpu:
    """The first processor of a text of /proc/cpuinfo."""
    return _summary(cpu.parse(text))


def this_cpu() -> Cpu:
    """This machine's CPU; without flags where the system is not Linux."""
    return _summary(cpu.this_cpu())


def _summary(info: CpuInfo) -> Cpu:
    return Cpu(
        model=info.model or platform.machine(),
        vendor=VENDORS.get(info.vendor, platform.machine()),
        flags=tuple(name for name in SETS if name in info.flags),
    )
