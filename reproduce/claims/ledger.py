"""Reads the ledger file into typed and validated claims.

A claim is a row of `ledger.yaml`. It names the measurement that decides it. A measurement returns several named values,
and each of the claim's `parts` says what one of these values has to be. Measurements are functions registered by name:
static ones in `reproduce.claims.registry`, those on runs, evaluations and benchmarks in `analysis.claims.decide`.

This module imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from reproduce.claims.design import Design
from reproduce.spec import Config, SpecError, validated
from reproduce.text.yaml_files import parse_yaml, read_text

Kind = Literal["static", "empirical"]
Value = bool | int | float | str | tuple[int, ...]
"""A measured or expected value. A tuple is a shape, for example (height, width, channels)."""


class Citation(Config):
    """The place in a document where a claim is made."""

    document: str
    """Short name of the document, which is a key of the ledger's `documents`."""
    section: str = ""
    """Section of the document, or another description of the place in it."""


class Part(Config):
    """A condition of a claim on one measured value.

    Exactly one of `expected`, `at_least` and `at_most` is set.
    """

    of: str
    """Name of the value in the measurement's result."""
    name: str = ""
    """Name of the value in tables. If it is empty, tables show `of`."""
    expected: Value | None = None
    """The value that has to be measured: a number up to `within`, any other value exactly."""
    within: float = Field(0.0, ge=0)
    """The largest difference from `expected` at which the part still holds, in the unit of the value."""
    at_least: float | None = None
    """The smallest number at which the part holds."""
    at_most: float | None = None
    """The largest number at which the part holds."""
    note: str = ""
    """The known reason for a deviation. It is empty if there is none."""
    half: str = ""
    """The half of the claim that the part decides, if the claim makes two statements. Verdicts name both."""
    one_of: str = ""
    """Name of the alternative that the part belongs to. Of several parts with one name, one has to hold."""

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
        """The name of the value in tables."""
        return self.name or self.of


class Claim(Config):
    """A row of the ledger: one claim, its source, and how it is decided."""

    id: str = Field(pattern=r"^[A-Z]-[a-z0-9-]+$")
    """Unique identifier: the initial of the source and a short name, for example `S-params-vgg`."""
    statement: str
    """The claim in one sentence."""
    source: Citation
    """The place where the claim is made."""
    claimed: str
    """The claimed value in the words of its source."""
    rule: str
    """The condition under which the claim holds, in words. Its numbers are those of `parts`."""
    protocol: str
    """Description of the test of the claim."""
    kind: Kind
    """`static` if the network alone decides the claim, `empirical` if recorded runs or evaluations decide it."""
    measurement: str | None = None
    """Name of the registered measurement that decides the claim. It may be None if the claim is empirical."""
    parts: tuple[Part, ...] = ()
    """Conditions on the measured values. All have to hold for the claim to hold."""
    experiment: str | None = None
    """Name of the experiment whose runs decide an empirical claim."""
    needs: str = ""
    """The runs, data or hardware that an empirical claim needs before it can be decided."""
    design: Design | None = None
    """How many runs decide an empirical claim, by which tests and at which levels."""

    @model_validator(mode="after")
    def _coherent(self) -> Claim:
        if self.kind == "static" and self.measurement is None:
            raise ValueError("measurement: missing; a static claim names the function that decides it")
        if self.kind == "static" and self.experiment is not None:
            raise ValueError(f"experiment: {self.experiment!r} is for empirical claims; leave it out")
        if self.design is not None and self.experiment is None:
            raise ValueError("design: is for claims that the runs of an experiment decide; name the experiment")
        if self.kind == "empirical" and not self.needs:
            raise ValueError("needs: missing; an empirical claim says what has to be available")
        if self.measurement is not None and not self.parts:
            raise ValueError(f"parts: missing; they say what {self.measurement} must give")
        return self


class Ledger(Config):
    """The content of a ledger file: the claims and the documents that they come from."""

    documents: dict[str, str]
    """Descriptions of the documents that claims cite, by short name."""
    claims: tuple[Claim, ...]
    """The claims in the order of the file. Their ids are unique."""

    def only(self, ids: Collection[str]) -> Ledger:
        """Select claims by id.

        Args:
            ids: Ids of the claims to keep.

        Returns:
            A new ledger with these claims alone, in the order of this ledger, and with all documents.

        Raises:
            SpecError: An id is not in the ledger.
        """
        known = [claim.id for claim in self.claims]
        for unknown in (name for name in ids if name not in known):
            raise SpecError(f"claim: {unknown!r} is not in the ledger; there are {', '.join(known)}")
        return self.model_copy(update={"claims": tuple(claim for claim in self.claims if claim.id in ids)})

    def check_measurements(self, known: Mapping[Kind, Collection[str]]) -> None:
        """Check that every measurement that a claim names is registered for the kind of that claim.

        Claims that name no measurement pass.

        Args:
            known: Names of the registered measurements, for each kind of claim.

        Raises:
            SpecError: A claim names a measurement that is not registered for its kind.
        """
        for claim in self.claims:
            names = known[claim.kind]
            if claim.measurement is not None and claim.measurement not in names:
                raise SpecError(
                    f"{claim.id}: measurement: {claim.measurement!r} is unknown; "
                    f"known for {claim.kind} claims: {', '.join(sorted(names)) or 'none'}"
                )


def load_ledger(path: Path | None = None) -> Ledger:
    """Read and validate a ledger file.

    Args:
        path: The file; None reads the ledger that is shipped with the package.

    Raises:
        SpecError: The file is missing or is not a ledger, or a row is invalid: it has an unknown key or document, lacks
            a field that its kind of claim requires, or repeats an id. The message names the row and the field.
    """
    file = resources.files("reproduce") / "claims" / "ledger.yaml"
    if path is not None and not os.path.isfile(path):  # Path.is_file raises an error if the name is too long
        raise SpecError(f"ledger: no file {path}")
    text = read_text(path) if path else file.read_text(encoding="utf-8")
    match parse_yaml(text, where=str(path or "ledger")):
        case {"documents": dict(documents), "claims": list(rows), **others} if not others:
            pass
        case _:
            raise SpecError(
                f"ledger {path or file}: has to be a mapping with documents and a list of claims, and nothing else"
            )
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
    parts = row.get("parts")
    if isinstance(parts, list):
        parts = [
            validated(Part, part, where=f"{where}: parts.{index}.") if isinstance(part, Mapping) else part
            for index, part in enumerate(parts, 1)
        ]
    return validated(Claim, {**row, "parts": () if parts is None else parts}, where=f"{where}: ")
