"""Formats quantities for people."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """Format a duration in whole seconds below an hour and in whole minutes above: 45 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_bytes(size: float) -> str:
    """Format a number of bytes in MiB below a GiB and in GiB above: 62 MiB, 1.3 GiB."""
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
