"""Claims as data: the ledger file, typed and validated.

A claim is a row of `ledger.yaml`. It names the measurement that decides it, and each of its `parts` says what one of
the values that the measurement gives has to be. Measurements are functions registered by name: static ones in
`reproduce.claims.registry`, those on runs and evaluations in `analysis.claims.decide`.

This module imports no torch.
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
"""A measured or expected value. A tuple is a shape: height, width, channels."""


class Citation(Config):
    """The place at which a claim is made."""

    document: str
    """A key of the ledger's `documents`."""
    section: str = ""


class Part(Config):
    """One value of a claim: what is measured, and what it has to be.

    Exactly one of `expected`, `at_least` and `at_most` is given.
    """

    of: str
    """The name of the value among those that the measurement gives."""
    name: str = ""
    """What the value is called in tables; `of` where this is empty."""
    expected: Value | None = None
    within: float = Field(0.0, ge=0)
    """The largest difference from `expected`, in its unit, at which the part still holds."""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    """The reason for a deviation, where one is known."""

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
    source: Citation
    claimed: str
    """The claimed value, as its source gives it."""
    rule: str
    """In words, when the claim holds. The numbers in it are those of `parts`."""
    protocol: str
    """How the claim is tested."""
    kind: Kind
    """static: decided from the network alone. empirical: decided from recorded runs or evaluations."""
    measurement: str | None = None
    """The name of a registered measurement; only an empirical claim may still lack one."""
    parts: tuple[Part, ...] = ()
    experiment: str | None = None
    """The experiment whose runs decide an empirical claim."""
    needs: str = ""
    """What has to be available to decide an empirical claim."""

    @model_validator(mode="after")
    def _coherent(self) -> Claim:
        if self.kind == "static" and self.measurement is None:
            raise ValueError("measurement: missing; a static claim names the function that decides it")
        if self.kind == "static" and self.experiment is not None:
            raise ValueError(f"experiment: {self.experiment!r} is for empirical claims; leave it out")
        if self.kind == "empirical" and not self.needs:
            raise ValueError("needs: missing; an empirical claim says what has to be available")
        if self.measurement is not None and not self.parts:
            raise ValueError(f"parts: missing; they say what {self.measurement} must give")
        return self


class Ledger(Config):
    """The whole ledger file."""

    documents: dict[str, str]
    """The short name of each source, and what the source is."""
    claims: tuple[Claim, ...]

    def only(self, ids: Collection[str]) -> Ledger:
        """The ledger with the claims of these ids alone.

        Raises:
            SpecError: An id is not in the ledger.
        """
        known = [claim.id for claim in self.claims]
        for unknown in (name for name in ids if name not in known):
            raise SpecError(f"claim: {unknown!r} is not in the ledger; there are {', '.join(known)}")
        return self.model_copy(update={"claims": tuple(claim for claim in self.claims if claim.id in ids)})

    def check_measurements(self, known: Mapping[Kind, Collection[str]]) -> None:
        """Check that each claim names a measurement of its kind.

        Args:
            known: The names of the measurements, by the kind of claim that they decide.

        Raises:
            SpecError: A claim names a measurement that is not among them.
        """
        for claim in self.claims:
            names = known[claim.kind]
            if claim.measurement is not None and claim.measurement not in names:
                raise SpecError(
                    f"{claim.id}: measurement: {claim.measurement!r} is unknown; "
                    f"known for {claim.kind} claims: {', '.join(sorted(names)) or 'none'}"
                )


def load_ledger(path: Path | None = None) -> Ledger:
    """Read a ledger file, by default the shipped one.

    Raises:
        SpecError: The file is missing or not a ledger, or a row is wrong. The message names the row and its key: an
            unknown key or document, an id that occurs twice, a row without what its kind needs.
    """
    file = path or resources.files("reproduce") / "claims" / "ledger.yaml"
    if not file.is_file():
        raise SpecError(f"ledger: no file {path}")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SpecError(f"ledger {path}: not YAML: {error}") from error
    match content:
        case {"documents": dict(documents), "claims": list(rows), **others} if not others:
            pass
        case _:
            raise SpecError("ledger: has to be a mapping with documents and a list of claims, and nothing else")
    claims: dict[str, Claim] = {}
    for number, row in enumerate(rows, 1):
        claim = _claim(row, number)
        if claim.id in claims:
            raise SpecError(f"{claim.id}: id: is in the ledger twice; give each claim one row")
        if claim.source.document not in documents:
            raise SpecError(
                f"{claim.id}: source.document: {claim.source.document!r} is unknown; known: {', '.join(documents)}"
            )
        claims[claim.id] = claim
    return Ledger(documents=documents, claims=tuple(claims.values()))


def _claim(row: Any, number: int) -> Claim:
    if not isinstance(row, Mapping):
        raise SpecError(f"ledger: row {number} is not a mapping; a claim has {', '.join(Claim.model_fields)}")
    where = str(row.get("id", f"ledger: row {number}"))
    parts = [
        validated(Part, part, where=f"{where}: parts.{index}.") if isinstance(part, Mapping) else part
        for index, part in enumerate(row.get("parts", ()), 1)
    ]
    return validated(Claim, {**row, "parts": parts}, where=f"{where}: ")
