"""Checks that a machine has the packages that a bundle leaves out, and that they are new enough.

    python machine.py machine.json

This script runs on the target machine before any part of the bundle is installed, so it uses the standard library only.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from importlib import metadata
from pathlib import Path

OLDEST_TRIED = {"torch": "2.11", "torchvision": "0.26", "mlflow": "3.17"}
OPTIONAL = {"mlflow": "use `deeper run --no-publish` here, and publish and report the records on another machine"}


def main() -> int:
    """Check the packages listed in a file, and print a sentence for each problem to standard error.

    The command line names the file. It holds a JSON object that maps the name of each distribution to the oldest valid
    version, or to an empty string if any version is valid.

    Returns:
        The exit code: 0 if all packages may be used, else 1.
    """
    needed: dict[str, str] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    wrong = [sentence for name, oldest in needed.items() if (sentence := problem(name, oldest))]
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


def problem(name: str, oldest: str) -> str:
    """Check a package of this machine by its version and by importing it into this process.

    If an optional package (`OPTIONAL`) is not installed, a note is printed and no problem is returned.

    Args:
        name: Name of the package's distribution.
        oldest: Oldest valid version; empty if any version is valid.

    Returns:
        A sentence that describes the problem; empty if there is none.
    """
    at_least = f" {oldest} or newer" if oldest else ""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        if name in OPTIONAL:
            print(f"{name} is not installed: {OPTIONAL[name]}.")
            return ""
        return f"{name} is not installed for this Python; the bundle was made without it and needs {name}{at_least}."
    if oldest and _release(version) < _release(oldest):
        return f"{name} {version} is too old; the bundle needs {name}{at_least}."
    module = name.replace("-", "_")
    try:
        if importlib.util.find_spec(module):  # some packages are imported by another name
            importlib.import_module(module)
    except Exception as error:  # importing a package of others may raise anything
        return f"{name} {version} cannot be imported: {type(error).__name__}: {error}."
    return ""


def _release(version: str) -> tuple[int, ...]:
    """Return the release numbers of a version, e.g. (2, 11, 0) for a vendor's build such as 2.11.0a0+git1234."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


if __name__ == "__main__":
    sys.exit(main())
