"""Checks that the machine has the packages that a bundle was made without, and that they are new enough.

    python machine.py machine.json

It runs on the target machine before anything of the bundle is installed, so it uses the standard library only.
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
    needed: dict[str, str] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    wrong = [sentence for name, oldest in needed.items() if (sentence := problem(name, oldest))]
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


def problem(name: str, oldest: str) -> str:
    """Check a package of this machine.

    Args:
        name: Name of its distribution.
        oldest: Oldest version that will do; empty for any.

    Returns:
        What is wrong with it, in a sentence; empty if it will do.
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
    """The release numbers of a version: (2, 11, 0) for a vendor's build such as 2.11.0a0+git1234."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


if __name__ == "__main__":
    sys.exit(main())
