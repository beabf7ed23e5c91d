"""A real SLURM for tests: a login node with the controller and two hosts, each of them a set of Linux namespaces.

Every node has its own network, address, host name, process ids, /run, /dev/shm and munged, and every host has its own
/tmp; they share the rest of the machine's file system. Nothing outside the namespaces is touched, so several clusters
may run at once. Everything ends with the process that started the cluster, even if that is killed. The cluster needs
root and the programs in `COMMANDS`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import accounting

COMMANDS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "unshare", "nsenter", "setpriv", "mount")
HOSTS = ("n1", "n2")
THREE_HOSTS = (*HOSTS, "n3")
CPUS = {"n1": 4, "n2": 4, "n3": 2}
TERMINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"})
NAMESPACES = ("--net", "--uts", "--ipc", "--pid", "--mount")
ENDS_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
ADDRESSES = {"login": "10.66.0.1", "n1": "10.66.0.11", "n2": "10.66.0.12", "n3": "10.66.0.13", "g1": "10.66.0.21"}
REPOSITORY = Path(__file__).parents[2]

# Preemption needs tiers: `high` takes nodes from `low`, but never from `main`.
CONFIGURATION = """
ClusterName=test
SlurmctldHost=login({login})
SlurmUser=root
AuthType=auth/munge
# A requeued job waits until the credential of its last start has expired: two minutes by default.
AuthInfo=cred_expire=5
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
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
SlurmctldTimeout=30
# Measured: a dead host is DOWN after 13 to 21 s; with the defaults of the next two often only after 30 s.
TreeWidth=1
MessageTimeout=5
SlurmdTimeout=10
KillWait=60
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

NODE = "NodeName={host} NodeAddr={address} CPUs={cpus} RealMemory=8000 Gres=gpu:2"
# The last value of a setting counts.
MEMORY_LIMITS = """
TaskPlugin=task/cgroup
SelectTypeParameters=CR_CPU_Memory
"""
CONTROL_GROUPS = """
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
ConstrainRAMSpace=yes
ConstrainSwapSpace=yes
AllowedSwapSpace=0
"""
MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")
"""Control groups of version 1 that limit memory, which the tests' SLURM can use without systemd."""

# SLURM only looks whether the device files are there; it numbers the GPUs by the end of their names.
DEVICES = """
NodeName=n[1-3] Name=gpu File=/run/gpus/gpu[0-1]
NodeName=g1 Name=gpu Count=4 File=/run/gpus/gpu[0-3]
"""

# PID 1 of a node is this bash, which also reaps orphaned processes.
COMMON = """
set -eu
hostname {name}
mount --bind {state}/hosts /etc/hosts
ip link set lo up
mount -t tmpfs tmpfs /dev/shm
{private}
mkdir -m 755 /run/munge
munged --foreground --force --key-file={state}/munge.key --seed-file=/run/munge/seed 2>{state}/munged-{name}.log &
until [ -S /run/munge/munge.socket.2 ]; do sleep 0.02; done
"""
LOGIN = """
# A mount of its own, as on a cluster; otherwise its path would look like a node's own /tmp.
mount --bind {shared} {shared}
ip link add nodes type bridge
ip address add {address}/24 dev nodes
ip link set nodes up
{accounts}
slurmctld -D -c &
touch {state}/login.ready
sleep infinity & # the controller may be killed and started again
wait $!
"""
HOST = """
until ip link set uplink up 2>/dev/null; do sleep 0.02; done
ip address add {address}/24 dev uplink
mkdir /run/gpus
for number in 0 1; do mknod /run/gpus/gpu$number c 1 3; done
slurmd -D -N {name} &
wait $!
"""


class Command(subprocess.Popen[str]):
    """A command inside a node. Signals are sent to the command itself, which is a child of the nsenter process."""

    def send_signal(self, sig: int) -> None:
        while self.poll() is None:
            if child := _child(self.pid):
                os.kill(child, sig)
                return
            time.sleep(0.01)


