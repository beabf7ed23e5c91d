"""What of the submitting shell reaches `sbatch`, and what does not."""

from __future__ import annotations

from slurm.submitting.environment import options_of, separate

SCRIPT = """#!/bin/bash
#SBATCH --time=1:00:00
#SBATCH --mem=4G
#SBATCH --comment='two words'
#SBATCH --exclusive
echo "#SBATCH --not=this"
"""


def test_the_options_of_a_script_are_read_without_their_quotes() -> None:
    assert options_of(SCRIPT) == ["--time=1:00:00", "--mem=4G", "--comment=two words", "--exclusive"]


def test_the_jobs_own_options_overrule_the_shell_and_others_stay_in_force() -> None:
    shell = separate(
        options_of(SCRIPT),
        {
            **{"SBATCH_TIMELIMIT": "1", "SBATCH_MEM_PER_CPU": "1G", "SBATCH_EXCLUSIVE": "user", "SBATCH_WAIT": "1"},
            **{"SBATCH_ACCOUNT": "lab", "SBATCH_PARTITION": "debug", "HOME": "/home/me"},
        },
    )
    assert shell.environment == {"SBATCH_ACCOUNT": "lab", "SBATCH_PARTITION": "debug", "HOME": "/home/me"}
    assert shell.in_force == ("SBATCH_ACCOUNT=lab", "SBATCH_PARTITION=debug")
    assert shell.overruled == (
        *("SBATCH_EXCLUSIVE=user", "SBATCH_MEM_PER_CPU=1G", "SBATCH_TIMELIMIT=1", "SBATCH_WAIT=1"),
    )
    assert len(shell.describe()) == 2


def test_the_variables_of_another_allocation_stay_behind_and_the_cluster_is_kept() -> None:
    cluster = {"SLURM_CONF": "/etc/slurm.conf", "SLURM_CLUSTERS": "big"}
    job = {"SLURM_JOB_ID": "3", "SLURM_MEM_PER_CPU": "100", "SLURM_CPU_BIND": "quiet", "SLURMD_NODENAME": "n1"}
    shell = separate([], {**cluster, **job, "PATH": "/bin"})
    assert shell.environment == {**cluster, "PATH": "/bin"}
    assert shell.describe() == []
