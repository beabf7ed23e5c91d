"""Which requirements go into a bundle: the lock's for a Python, less what the machine brings and only that needs."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from reproduce.errors import UserError

UNDECLARED = ("setuptools",)
"""What the suite needs although no metadata says so: FFCV imports distutils, which Python has no more since 3.12."""

Requires = Callable[[str], Sequence[str]]
"""A distribution's requirements as its metadata states them, by its name; none for one that is not known."""


class BundleError(UserError):
    """A bundle that cannot be made: names what was asked for, and what would be valid."""


@dataclass(frozen=True)
class Pin:
    """A requirement of the lock."""

    name: str
    version: str
    line: str
    """For pip: name, version and hashes, without the marker."""


def target_environment(python: str) -> dict[str, str]:
    """The markers' variables on a Linux with this version of CPython, e.g. 3.12, on this architecture."""
    here = {name: str(value) for name, value in default_environment().items()}
    return here | {"python_version": python, "python_full_version": f"{python}.0", "implementation_version": python}


def read_lock(path: Path, environment: Mapping[str, str]) -> dict[str, Pin]:
    """The lock's requirements whose markers hold in that environment, by name."""
    pins: dict[str, Pin] = {}
    for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        text, *hashes = line.split(" --hash=")
        if not text.strip() or text.startswith("#") or text.startswith(" "):
            continue
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate(dict(environment)):
            continue
        name = canonicalize_name(requirement.name)
        (version,) = (specifier.version for specifier in requirement.specifier)
        hashed = " ".join([f"{name}=={version}", *(f"--hash={value.strip()}" for value in hashes)])
        pins[name] = Pin(name, version, hashed)
    return pins


def roots(pyproject: Path) -> list[Requirement]:
    """What the suite itself requires."""
    declared = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    return [Requirement(text) for text in (*declared, *UNDECLARED)]


def installed_requirements(name: str) -> Sequence[str]:
    """From the metadata of the environment that this runs in, which `make setup` filled from the lock."""
    try:
        return metadata.requires(name) or ()
    except metadata.PackageNotFoundError:
        return ()


def reachable(
    wanted: Iterable[Requirement],
    environment: Mapping[str, str],
    requires: Requires = installed_requirements,
    without: Collection[str] = (),
) -> set[str]:
    """Names of all that these requirements need, directly or not, other than through `without`."""
    seen: set[tuple[str, str]] = set()
    waiting = list(wanted)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *sorted(requirement.extras)):
            if name in without or (name, extra) in seen:
                continue
            seen.add((name, extra))
            waiting += _active(requires(name), dict(environment) | {"extra": extra})
    return {name for name, _ in seen}


def select(
    lock: Mapping[str, Pin],
    wanted: Sequence[Requirement],
    environment: Mapping[str, str],
    without: Sequence[str],
    requires: Requires = installed_requirements,
) -> tuple[dict[str, Pin], dict[str, Pin]]:
    """What of the lock goes into the bundle and what is left out: `without` and all that only those need.

    Raises `BundleError` for a name that the suite does not require, and for one that something kept pins.
    """
    if strange := [name for name in without if name not in lock]:
        direct = ", ".join(sorted(canonicalize_name(requirement.name) for requirement in wanted))
        raise BundleError(f"WITHOUT={strange[0]}: the suite has no such requirement; it requires {direct}")
    everything = reachable(wanted, environment, requires)
    kept = reachable(wanted, environment, requires, without)
    for name in sorted(kept):
        for requirement in _active(requires(name), dict(environment) | {"extra": ""}):
            needed = canonicalize_name(requirement.name)
            if needed in without and any(specifier.operator == "==" for specifier in requirement.specifier):
                raise BundleError(
                    f"WITHOUT={','.join(without)}: {name} needs {needed}{requirement.specifier}, whatever the machine "
                    f"brings; leave it out as well: WITHOUT={','.join([*without, name])}"
                )
    left_out = (everything - kept) | set(without)
    return (
        {name: pin for name, pin in lock.items() if name not in left_out},
        {name: pin for name, pin in lock.items() if name in left_out},
    )


def _active(requirements: Iterable[str], environment: dict[str, str]) -> list[Requirement]:
    parsed = map(Requirement, requirements)
    return [one for one in parsed if one.marker is None or one.marker.evaluate(environment)]