class Cluster:
    """A context manager: inside the `with` block SLURM is up and its hosts are idle.

    All nodes see the folder `shared`, this repository and the interpreter at the same paths. Any other folder in /tmp
    belongs to one node; the login node's /tmp is the machine's.

    Args:
        shared: The folder.
        hosts: Names of the hosts.
        memory_limits: Whether control groups limit the memory of jobs. Their names are the same for all clusters of the
            machine, so that only one at a time can have them.
        accounts: Whether jobs are accounted for, so that `sacct` knows them.
    """

    def __init__(
        self, shared: Path, hosts: Sequence[str] = HOSTS, *, memory_limits: bool = False, accounts: bool = False
    ) -> None:
        self.shared = shared.resolve()
        self.hosts = hosts
        self.memory_limits, self.accounts = memory_limits, accounts
        self.state = self.shared / "slurm-state"  # configuration and the daemons' logs
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        (self.state / "controller").mkdir(parents=True)
        key = os.open(self.state / "munge.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
        with open(key, "wb") as file:
            file.write(os.urandom(128))
        self._configure()
        names = "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
        (self.state / "hosts").write_text(f"127.0.0.1 localhost\n{names}", encoding="utf-8")
        try:
            self._start("login", LOGIN, private=["/run"])
            until(lambda: (self.state / "login.ready").exists(), "the login node", seconds=120)
            for host in self.hosts:
                self._boot(host)
            for host in self.hosts:
                self._await_idle(host)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _configure(self) -> None:
        nodes = "\n".join(NODE.format(host=host, address=ADDRESSES[host], cpus=CPUS[host]) for host in self.hosts)
        text = CONFIGURATION.format(state=self.state, nodes=nodes, hosts=",".join(self.hosts), **ADDRESSES)
        text += MEMORY_LIMITS * self.memory_limits + accounting.SETTINGS * self.accounts
        files = {"slurm.conf": text, "gres.conf": DEVICES}
        if self.memory_limits:
            files["cgroup.conf"] = CONTROL_GROUPS
        if self.accounts:
            files["slurmdbd.conf"] = accounting.DAEMON.format(state=self.state)
        for name, content in files.items():
            (self.state / name).write_text(content, encoding="utf-8")
            (self.state / name).chmod(0o600)

    def _end(self) -> None:
        for node in list(self._nodes):
            self._kill(node)
        if self.memory_limits:  # of jobs that were killed with their host
            for host in self.hosts:
                for group, _, _ in os.walk(MEMORY_GROUPS / f"slurm_{host}", topdown=False):
                    Path(group).rmdir()

    # --- commands ---

    def popen(
        self, *command: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, host: str = "login"
    ) -> Command:
        """Start a command on a node, with `env` added to this process's environment and its output piped as text."""
        target = ["nsenter", f"--target={_child(self._nodes[host].pid)}", *NAMESPACES, f"--wd={cwd or self.shared}"]
        return Command(
            [*target, *ENDS_WITH_PARENT, *map(str, command)],
            env={**os.environ, "SLURM_CONF": str(self.state / "slurm.conf"), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            encoding="utf-8",
        )

    def login(
        self,
        *command: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 180,
        check: bool = True,
        host: str = "login",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the login node, by default in `shared`, with `env` added to this process's environment.

        Raises:
            AssertionError: The command takes more than `timeout` seconds or, with `check`, fails; with its output.
        """
        process = self.popen(*command, env=env, cwd=cwd, host=host)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # also ends what the command started, which may hold the pipes open
            out, err = process.communicate()
            raise AssertionError(f"{host}: {command} took more than {timeout:g} s\n{out}{err}") from None
        if check and process.returncode != 0:
            raise AssertionError(f"{host}: {command} exited {process.returncode}\n{out}{err}")
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def on(
        self, host: str, *command: str | Path, timeout: float = 180, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside a host's namespaces, as `login` does on the login node."""
        return self.login(*command, timeout=timeout, check=check, host=host)

    # --- hosts ---

    def kill_host(self, host: str) -> None:
        """Cut the power: the network goes first, so that no process can close its connections."""
        self._in_network("login", "ip", "link", "delete", host)
        self._kill(host)

    def start_host(self, host: str) -> None:
        """Start a host that was killed, and wait until SLURM says that it is idle."""
        self._boot(host)
        self._await_idle(host)

    def kill_controller(self) -> None:
        """Kill SLURM's controller. What it knows of jobs is in its folder."""
        self.login("bash", "-c", "kill -KILL $(cat /run/slurmctld.pid)")

    def start_controller(self) -> None:
        """Start a controller that was killed, and wait until it answers."""
        self._controller = self.popen("slurmctld", "-D")
        until(lambda: self.login("sinfo", check=False).returncode == 0, "the controller", seconds=120)

    def _boot(self, host: str) -> None:
        self._start(host, HOST, private=["/run", "/tmp"])
        pid = str(_child(self._nodes[host].pid))
        # As a real host does, keep the hardware address over a reboot: it is still in the ARP tables of the others.
        hardware = f"02:00:00:00:00:{int(ADDRESSES[host].rpartition('.')[2]):02x}"
        peer = ("peer", "name", "uplink", "address", hardware, "netns", pid)
        self._in_network("login", "ip", "link", "add", host, "type", "veth", *peer)
        self._in_network("login", "ip", "link", "set", host, "master", "nodes", "up")

    def _await_idle(self, host: str) -> None:
        def state() -> str:
            return self.login("sinfo", "--noheader", "--Node", f"--nodes={host}", "--format=%T", check=False).stdout

        until(lambda: set(state().split()) == {"idle"}, f"{host} to be idle", seconds=180)

    def _kill(self, node: str) -> None:
        """Kill a node. Returns when none of its processes is left, since its PID 1 ends last."""
        process = self._nodes.pop(node)
        if child := _child(process.pid):
            os.kill(child, signal.SIGKILL)
        process.wait()

    def _start(self, name: str, script: str, private: list[str]) -> None:
        accounts = accounting.START.format(state=self.state) if self.accounts else ""
        private_lines = "\n".join(line for place in private for line in self._own(name, Path(place)))
        text = (COMMON + script).format(
            name=name,
            address=ADDRESSES[name],
            state=self.state,
            shared=self.shared,
            private=private_lines,
            accounts=accounts,
        )
        with (self.state / f"{name}.log").open("ab") as log:
            self._nodes[name] = subprocess.Popen(
                [
                    *ENDS_WITH_PARENT,
                    "unshare",
                    *NAMESPACES,
                    "--fork",
                    "--kill-child",
                    "--mount-proc",
                    "bash",
                    "-c",
                    text,
                ],
                env={**os.environ, "SLURM_CONF": str(self.state / "slurm.conf")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(lambda: _child(self._nodes[name].pid), f"the namespaces of {name}", seconds=120)

    def _own(self, name: str, place: Path) -> list[str]:
        """Shell lines that mount an empty file system over `place` and bind the shared folders into it."""
        stage = self.state / f"stage-{name}{place.name}"
        stage.mkdir(exist_ok=True)
        lines = [f"mount -t tmpfs -o mode=1777 tmpfs {stage}"]
        for folder in (self.shared, REPOSITORY, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()):
            if folder.is_relative_to(place):
                inside = stage / folder.relative_to(place)
                lines += [f"mkdir -p '{inside}'", f"mount --bind '{folder}' '{inside}'"]
        return [*lines, f"mount --rbind {stage} {place}"]

    def _in_network(self, node: str, *command: str) -> None:
        target = f"--target={_child(self._nodes[node].pid)}"
        subprocess.run(["nsenter", target, "--net", *command], check=True, capture_output=True)

    # --- jobs ---

    def job(self, job_id: str | int) -> dict[str, str]:
        """Return the fields that `scontrol show job` prints."""
        line = self.login("scontrol", "show", "job", "-o", str(job_id)).stdout
        return {name: value.strip() for name, value in re.findall(r"(\S+?)=(.*?)(?=\s[A-Z][\w/:]*=|$)", line.strip())}

    def wait(self, job_id: str | int, states: Collection[str] = TERMINAL, timeout: float = 180) -> str:
        """Wait until the state of a job is terminal or one of `states`, and return it.

        Raises:
            AssertionError: That takes more than `timeout` seconds; with the job's fields.
        """
        deadline = time.monotonic() + timeout
        while True:
            job = self.job(job_id)
            if job["JobState"] in TERMINAL.union(states):
                return job["JobState"]
            if time.monotonic() > deadline:
                raise AssertionError(f"job {job_id} is {job['JobState']} after {timeout:g} s: {job}")
            time.sleep(0.1)


def _child(pid: int) -> int | None:
    """The id of the first child of a process; both as the machine numbers processes."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return None
    return int(children[0]) if children else None


def until(condition: Callable[[], object], what: str, seconds: float) -> None:
    """Wait until `condition()` is true. Raises AssertionError, which names `what`, after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        time.sleep(0.05)
