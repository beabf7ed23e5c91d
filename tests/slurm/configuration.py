"""The configuration files of the tests' SLURM, in parts."""

from __future__ import annotations

# Preemption needs tiers: `high` takes nodes from `low`, but never from `main`.
BASE = """
ClusterName=test
SlurmctldHost=login({login})
SlurmUser=root
AuthType=auth/munge
StateSaveLocation={state}/controller
SlurmctldPidFile=/run/slurmctld.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdPidFile=/run/slurmd.pid
SlurmdSpoolDir=/run/slurmd
SlurmdLogFile={state}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MinJobAge=3600
ReturnToService=2
JobCompType=jobcomp/filetxt
JobCompLoc={state}/completed.txt
{nodes}
NodeName=g1 NodeAddr={g1} CPUs=8 RealMemory=64000 Gres=gpu:4 State=DOWN Reason="a host that does not exist"
PartitionName=main Nodes={hosts} Default=YES MaxTime=1:00:00 PreemptMode=OFF
PartitionName=low Nodes={hosts} MaxTime=1:00:00 PreemptMode=REQUEUE GraceTime=15 PriorityTier=1
PartitionName=high Nodes={hosts} MaxTime=1:00:00 PreemptMode=OFF PriorityTier=10
PartitionName=gpu Nodes=g1 MaxTime=1:00:00 PreemptMode=OFF
"""

# Where these are left out, SLURM's own defaults count.
IMPATIENCE = """
# A requeued job waits until the credential of its last start has expired: two minutes by default.
AuthInfo=cred_expire=5
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
SlurmctldTimeout=30
# Measured: a dead host is DOWN after 13 to 21 s; with the defaults of the next two often only after 30 s.
TreeWidth=1
MessageTimeout=5
SlurmdTimeout=10
KillWait=60
"""
NODE = "NodeName={host} NodeAddr={address} CPUs={cpus} RealMemory=8000 Gres=gpu:2"
# The last value of a setting counts.
LIMITS = """
TaskPlugin=task/cgroup
SelectTypeParameters=CR_CPU_Memory
"""
CONTROL_GROUPS = """
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
ConstrainCores=yes
ConstrainRAMSpace=yes
ConstrainSwapSpace=yes
AllowedSwapSpace=0
"""

# SLURM only looks whether the device files are there; it numbers the GPUs by the end of their names.
DEVICES = """
NodeName=n[1-3] Name=gpu File=/run/gpus/gpu[0-1]
NodeName=g1 Name=gpu Count=4 File=/run/gpus/gpu[0-3]
"""
