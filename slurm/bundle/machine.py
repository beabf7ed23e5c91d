"""What a bundle leaves to the machine: whether it is there and new enough. Runs on that machine, before anything of
the bundle is installed: standard library only.

    python machine.py machine.json
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
OPTIONAL = {"mlflow": "records are written with `deeper run --no-publish`, to be published and reported elsewhere"}


def main() -> int:
    needed: dict[str, str] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    wrong = [sentence for name, oldest in needed.items() if (sentence := problem(name, oldest))]
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


def problem(name: str, oldest: str) -> str:
    """What is wrong with a package of this machine, in a sentence; nothing if it will do."""
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
        if importlib.util.find_spec(module):  # some are imported by another name
            importlib.import_module(module)
    except Exception as error:  # whatever a foreign package raises
        return f"{name} {version} cannot be imported: {type(error).__name__}: {error}."
    return ""


def _release(version: str) -> tuple[int, ...]:
    """2.11.0a0+git1234 as (2, 11, 0): a vendor's build of a version counts as that version."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


if __name__ == "__main__":
    sys.exit(main())
