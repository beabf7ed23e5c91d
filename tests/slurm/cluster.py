"""A real SLURM for tests: a login node with the controller and two hosts, each of them a set of Linux namespaces.

Every node has its own network, address, host name, process ids, /run, /dev/shm and munged, and every host has its own
/tmp; they share the rest of the machine's file system. Nothing outside the namespaces is touched, so several clusters
may run at once. Everything ends with the process that started the cluster, even if that is killed. The cluster needs
root and the programs in `COMMANDS`.
"""

from __future__ import annotations

import itertools
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
from configuration import BASE, CONTROL_GROUPS, DEVICES, IMPATIENCE, LIMITS, NODE

from tests.patience import PATIENCE_S

COMMANDS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "unshare", "nsenter", "setpriv", "mount")
HOSTS = ("n1", "n2")
THREE_HOSTS = (*HOSTS, "n3")
CPUS = {"n1": 4, "n2": 4, "n3": 2}
TERMINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"})
NAMESPACES = ("--net", "--uts", "--ipc", "--pid", "--mount")
ENDS_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
ADDRESSES = {"login": "10.66.0.1", "n1": "10.66.0.11", "n2": "10.66.0.12", "n3": "10.66.0.13", "g1": "10.66.0.21"}
REPOSITORY = Path(__file__).parents[2]

LIMITING_GROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/cpuset"))
"""Control groups of version 1 that limit memory and cores, which the tests' SLURM can use without systemd."""

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
        limits: Whether control groups limit the memory and the cores of jobs; a host then has no more CPUs than the
            machine. Their names are the same for all clusters of the machine, so that only one at a time can have them.
        accounts: Whether jobs are accounted for, so that `sacct` knows them.
        patient: Whether SLURM has its own default times, which are longer.
        tenants: Whether other users than root reach the interpreter and `shared`, also where root's home holds them.
    """

    def __init__(
        self,
        shared: Path,
        hosts: Sequence[str] = HOSTS,
        *,
        limits: bool = False,
        accounts: bool = False,
        patient: bool = False,
        tenants: bool = False,
    ) -> None:
        self.shared = shared.resolve()
        self.hosts = hosts
        self.limits, self.accounts, self.patient, self.tenants = limits, accounts, patient, tenants
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
            self._start("login", LOGIN, private=["/run", *(["/tmp"] if self.tenants else [])])
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
        most = len(os.sched_getaffinity(0)) if self.limits else max(CPUS.values())
        nodes = "\n".join(
            NODE.format(host=host, address=ADDRESSES[host], cpus=min(CPUS[host], most)) for host in self.hosts
        )
        text = BASE.format(state=self.state, nodes=nodes, hosts=",".join(self.hosts), **ADDRESSES)
        text += IMPATIENCE * (not self.patient) + LIMITS * self.limits + accounting.SETTINGS * self.accounts
        files = {"slurm.conf": text, "gres.conf": DEVICES}
        if self.limits:
            files["cgroup.conf"] = CONTROL_GROUPS
        if self.accounts:
            files["slurmdbd.conf"] = accounting.DAEMON.format(state=self.state)
        for name, content in files.items():
            (self.state / name).write_text(content, encoding="utf-8")
            (self.state / name).chmod(0o600 if name == "slurmdbd.conf" else 0o644)  # users read what is not secret

    def _end(self) -> None:
        for node in list(self._nodes):
            self._kill(node)
        if self.limits:  # of jobs that were killed with their host
            for host, groups in itertools.product(self.hosts, LIMITING_GROUPS):
                for group, _, _ in os.walk(groups / f"slurm_{host}", topdown=False):
                    Path(group).rmdir()

    # --- commands ---

    def popen(
        self, *command: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, host: str = "login"
    ) -> Command:
        """Start a command on a node, with `env` added to this process's environment and its output piped as text."""
        target = ["nsenter", f"--target={_child(self._nodes[host].pid)}", *NAMESPACES]
        place = ["env", f"--chdir={cwd or self.shared}"]  # nsenter's own folder would be that of the machine
        return Command(
            [*target, *ENDS_WITH_PARENT, *place, *map(str, command)],
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
        timeout: float = PATIENCE_S,
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
        self, host: str, *command: str | Path, timeout: float = PATIENCE_S, check: bool = True
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
        places = [*map(Path, private), *([Path.home()] if self.tenants else [])]
        private_lines = "\n".join(line for place in places for line in self._own(name, place))
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

    def wait(self, job_id: str | int, states: Collection[str] = TERMINAL, timeout: float = PATIENCE_S) -> str:
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
