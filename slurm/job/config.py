"""Settings of a job's launcher, and the command line that gives them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DEFAULT_OBJECT_STORE_MIB = 512
PLAN_HASH = "plan"
"""File in the submission's folder that holds the hash of the plan."""


@dataclass(frozen=True)
class LauncherConfig:
    """Settings of a job's launchers, which are the same on all nodes of the job."""

    folder: Path
    """The submission's folder, which all nodes see."""
    experiment: Path
    """The experiment's file."""
    records: Path
    """Folder of the records."""
    data: Path
    """Root folder of the prepared data sets."""
    scratch: str | None = None
    """Folder on the node's own disk to which the data are copied; None to read them from where they are."""
    interface: str | None = None
    """Network interface; None for the one that leads to the other nodes."""
    object_store_mib: int = DEFAULT_OBJECT_STORE_MIB
    """Size of Ray's shared memory on a node, in MiB."""
    join: str | None = None
    """HOST:PORT of an existing Ray cluster to join; None if the job's nodes form a cluster of their own."""
    run_options: tuple[str, ...] = ()
    """Further options of `deeper run`."""

    def plan(self) -> str | None:
        """Read the hash of the plan whose runs were submitted; None if the submission is older than this file."""
        path = self.folder / PLAN_HASH
        return path.read_text(encoding="utf-8") if path.exists() else None

    def stop_file(self, job: str) -> Path:
        """Return the path of the stop file of a job, whose existence requests every run of the job to stop.

        The batch script and the head node's launcher write it, and `deeper run` watches it.

        Args:
            job: Id of the job.
        """
        return self.folder / f"stop-{job}"

    def exit_code_file(self, job: str) -> Path:
        """Return the path of the file to which the head node's launcher writes the exit code of a job.

        `srun` gives the highest code of all nodes, which that of a lost node may be.

        Args:
            job: Id of the job.
        """
        return self.folder / f"exit-code-{job}"


def parse_arguments(arguments: Sequence[str] | None = None) -> LauncherConfig:
    """Parse the launcher's command line.

    Args:
        arguments: The arguments; by default those of this process.

    Raises:
        SystemExit: An argument is invalid or missing, or help was printed.
    """
    parser = launcher_parser()
    values = vars(parser.parse_args(arguments))
    return LauncherConfig(**{**values, "run_options": tuple(values["run_options"])})


def launcher_parser() -> argparse.ArgumentParser:
    """Return the parser of the launcher's command line."""
    parser = argparse.ArgumentParser(
        prog="python -m slurm.job.launcher", description="Take part in a SLURM job with this node."
    )
    parser.add_argument("--folder", type=Path, required=True, help="folder of the submission")
    parser.add_argument("--experiment", type=Path, required=True, help="file of the experiment")
    parser.add_argument("--records", type=Path, required=True, help="folder of the records")
    parser.add_argument("--data", type=Path, required=True, help="folder of the prepared data sets")
    parser.add_argument("--scratch", help="folder on the node's own disk to copy data to")
    parser.add_argument("--interface", help="network interface (default: the one that leads to the other nodes)")
    parser.add_argument(
        "--object-store-mib", type=int, default=DEFAULT_OBJECT_STORE_MIB, help="Ray's shared memory on a node"
    )
    parser.add_argument("--join", metavar="HOST:PORT", help="join this Ray cluster instead of starting one")
    parser.add_argument("run_options", nargs="*", metavar="OPTION", help="after --: options of `deeper run`")
    return parser
