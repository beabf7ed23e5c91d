"""What a package outside `bench` adds to the command line.

An extension defines one `Extension`, and `bench.cli` passes it to the commands. The commands therefore never import the
package that extends them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.console.checks import Check
from bench.console.options import Verbs

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class StatusSection:
    """A part of `deeper status` that an extension contributes."""

    name: str
    """Its key in the JSON of `deeper status --json`."""
    content: Any
    """Its value there."""
    view: RenderableType | None
    """What a person sees; None if there is nothing to show."""


@dataclass(frozen=True)
class Extension:
    """The verbs of a package, and its parts of `deeper status` and `deeper doctor`.

    Building the parser calls `add_verbs` and `add_doctor_options`, so these must not import anything slow.
    """

    add_verbs: Callable[[Verbs, argparse.ArgumentParser], None]
    """Adds verbs, given the subparsers and the parent parser with --records and --data."""
    status_section: Callable[[Path, str], StatusSection]
    """Describes an experiment, given the folder of the records and the name of the experiment."""
    add_doctor_options: Callable[[argparse.ArgumentParser], None]
    """Adds the options of `checks` to the parser of `deeper doctor`."""
    checks: Callable[[argparse.Namespace], list[Check]]
    """Runs the checks, given the parsed command line of `deeper doctor`."""
