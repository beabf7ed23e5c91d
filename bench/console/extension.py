"""Defines how a package outside `bench` extends the command line.

Such a package defines one `Extension`, and `bench.cli` passes it to the commands. The commands therefore never import
the package that extends them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.console.checks import Check
from bench.console.options import Subparsers

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class StatusSection:
    """A section that an extension adds to the output of `deeper status`."""

    name: str
    """The key of the section in the output of `deeper status --json`."""
    content: Any
    """The value of that key, which must be JSON-serialisable."""
    view: RenderableType | None
    """The section as text for a terminal. None if there is nothing to show."""


@dataclass(frozen=True)
class Extension:
    """The subcommands that a package adds to `deeper`, and its parts of `deeper status` and `deeper doctor`.

    `bench.cli` calls `add_commands` and `add_doctor_options` at the start of every command to build the parser.
    They must not import anything slow.
    """

    add_commands: Callable[[Subparsers, argparse.ArgumentParser], None]
    """Adds subcommands, given the subparsers of `deeper` and the parent parser with --records and --data."""
    status_section: Callable[[Path, str], StatusSection]
    """Returns the section on an experiment, given the folder of the records and the experiment's name."""
    add_doctor_options: Callable[[argparse.ArgumentParser], None]
    """Adds the options that `checks` reads to the parser of `deeper doctor`."""
    checks: Callable[[argparse.Namespace], list[Check]]
    """Runs the checks and returns their findings, given the parsed command line of `deeper doctor`."""
