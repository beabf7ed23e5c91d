"""The experiments that are part of this package, as YAML files, and where the text of an experiment is found.

A name or the path of a file comes in, text goes out. The module imports nothing slow, so that a mistyped name is
answered at once.
"""

from __future__ import annotations

import os
from pathlib import Path

from reproduce.errors import SpecError, did_you_mean


def shipped_experiments() -> list[str]:
    """List the names of the experiments that are part of this package, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))


def experiment_path(name_or_path: str | Path) -> Path:
    """Return the path of an experiment's file.

    Args:
        name_or_path: The name of a shipped experiment, or the path of a file, which ends in `.yaml` or `.yml`.

    Raises:
        SpecError: There is no such experiment.
    """
    path, names = Path(name_or_path), shipped_experiments()
    if path.suffix in (".yaml", ".yml"):
        if not os.path.isfile(path):  # Path.is_file raises an error if the name is too long
            raise SpecError(f"experiment: {path}: no such file; give the path of a file, or one of {', '.join(names)}")
        return path
    if str(name_or_path) not in names:
        known = ", ".join(names) + did_you_mean(str(name_or_path), names)
        raise SpecError(f"experiment: {name_or_path!r} is neither a file (*.yaml) nor one of {known}")
    return Path(__file__).with_name(f"{name_or_path}.yaml")
