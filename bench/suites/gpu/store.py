"""Results of parts on disk: a file a part, in the format of the other suites, written anew with all it tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.machine.environment import environment
from bench.results.store import write
from bench.suites.gpu.part import Result
from reproduce.spec import SpecError, validated

SUITE = "gpu"


class Store:
    """Of one machine, in `folder`. Raises `SpecError` where results of another kind of machine lie there."""

    def __init__(self, folder: Path, kind: str, device: str) -> None:
        self.folder, self._kind, self._device = folder / SUITE, kind, device
        for path in sorted(self.folder.glob("*.json")):
            if (found := _read(path)["setting"]["kind"]) != kind:
                raise SpecError(f"--out: {folder} holds results of {found}, and this machine is {kind}; give another")

    def path(self, part: str) -> Path:
        return self.folder / f"{part}.json"

    def log(self, part: str) -> Path:
        """Where the output of a part lies that came to no end."""
        return self.folder / f"{part}.log"

    def write(self, result: Result) -> None:
        setting: dict[str, Any] = {"kind": self._kind, "device": self._device}
        if result.rates:
            setting["rates"] = result.rates
        write(self.path(result.part), SUITE, {"setting": setting, "result": result.model_dump(exclude={"rates"})})

    def read(self, part: str) -> Result | None:
        """What was found by this commit; None where there is nothing of it."""
        path = self.path(part)
        if not path.is_file():
            return None
        content = _read(path)
        if content["environment"].get("commit") != environment().get("commit"):
            return None
        rates = content["setting"].get("rates", [])
        return validated(Result, {**content["result"], "rates": rates}, where=f"{path}: ")


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = content["setting"]["kind"], content["result"], content["environment"]
    except (ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{path}: not what `deeper bench gpu` writes: {error!r}") from None
    return content
