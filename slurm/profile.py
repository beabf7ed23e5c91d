"""Profiles: what a cluster is asked for, as validated YAML files.

A profile is found by its name, first among one's own in `$XDG_CONFIG_HOME/deeper` (`~/.config/deeper`), then among the
shipped ones; or it is a path. Every mistake raises `SpecError`, one line a mistake.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from reproduce.spec import Config, SpecError, from_yaml
from slurm.queries import parse_seconds

SHIPPED = Path(__file__).parent / "profiles"

Word = Annotated[str, Field(pattern=r"^\S+$")]

OF_THE_PROFILE = {  # options of sbatch that have a field here
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "time": "time",
    "nodes": "nodes",
    "gpus-per-node": "gpus_per_node",
    "cpus-per-task": "cpus_per_node",
    "mem": "memory_gib",
    "exclusive": "exclusive",
    "signal": "signal_before_s",
}
OF_THE_SCRIPT = (  # options that the job script depends on
    "array",
    "dependency",
    "job-name",
    "kill-on-invalid-dep",
    "no-kill",
    "no-requeue",
    "ntasks",
    "ntasks-per-node",
    "open-mode",
    "output",
    "error",
    "requeue",
    "wrap",
)


class Profile(Config):
    """What a job asks of a cluster and finds on its nodes."""

    description: str = ""
    partition: Word | None = None
    """None: the cluster's default partition."""
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    time: str
    """Limit of a job in one of SLURM's forms, e.g. "1-00:00:00" or "12:00:00"; a grid that needs longer is requeued."""
    nodes: int = Field(1, ge=1)
    gpus_per_node: int = Field(0, ge=0)
    cpus_per_node: int = Field(ge=1)
    memory_gib: int | None = Field(None, ge=1)
    """Of a node; None: the partition's default."""
    exclusive: bool = False
    """Nodes that no other job shares."""
    setup: tuple[str, ...] = ()
    """Shell lines before anything else: module load, conda activate, export."""
    container: str | None = None
    """Put before python on every node, e.g. "apptainer exec --nv /images/deeper.sif"; shell words, so that $VARIABLES
    and quotes mean what they mean in a shell."""
    python: str | None = Field(None, min_length=1)
    """Interpreter on the nodes; None: the one that renders, or the container's `python`."""
    scratch: str | None = Field(None, pattern=r"^[/$]")
    """Folder on each node's own disk under which data are copied and verified; $VARIABLES are those of the node.
    None: data are read where they are."""
    interface: Word | None = None
    """Network interface for gloo and NCCL; None: the job finds it."""
    tracking_uri: str | None = Field(None, pattern=r"^https?://\S+$")
    """An MLflow server; None: the embedded store, which the report job fills."""
    sbatch: tuple[str, ...] = ()
    """Further options of sbatch, each written as --option or --option=value; values with spaces in quotes."""
    signal_before_s: int = Field(120, ge=1, le=65535)
    """Time before the limit at which runs write their checkpoints."""
    requeues: int = Field(10, ge=0)
    """Times that a job may start again, whatever the reason."""
    object_store_mib: int = Field(512, ge=80)
    """Ray's shared memory on a node."""

    @model_validator(mode="before")
    @classmethod
    def _time_is_text(cls, content: Any) -> Any:
        if isinstance(content, Mapping) and isinstance(content.get("time"), int):
            raise ValueError(
                f"time: {content['time']}: YAML reads a time without quotes as a number; "
                f'write it in quotes, e.g. time: "12:00:00"'
            )
        return content

    @model_validator(mode="after")
    def _coherent(self) -> Profile:
        if not parse_seconds(self.time):
            raise ValueError(f'time: {self.time!r} is no time limit; write "HH:MM:SS" or "D-HH:MM:SS"')
        if self.signal_before_s >= self.seconds:
            raise ValueError(
                f"signal_before_s: {self.signal_before_s} is as long as the job ({self.seconds} s, time: {self.time}); "
                f"use less than {self.seconds}"
            )
        if self.container is not None:
            _words(self.container, "container")
        for line in self.sbatch:
            _option(line)
        return self

    @property
    def seconds(self) -> int:
        """The time limit."""
        return parse_seconds(self.time) or 0  # never 0: it was validated

    @property
    def options(self) -> list[str]:
        """The further options of sbatch, without the quotes that they are written with."""
        return [_option(line) for line in self.sbatch]

    @property
    def interpreter(self) -> str:
        if self.python is not None:
            return self.python
        return "python" if self.container else sys.executable


def load_profile(name_or_path: str | Path) -> Profile:
    """Read a profile: a file, or the name of one's own or of a shipped one. Raises `SpecError`."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise SpecError(f"profile: no file {path}")
    else:
        known = profiles()
        if str(name_or_path) not in known:
            raise SpecError(
                f"profile: {str(name_or_path)!r} is no file (*.yaml) and none of {', '.join(known)}; "
                f"your own belong into {own_folder()}"
            )
        path = known[str(name_or_path)]
    return from_yaml(Profile, path.read_text(encoding="utf-8"), what="a profile", where=str(path))


def profiles() -> dict[str, Path]:
    """Files of all profiles by name; one's own hide shipped ones of the same name."""
    by_name = {path.stem: path for folder in (SHIPPED, own_folder()) for path in folder.glob("*.yaml")}
    return {name: by_name[name] for name in sorted(by_name)}


def own_folder() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "deeper"


def _words(text: str, field: str) -> list[str]:
    """Shell words of one line. Raises `ValueError`."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{field}: {text!r}: {str(error).lower()}; close every quote") from error
    if not words or "\n" in text:
        raise ValueError(f"{field}: {text!r} is not one line of shell words")
    return words


def _option(line: str) -> str:
    """A line of `sbatch` without its quotes. Raises `ValueError` where the line is no option of its own."""
    words = _words(line, "sbatch")
    if len(words) > 1 or not words[0].startswith("--"):
        raise ValueError(f'sbatch: {line!r} is not one option; write --option or --option=value, e.g. --comment="a b"')
    name = words[0].partition("=")[0].removeprefix("--")
    if name in OF_THE_PROFILE:
        raise ValueError(f"sbatch: {line!r}: use the profile's field {OF_THE_PROFILE[name]}")
    if name in OF_THE_SCRIPT:
        raise ValueError(f"sbatch: {line!r}: the job script sets --{name} itself; leave it out")
    return words[0]
