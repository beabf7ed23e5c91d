"""Profiles: validated YAML files with the resources that a job asks a cluster for.

A profile is given by its path or by its name. A name is looked up first among the user's own profiles in
`$XDG_CONFIG_HOME/deeper` (by default `~/.config/deeper`) and then among the shipped ones. An invalid profile raises
`SpecError`, whose message has one line for each mistake.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from reproduce.config import WORD
from reproduce.files.private_folders import home
from reproduce.spec import Config, SpecError, from_yaml
from reproduce.text.redaction import SECRET_NAME
from reproduce.text.yaml_files import read_text
from slurm.profile_fields import LauncherOption, NodeResource, SbatchOption, fields_with
from slurm.queries import parse_seconds

SHIPPED = Path(__file__).parent / "profiles"

Word = Annotated[str, Field(pattern=WORD)]

SECRET_VALUE = re.compile(rf"""\b(?P<name>{SECRET_NAME})=["']?[^\s"'$`]""", re.IGNORECASE)
"""Assignment of a literal value to an environment variable whose name is that of a secret."""

SET_BY_THE_SCRIPT = (
    *("array", "dependency", "error", "job-name", "kill-on-invalid-dep", "no-kill", "no-requeue", "ntasks"),
    *("ntasks-per-node", "open-mode", "output", "requeue", "wrap"),
)
"""Options of `sbatch` that the job scripts set or depend on, so that a profile must not give them."""


class ReportJob(Config):
    """What the job of the report asks for, where it differs from the job of the experiment."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    partition: Annotated[Word | None, SbatchOption("partition", "queue")] = None
    """Partition of the report's job. Without it, that of the experiment's job, which must take jobs without GPUs."""
    account: Annotated[Word | None, SbatchOption("account", "queue")] = None
    """Account of the report's job. Without it, that of the experiment's job."""
    qos: Annotated[Word | None, SbatchOption("qos", "queue")] = None
    """Quality of service of the report's job. Without it, that of the experiment's job if the partition is the same."""
    time: Annotated[str, SbatchOption("time", "job")] = "00:30:00"
    """Time limit of the report's job."""
    memory_gib: Annotated[int, SbatchOption("mem", "node", "{}G")] = Field(4, ge=1)
    """Memory of the report's job, in GiB."""
    sbatch: tuple[str, ...] = ()
    """Further options of `sbatch` for the report's job, e.g. --mail-type=END and --mail-user=me@example.org."""

    @model_validator(mode="after")
    def _coherent(self) -> ReportJob:
        if not parse_seconds(self.time):
            raise ValueError(f'time: {self.time!r} is not a time limit; write "HH:MM:SS" or "D-HH:MM:SS"')
        for line in self.sbatch:
            _option(line, ReportJob)
        return self

    @property
    def further_options(self) -> list[str]:
        """The options in the field `sbatch`, each as --option or --option=value with the shell's quotes removed."""
        return [_option(line, ReportJob) for line in self.sbatch]


class Profile(Config):
    """The resources that a job asks a cluster for, and the environment in which it runs on the nodes.

    The table of fields in `slurm/README.md` is made from the fields' descriptions.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    description: str = ""
    """Description of the profile that `deeper slurm profiles` prints."""
    partition: Annotated[Word | None, SbatchOption("partition", "queue")] = None
    """Partition of the job, or several with commas between them. Without it, the cluster's default is used."""
    account: Annotated[Word | None, SbatchOption("account", "queue")] = None
    """Account that is charged for the job."""
    qos: Annotated[Word | None, SbatchOption("qos", "queue")] = None
    """Quality of service of the job, as the cluster names it."""
    constraint: Annotated[Word | None, SbatchOption("constraint", "job")] = None
    """Features that the nodes must have, e.g. a100."""
    time: Annotated[str, SbatchOption("time", "job")]
    """Time limit of a job in one of SLURM's forms, e.g. "12:00:00" or "1-00:00:00". A job that needs longer is requeued
    and continues."""
    nodes: Annotated[int, SbatchOption("nodes", "job")] = Field(1, ge=1)
    """Number of nodes of a job."""
    cpus_per_node: Annotated[
        int, SbatchOption("cpus-per-task", "node"), NodeResource("CPUs", lambda kind: kind.cpus)
    ] = Field(ge=1)
    """Number of CPUs that the job takes on each node; with `exclusive`, the least that a node must have."""
    gpus_per_node: Annotated[
        int, SbatchOption("gpus-per-node", "node"), NodeResource("GPUs", lambda kind: kind.gpus)
    ] = Field(0, ge=0)
    """Number of GPUs that the job takes on each node."""
    memory_gib: Annotated[
        int | None, SbatchOption("mem", "node", "{}G"), NodeResource("GiB", lambda kind: kind.memory_mib // 1024)
    ] = Field(None, ge=1)
    """Memory that the job takes on each node, in GiB. Without it, the cluster's default applies."""
    throttle: int | None = Field(None, ge=1)
    """Largest number of elements of an array (`--split`) that run at once. `--throttle` overrules it."""
    dependency: Annotated[Word | None, SbatchOption("dependency", "dependency")] = None
    """What the job waits for, in the form of `sbatch`, e.g. singleton. `--after` adds to it."""
    exclusive: Annotated[bool, SbatchOption("exclusive", "node")] = False
    """Whether the job shares its nodes with no other job. It then uses all CPUs of each node, also where nodes
    differ."""
    setup: tuple[str, ...] = ()
    """Shell lines that the job scripts run before they start Python, e.g. module load, conda activate or export."""
    container: str | None = None
    """Command that precedes the Python interpreter on every node, e.g. "apptainer exec --nv /images/deeper.sif". It is
    part of a shell command, so the shell expands its $VARIABLES and removes its quotes."""
    python: str | None = Field(None, min_length=1)
    """Python interpreter on the nodes. Without it, `python` is used if there is a `container`, and otherwise the
    interpreter that writes the scripts."""
    scratch: Annotated[str | None, LauncherOption("scratch")] = Field(None, pattern=r"^[/$]")
    """Folder on each node's own disk. The data are copied to it and the copy is verified. $VARIABLES are expanded on
    the node. Without it, the data are read from where they are."""
    interface: Annotated[Word | None, LauncherOption("interface")] = None
    """Network interface for Ray, gloo and NCCL. Without it, the one that leads to the other nodes is used."""
    tracking_uri: str | None = Field(None, pattern=r"^https?://\S+$")
    """URL of an MLflow server to which runs are published while they train. Without it, the report job publishes them
    into a store beside the records."""
    allow_other_machine: bool = False
    """Whether jobs also resume runs that another kind of machine, other code or another decoder began. Such a run is
    otherwise left as it is, since its numbers would change."""
    sbatch: tuple[str, ...] = ()
    """Further options of `sbatch`, each written as --option or --option=value. A value with spaces must be quoted."""
    report: ReportJob = ReportJob()
    """What the report's job asks for, with these fields:"""
    signal_before_s: Annotated[int, SbatchOption("signal", "signal", "B:USR1@{}")] = Field(120, ge=1, le=65535)
    """Number of seconds before the time limit at which every run is stopped and writes a checkpoint."""
    requeues: int = Field(10, ge=0)
    """Largest number of times that a job is restarted, whatever the reasons."""
    object_store_mib: Annotated[int, LauncherOption("object-store-mib")] = Field(512, ge=80)
    """Size of Ray's shared memory on each node, in MiB."""

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
            raise ValueError(f'time: {self.time!r} is not a time limit; write "HH:MM:SS" or "D-HH:MM:SS"')
        if self.signal_before_s >= self.seconds:
            raise ValueError(
                f"signal_before_s: {self.signal_before_s} is as long as the job ({self.seconds} s, time: {self.time}); "
                f"use less than {self.seconds}"
            )
        if self.container is not None:
            _words(self.container, "container")
        for line in self.sbatch:
            _option(line, Profile)
        self._check_for_secrets()
        return self

    def _check_for_secrets(self) -> None:
        """Raise `ValueError` for a password or a token, since the records and the job scripts get a copy of all fields.

        A value that the shell reads from elsewhere, such as $(cat FILE) or $NAME, is none.
        """
        fields = {"setup": self.setup, "sbatch": self.sbatch + self.report.sbatch, "container": (self.container or "",)}
        for field, lines in fields.items():
            for line in lines:
                if found := SECRET_VALUE.search(line):
                    raise ValueError(
                        f"{field}: the value of {found['name']} would be copied into the records; set it before "
                        f"`deeper slurm submit`, or let each job read it: export {found['name']}=$(cat FILE)"
                    )
        if self.tracking_uri is not None and "@" in self.tracking_uri:
            raise ValueError(
                "tracking_uri: a user name or password in it would be copied into the records; write only the server, "
                "and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD before `deeper slurm submit`"
            )

    @property
    def seconds(self) -> int:
        """The time limit in seconds."""
        return parse_seconds(self.time) or 0  # never 0: it was validated

    @property
    def further_options(self) -> list[str]:
        """The options in the field `sbatch`, each as --option or --option=value with the shell's quotes removed."""
        return [_option(line, Profile) for line in self.sbatch]

    @property
    def interpreter(self) -> str:
        """The command of the Python interpreter on the nodes, without the container's command."""
        if self.python is not None:
            return self.python
        return "python" if self.container else sys.executable


def load_profile(name_or_path: str | Path) -> Profile:
    """Read a profile.

    Args:
        name_or_path: A file (`*.yaml`, `*.yml`), or the name of one of the user's own profiles or of a shipped one.

    Raises:
        SpecError: There is no such profile, or it is invalid.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not os.path.isfile(path):  # Path.is_file raises an error if the name is too long
            raise SpecError(f"profile: no file {path}")
    else:
        known = profiles()
        if str(name_or_path) not in known:
            raise SpecError(
                f"profile: {str(name_or_path)!r} is no file (*.yaml) and none of {', '.join(known)}; "
                f"your own profiles belong in {own_folder()}"
            )
        path = known[str(name_or_path)]
    return from_yaml(Profile, read_text(path), what="a profile", where=str(path))


def chosen_profile(given: str | None) -> Profile:
    """Read the profile that a command line names with --profile, or $DEEPER_PROFILE in its place.

    Raises:
        SpecError: None is given, there is no such profile, or it is invalid.
    """
    if not given:
        raise SpecError(f"--profile: not given; name one of {', '.join(profiles())}, or set $DEEPER_PROFILE")
    return load_profile(given)


def profiles() -> dict[str, Path]:
    """Find the files of all profiles, by name and sorted. A user's own profile hides a shipped one of the same name."""
    by_name = {path.stem: path for folder in (SHIPPED, own_folder()) for path in folder.glob("*.yaml")}
    return {name: by_name[name] for name in sorted(by_name)}


def own_folder() -> Path:
    """Return the folder of the user's own profiles, which need not exist."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or home() / ".config") / "deeper"


def _words(text: str, field: str) -> list[str]:
    """Split one line into its shell words. Raises `ValueError`."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{field}: {text!r}: {str(error).lower()}; close every quote") from error
    if not words or "\n" in text:
        raise ValueError(f"{field}: {text!r} is not one line of shell words")
    return words


def _option(line: str, model: type[Config]) -> str:
    """Check a line of the field `sbatch` of a profile or of its `report` and return it without its quotes.

    Raises:
        ValueError: The line is not exactly one option, or the option is set by another field or by the job script.
    """
    words = _words(line, "sbatch")
    if len(words) > 1 or not words[0].startswith("--"):
        raise ValueError(f'sbatch: {line!r} is not one option; write --option or --option=value, e.g. --comment="a b"')
    name = words[0].partition("=")[0].removeprefix("--")
    for field, option in fields_with(model, SbatchOption):
        if name == option.name:
            raise ValueError(f"sbatch: {line!r}: use the profile's field {field}")
    if name in SET_BY_THE_SCRIPT:
        raise ValueError(f"sbatch: {line!r}: the job script sets --{name} itself; leave it out")
    return words[0]
