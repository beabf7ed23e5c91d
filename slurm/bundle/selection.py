"""Selects the requirements of a bundle: those of the lock for one version of Python that the machine does not have."""

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
"""Requirements that no metadata declares: FFCV imports distutils, which Python 3.12 and later do not contain."""

Requires = Callable[[str], Sequence[str]]
"""A function that maps the name of a distribution to the requirements in its metadata, empty for an unknown one."""


class BundleError(UserError):
    """Raised if the requested bundle cannot be made. The message names the request, or the program that failed."""


@dataclass(frozen=True)
class Pin:
    """A requirement and the version to which a lock file pins it."""

    name: str
    """Normalised name of the distribution."""
    version: str
    """The pinned version."""
    line: str
    """The requirement as pip reads it from a file: name, version and hashes, without the environment marker."""


def target_environment(python: str) -> dict[str, str]:
    """Return the variables of environment markers for this platform with another version of CPython.

    Args:
        python: The version without its patch level, e.g. 3.12.
    """
    here = {name: str(value) for name, value in default_environment().items()}
    return here | {"python_version": python, "python_full_version": f"{python}.0", "implementation_version": python}


def read_lock(path: Path, environment: Mapping[str, str]) -> dict[str, Pin]:
    """Read the requirements of a lock file that apply to an environment.

    Args:
        path: The lock file, with one version and hashes for each requirement.
        environment: Variables of environment markers.

    Returns:
        The requirements without a marker or with one that is true in the environment, by normalised name.
    """
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
    """Read the project's direct requirements from its pyproject.toml, and add those in `UNDECLARED`."""
    declared = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    return [Requirement(text) for text in (*declared, *UNDECLARED)]


def installed_requirements(name: str) -> Sequence[str]:
    """Read the requirements of a distribution from its metadata in this Python environment.

    `make setup` has installed the lock's distributions there.

    Args:
        name: Name of the distribution.

    Returns:
        The requirements with their markers; empty if the distribution is not installed.
    """
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
    """Find all distributions that requirements need, directly or indirectly.

    Args:
        wanted: The requirements to start from.
        environment: Variables of environment markers.
        requires: Returns the requirements of a distribution.
        without: Normalised names of distributions to leave out. Their requirements are not followed.

    Returns:
        The normalised names of the distributions, those of `wanted` included.
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
        lock: The requirements by normalised name.
        wanted: The project's direct requirements.
        environment: Variables of environment markers.
        without: Normalised names of requirements to leave out, together with the requirements that only they need.
        requires: Returns the requirements of a distribution.

    Returns:
        Two dictionaries by name: the requirements to keep and those to leave out.

    Raises:
        BundleError: A name in `without` is not in the lock, or a requirement to keep needs an exact version (==) of it.
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
