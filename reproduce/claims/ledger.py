"""Claims as data: the ledger file, typed and validated.

A claim is a row of `ledger.yaml`. Its `parts` are the single values that are compared, each with what its measurement
must give; a measurement is a function registered by name in `reproduce.claims.registry`.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from reproduce.spec import Config, SpecError, validated

Kind = Literal["static", "empirical"]
Value = bool | int | float | str | tuple[int, ...]
"""A measured or expected value; a tuple is a shape, height x width x channels."""


class Source(Config):
    """Where a claim stands."""

    document: str
    """A key of the ledger's `documents`."""
    section: str = ""


class Part(Config):
    """One value of a claim: what is measured, and what it must be. One of `expected`, `at_least` and `at_most`."""

    of: str
    """Name of the value among those that the measurement gives."""
    name: str = ""
    """What it is called in tables; default: `of`."""
    expected: Value | None = None
    within: float = Field(0.0, ge=0)
    """Largest difference from `expected`, in its unit, that counts as the same."""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    """The reason of a deviation, where one is known."""

    @model_validator(mode="after")
    def _coherent(self) -> Part:
        given = [name for name in ("expected", "at_least", "at_most") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"{self.of}: has {' and '.join(given) or 'none'} of expected, at_least, at_most; give one")
        if self.within and not isinstance(self.expected, int | float):
            raise ValueError(f"{self.of}: within {self.within} needs a number in expected")
        return self

    @property
    def label(self) -> str:
        return self.name or self.of


class Claim(Config):
    """A row of the ledger."""

    id: str = Field(pattern=r"^[A-Z]-[a-z0-9-]+$")
    statement: str
    source: Source
    claimed: str
    """The claimed value, as its source gives it."""
    rule: str
    """When the claim holds, in words; the numbers of the rule are those of `parts`."""
    protocol: str
    """How it is put to the test."""
    kind: Kind
    """static: decided from the network alone. empirical: decided from recorded runs."""
    measurement: str | None = None
    """Name of a registered function; only an empirical claim may still lack it."""
    parts: tuple[Part, ...] = ()
    experiment: str | None = None
    """Of an empirical claim: the experiment whose runs decide it."""
    needs: str = ""
    """Of an empirical claim: what has to be at hand to decide it."""

    @model_validator(mode="after")
    def _coherent(self) -> Claim:
        if self.kind == "static" and self.measurement is None:
            raise ValueError("measurement: missing; a static claim names the function that decides it")
        if self.kind == "static" and self.experiment is not None:
            raise ValueError(f"experiment: {self.experiment!r} is for empirical claims; leave it out")
        if self.kind == "empirical" and not self.needs:
            raise ValueError("needs: missing; an empirical claim says what has to be at hand")
        if self.measurement is not None and not self.parts:
            raise ValueError(f"parts: missing; they say what {self.measurement} must give")
        return self


class Ledger(Config):
    """The whole file."""

    documents: dict[str, str]
    """Short name of each source, and what it is."""
    claims: tuple[Claim, ...]

    def only(self, ids: Collection[str]) -> Ledger:
        """The claims of these ids. Raises `SpecError` for one that is not in the ledger."""
        known = [claim.id for claim in self.claims]
        for unknown in (name for name in ids if name not in known):
            raise SpecError(f"claim: {unknown!r} is not in the ledger; there are {', '.join(known)}")
        return self.model_copy(update={"claims": tuple(claim for claim in self.claims if claim.id in ids)})


def load_ledger(path: Path | None = None, *, measurements: Mapping[Kind, Collection[str]]) -> Ledger:
    """Read a ledger file, by default the shipped one. `measurements` are the names that rows may use.

    Raises `SpecError`, one line a mistake, which names the row: an unknown key, measurement or document, an id twice,
    a row without what its kind needs.
    """
    place = path or resources.files("reproduce") / "claims" / "ledger.yaml"
    if not place.is_file():
        raise SpecError(f"ledger: no file {path}")
    try:
        content = yaml.safe_load(place.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SpecError(f"ledger {path}: not YAML: {error}") from error
    match content:
        case {"documents": dict(documents), "claims": list(rows), **others} if not others:
            pass
        case _:
            raise SpecError("ledger: a mapping with documents and a list of claims is needed, and nothing else")
    claims: dict[str, Claim] = {}
    for number, row in enumerate(rows, 1):
        claim = _claim(row, number)
        if claim.id in claims:
            raise SpecError(f"{claim.id}: id: is in the ledger twice; give each claim one row")
        _check_names(claim, documents, measurements)
        claims[claim.id] = claim
    return Ledger(documents=documents, claims=tuple(claims.values()))


def _claim(row: Any, number: int) -> Claim:
    if not isinstance(row, Mapping):
        raise SpecError(f"ledger: row {number} is no mapping; a claim has {', '.join(Claim.model_fields)}")
    where = str(row.get("id", f"ledger: row {number}"))
    parts = [
        validated(Part, part, where=f"{where}: parts.{index}.") if isinstance(part, Mapping) else part
        for index, part in enumerate(row.get("parts", ()), 1)
    ]
    return validated(Claim, {**row, "parts": parts}, where=f"{where}: ")


def _check_names(claim: Claim, documents: Collection[str], measurements: Mapping[Kind, Collection[str]]) -> None:
    if claim.source.document not in documents:
        raise SpecError(
            f"{claim.id}: source.document: {claim.source.document!r} is unknown; known are {', '.join(documents)}"
        )
    known = measurements[claim.kind]
    if claim.measurement is not None and claim.measurement not in known:
        raise SpecError(
            f"{claim.id}: measurement: {claim.measurement!r} is unknown; "
            f"of {claim.kind} claims there are {', '.join(sorted(known)) or 'none'}"
        )
