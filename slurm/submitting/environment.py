"""Keeps the description of a job and the shell that submits it apart.

`sbatch` takes an option from its command line, else from its environment, else from the script. A shell inside an
allocation also has the variables of that allocation, which would reach the job and its `srun`. Therefore the options of
the script are repeated on the command line, and `sbatch` gets an environment without the variables that contradict them
or belong to another job. Variables of the user's that add to the job, such as SBATCH_ACCOUNT, stay in force.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

KEPT: Final = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
"""Variables that say which cluster to ask and as whom."""
OF_A_JOB: Final = ("SLURM_", "SLURMD_", "SRUN_")
"""How the names of the variables begin that SLURM sets within an allocation."""
CONTRADICTING: Final = (
    *("SBATCH_ARRAY_INX", "SBATCH_ERROR", "SBATCH_JOB_NAME", "SBATCH_NO_REQUEUE", "SBATCH_WAIT"),
    *("SBATCH_INPUT", "SBATCH_IGNORE_PBS", "SBATCH_BATCH"),
)
"""Variables that no job of ours can obey: they make an array of it, split its log, or let `sbatch` wait for its end."""

MEMORY = ("SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU", "SBATCH_MEM_PER_NODE")
SAME_MEANING: Final[Mapping[str, tuple[str, ...]]] = {
    "time": ("SBATCH_TIMELIMIT",),
    "mem": MEMORY,
    "mem-per-cpu": MEMORY,
    "mem-per-gpu": MEMORY,
    "cpus-per-task": ("SBATCH_CPUS_PER_GPU",),
    "gpus-per-node": ("SBATCH_GPUS", "SBATCH_GPUS_PER_TASK", "SBATCH_GPUS_PER_SOCKET"),
    "switches": ("SBATCH_REQ_SWITCH", "SBATCH_WAIT4SWITCH"),
    "core-spec": ("SBATCH_THREAD_SPEC",),
    "thread-spec": ("SBATCH_CORE_SPEC",),
}
"""The variables that an option overrules beside the one of its own name, such as SBATCH_GPUS_PER_NODE."""


@dataclass(frozen=True)
class SubmittingShell:
    """The environment of `sbatch`, and what becomes of the user's variables for it."""

    environment: Mapping[str, str]
    """The environment for `sbatch`, and with it for the job."""
    in_force: tuple[str, ...]
    """Variables that add to the job, as NAME=VALUE."""
    overruled: tuple[str, ...]
    """Variables that the job's own options overrule, as NAME=VALUE."""

    def describe(self) -> list[str]:
        """Say in one line each which variables are in force and which are not; nothing if there are none."""
        lines = []
        if self.in_force:
            lines.append(f"from your shell, in force:     {', '.join(self.in_force)}")
        if self.overruled:
            lines.append(f"from your shell, not in force: {', '.join(self.overruled)} (the job has its own)")
        return lines


def options_of(script: str) -> list[str]:
    """Return the options of `sbatch` in a job script, each as --option or --option=value."""
    prefix = "#SBATCH "
    return [
        word
        for line in script.splitlines()
        if line.startswith(prefix)
        for word in shlex.split(line.removeprefix(prefix))
    ]


def separate(options: Sequence[str], environment: Mapping[str, str] = os.environ) -> SubmittingShell:
    """Separate the description of a job from the shell that submits it.

    Args:
        options: The options of the job, as `options_of` returns them.
        environment: The environment variables of the shell.
    """
    given = [option.removeprefix("--").partition("=")[0] for option in options]
    overruling = {
        *CONTRADICTING,
        *(f"SBATCH_{name.upper().replace('-', '_')}" for name in given),
        *(variable for name in given for variable in SAME_MEANING.get(name, ())),
    }
    overruled = [name for name in environment if name in overruling]
    of_another_job = [name for name in environment if name.startswith(OF_A_JOB) and name not in KEPT]
    left = {name: value for name, value in environment.items() if name not in {*overruled, *of_another_job}}
    in_force = [name for name in left if name.startswith("SBATCH_")]
    return SubmittingShell(
        left,
        tuple(f"{name}={environment[name]}" for name in sorted(in_force)),
        tuple(f"{name}={environment[name]}" for name in sorted(overruled)),
    )
