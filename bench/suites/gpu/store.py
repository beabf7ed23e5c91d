"""The results of probes on disk, one file for each, in the format of the other suites.

A file is replaced whenever its probe reports something.
"""

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
    """The results of one machine, in the folder `gpu` below `folder`.

    Args:
        folder: Where the results go.
        kind: The kind of this machine.
        device: The device that is measured, for the reader of a result.

    Raises:
        UserError: The folder holds results of another kind of machine, or files of something else.
    """

    def __init__(self, folder: Path, kind: str, device: str) -> None:
        self.folder, self._kind, self._device = folder / SUITE, kind, device
        for path in sorted(self.folder.glob("*.json")):
            if (found := _read(path)["setting"]["kind"]) != kind:
                raise UserError(
                    f"--output: {folder} holds results of {found}, and this machine is {kind}; give another folder"
                )

    def path(self, probe: str) -> Path:
        """Returns the path of the result of a probe."""
        return self.folder / f"{probe}.json"

    def log(self, probe: str) -> Path:
        """Returns the path of the output of a probe that failed or was cut."""
        return self.folder / f"{probe}.log"

    def write(self, result: ProbeResult) -> None:
        write_result(self.path(result.probe), with_provenance(SUITE, self._content(result)))

    def read(self, probe: str) -> ProbeResult | None:
        """Returns what this commit has found; None if there is no such result."""
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
    """Returns a result as it is written in files, in which a probe is called a part."""
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
