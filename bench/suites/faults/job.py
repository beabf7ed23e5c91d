"""Defines the job that the faults disturb: runs of two ranks on generated images, and the commands that train them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.machine.children import end_with_parent
from bench.machine.revision import ROOT
from reproduce.data import synthetic
from reproduce.data.writing import PrepareConfig, prepare
from reproduce.spec import ExperimentConfig, validated

DATA = "gratings"
IMAGES, BATCH, SIDE, EPOCHS = 48, 8, 32, 4
STEPS = IMAGES // BATCH
"""Steps of an epoch. A run writes a checkpoint at the end of each epoch only, since its epochs take seconds."""
HEARTBEAT_S = 0.05
OWN_VARIABLES = ("DEEPER_RECORDS", "DEEPER_DATA", "MLFLOW_TRACKING_URI")


@dataclass(frozen=True)
class FaultJob:
    """The commands of one series of trials, in a folder of its own."""

    name: str
    """The name of the experiment."""
    folder: Path
    """An existing folder that receives the experiment, the records and the output of the commands."""
    data: Path
    """The folder of the prepared data sets."""
    seeds: tuple[int, ...]
    """The seeds of the runs, which are trained in this order and differ in nothing else."""

    @property
    def records(self) -> Path:
        """The folder of the records."""
        return self.folder / "records"

    @property
    def printed(self) -> Path:
        """The file to which all commands append their standard output and standard error."""
        return self.folder / "printed.txt"

    def start_run(self, options: Sequence[str] = (), environment: Mapping[str, str] = {}) -> subprocess.Popen[bytes]:
        """Start `deeper run`, which goes on with runs that are not finished, in a session of its own. Does not wait.

        Args:
            options: Further options of the command.
            environment: Environment variables beside those of this process. `OWN_VARIABLES` are not inherited.
        """
        path = self.folder / f"{self.name}.yaml"
        path.write_text(yaml.safe_dump(self._experiment()), encoding="utf-8")
        inherited = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
        inherited["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), inherited.get("PYTHONPATH")]))
        places = ["--records", str(self.records), "--data", str(self.data)]
        command = [sys.executable, "-m", "bench.cli", "run", str(path), *places]
        command += ["--concurrent", "1", "--heartbeat-s", str(HEARTBEAT_S)]
        with self.printed.open("ab") as printed:
            return subprocess.Popen(
                [*command, *options],
                cwd=self.folder,
                env={**inherited, **environment},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def last_line(self) -> str:
        """The last line that a command has printed, or an empty text."""
        lines = self.printed.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _experiment(self) -> dict[str, Any]:
        experiment = {
            "name": self.name,
            "data": {"path": DATA},
            "recipe": {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 0.02, "resolution": SIDE},
            "resources": {"workers": 2, "cpus_per_worker": 1},
            "arms": {"none": {"network": {"aux": "none"}}},
            "seeds": list(self.seeds),
        }
        validated(ExperimentConfig, experiment, where="bench faults: ")
        return experiment


def prepare_data(folder: Path) -> None:
    """Generate the images of the job and prepare them in `<folder>/gratings`."""
    prepare(synthetic(classes=4, images=IMAGES, size=SIDE, seed=0), folder / DATA, PrepareConfig())
