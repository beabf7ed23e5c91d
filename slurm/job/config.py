"""Settings of a job's launcher, as its command line gives them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DEFAULT_OBJECT_STORE_MIB = 512


@dataclass(frozen=True)
class LauncherConfig:
    """Settings that are the same on all nodes of a job."""

    folder: Path
    """The submission's folder, which all nodes see."""
    experiment: Path
    """The experiment's file."""
    records: Path
    data: Path
    """Root folder of the prepared data sets."""
    scratch: str | None = None
    """Folder on the node's own disk to copy the data to; None to read them where they are."""
    interface: str | None = None
    """Network interface; None for the one that leads to the other nodes."""
    object_store_mib: int = DEFAULT_OBJECT_STORE_MIB
    """Ray's shared memory on a node in MiB."""
    join: str | None = None
    """HOST:PORT of a Ray cluster to join; None to form one of the job's own nodes."""
    run_options: tuple[str, ...] = ()
    """Further options of `deeper run`."""

    def stop_file(self, job: str) -> Path:
        """The file whose existence asks every run of a job to stop; the batch script writes it, too."""
        return self.folder / f"stop-{job}"


def parse_arguments(arguments: Sequence[str] | None = None) -> LauncherConfig:
    """Read the launcher's command line; `sys.argv` by default."""
    parser = launcher_parser()
    values = vars(parser.parse_args(arguments))
    return LauncherConfig(**{**values, "run_options": tuple(values["run_options"])})


def launcher_parser() -> argparse.ArgumentParser:
    """The parser of the launcher's command line."""
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
