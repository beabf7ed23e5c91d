"""Selects what goes into a bundle: the lock's requirements for one version of Python, less what the machine has."""

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
"""Needed although no metadata says so: FFCV imports distutils, which Python itself no longer has since 3.12."""

Requires = Callable[[str], Sequence[str]]
"""Maps the name of a distribution to the requirements in its metadata; empty for an unknown one."""


class BundleError(UserError):
    """The requested bundle cannot be made; the message names the request and what would be valid."""


@dataclass(frozen=True)
class Pin:
    """A requirement with the version that the lock pins."""

    name: str
    version: str
    line: str
    """The line for pip, with name, version and hashes but without the marker."""


def target_environment(python: str) -> dict[str, str]:
    """Return the variables of environment markers for Linux with a version of CPython, e.g. 3.12."""
    here = {name: str(value) for name, value in default_environment().items()}
    return here | {"python_version": python, "python_full_version": f"{python}.0", "implementation_version": python}


def read_lock(path: Path, environment: Mapping[str, str]) -> dict[str, Pin]:
    """Read the requirements of a lock file whose markers hold in an environment, by name."""
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
    """Read the direct requirements of the suite."""
    declared = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    return [Requirement(text) for text in (*declared, *UNDECLARED)]


def installed_requirements(name: str) -> Sequence[str]:
    """Read a distribution's requirements from this Python environment, which `make setup` has filled from the lock."""
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
    """Follow requirements to everything that they need.

    Args:
        wanted: Where to start.
        environment: Variables of environment markers.
        requires: Looks up the requirements of a distribution.
        without: Names that are not followed.

    Returns:
        The names of all distributions that are needed, directly or indirectly.
    """
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
    """Divide the requirements of the lock into those that go into the bundle and those that do not.

    Args:
        lock: The requirements by name.
        wanted: Direct requirements of the suite.
        environment: Variables of environment markers.
        without: Requirements to leave out, with everything that only they need.
        requires: Looks up the requirements of a distribution.

    Returns:
        The requirements that are kept and those that are left out, by name.

    Raises:
        BundleError: The suite does not require a name in `without`, or a requirement that is kept pins it.
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
                    f"WITHOUT={','.join(without)}: {name} needs exactly {needed}{requirement.specifier}, which "
                    f"the machine may not have; leave it out as well: WITHOUT={','.join([*without, name])}"
                )
    left_out = (everything - kept) | set(without)
    return (
        {name: pin for name, pin in lock.items() if name not in left_out},
        {name: pin for name, pin in lock.items() if name in left_out},
    )


def _active(requirements: Iterable[str], environment: dict[str, str]) -> list[Requirement]:
    parsed = map(Requirement, requirements)
    return [one for one in parsed if one.marker is None or one.marker.evaluate(environment)]
