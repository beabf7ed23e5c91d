"""Stores the results of probes on disk, one JSON file for each, with the same provenance as in other suites."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.machine.environment import environment
from bench.results.store import with_provenance, write_result
from bench.suites.gpu.probe import ProbeResult
from reproduce.errors import UserError
from reproduce.spec import validated

SUITE = "gpu"


class ProbeStore:
    """Reads and writes the results of probes on one kind of machine, in the folder `gpu` inside `folder`.

    Args:
        folder: The folder that contains `gpu`. Both are created when the first result is written.
        kind: The kind of this machine, see `bench.results.store`.
        device: Name of the device that is measured, which is written to each result for its reader.

    Raises:
        UserError: The folder `gpu` holds results of another kind of machine, or JSON files that are no results.
    """

    def __init__(self, folder: Path, kind: str, device: str) -> None:
        self.folder, self._kind, self._device = folder / SUITE, kind, device
        for path in sorted(self.folder.glob("*.json")):
            if (found := _read(path)["setting"]["kind"]) != kind:
                raise UserError(
                    f"--output: {folder} holds results of {found}, and this machine is {kind}; give another folder"
                )

    def path(self, probe: str) -> Path:
        """Return the path of the result of a probe, whether or not the file exists."""
        return self.folder / f"{probe}.json"

    def log(self, probe: str) -> Path:
        """Return the path at which the output of a probe is kept if the probe failed or was cut."""
        return self.folder / f"{probe}.log"

    def write(self, result: ProbeResult) -> None:
        """Replace the file of a probe by this result."""
        write_result(self.path(result.probe), with_provenance(SUITE, self._content(result)))

    def read(self, probe: str) -> ProbeResult | None:
        """Read the result of a probe.

        Returns:
            The result, or None if the probe has none or if another commit wrote it.

        Raises:
            UserError: The file is not a result of a probe.
        """
        path = self.path(probe)
        if not path.is_file():
            return None
        content = _read(path)
        if content["environment"].get("commit") != environment().get("commit"):
            return None
        rates = content["setting"].get("rates", [])
        return validated(ProbeResult, {**_from_record(content["result"]), "rates": rates}, where=f"{path}: ")

    def _content(self, result: ProbeResult) -> dict[str, Any]:
        setting: dict[str, Any] = {"kind": self._kind, "device": self._device}
        if result.rates:
            setting["rates"] = result.rates
        return {"setting": setting, "result": to_record(result)}


def to_record(result: ProbeResult) -> dict[str, Any]:
    """Return a result as it is written to files, where the name of the probe has the key `part`.

    The rates are left out, because they belong to the setting.
    """
    return {"part": result.probe, **result.model_dump(exclude={"probe", "rates"})}


def _from_record(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"probe" if name == "part" else name: value for name, value in record.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = content["setting"]["kind"], content["result"], content["environment"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not what `deeper bench gpu` writes: {error!r}") from None
    return content
