"""One process a node of a SLURM job: Ray on each node, `deeper run` on the first.

    srun --ntasks-per-node=1 python -m slurm.job.launcher --folder F --experiment E --records R --data D [-- OPTIONS]

The first node's exit code is the job's: that of `deeper run`, but 75 where the job should be requeued (time limit,
preemption, nodes lost) and 130 where it should not be (cancelled, or SLURM requeues it by itself). Other nodes end
with 0 whatever happens to them, since srun returns the highest code of all.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from bench.console.exit_codes import CANCELLED, INTERRUPTED, WRONG_INPUT
from bench.console.options import add_choice
from bench.orchestration.leases import try_acquire
from bench.planning.plan import select
from bench.records.plan import read_plan
from bench.records.record import Record
from bench.records.states import read_state, run_folder
from reproduce.data import load_manifest
from reproduce.errors import UserError
from reproduce.grid import arm_data
from reproduce.spec import load_experiment
from slurm.job import ray_node
from slurm.job.allocation import (
    ENDING,
    PREEMPTED,
    TIME_LIMIT,
    Allocation,
    NoAllocation,
    Place,
    allocation,
    place,
    why_terminated,
)
from slurm.job.ray_node import RayDown, RayNode
from slurm.job.rendezvous import Arrival, Guest, Host, await_meeting, call_off, meeting_file
from slurm.job.staging import stage

GATHER_S = 300  # for all nodes to arrive; then it goes on with those that are there
STAGING_S = 4 * 3600
POLL_S = 0.5
HEARTBEAT_S = 15  # between signs of life of a run: many runs share one file system


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        granted = allocation()
    except NoAllocation as error:
        _say(str(error))
        return WRONG_INPUT
    if granted.rank:
        return _take_part(granted, options)
    return _First(granted, options).carry_out()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m slurm.job.launcher", description="One node of a SLURM job.")
    parser.add_argument("--folder", type=Path, required=True, help="of the submission")
    parser.add_argument("--experiment", type=Path, required=True, help="its file")
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scratch", help="folder on the node's own disk to copy data to")
    parser.add_argument("--interface", help="network interface (the one that leads to the other nodes)")
    parser.add_argument("--object-store-mib", type=int, default=512)
    parser.add_argument("--join", metavar="HOST:PORT", help="a Ray cluster to join in place of one of the job's own")
    parser.add_argument("run", nargs="*", metavar="OPTION", help="after --: options of `deeper run`")
    return parser


def _prepared(options: argparse.Namespace) -> Path:
    """The data root that this node reads, checked. Raises `ValueError` with one line on what is not there."""
    if not options.folder.is_dir():
        raise UserError(f"--records: {options.folder} is not to be seen here; name a folder that all nodes share")
    paths = [data.path for data in arm_data(load_experiment(options.experiment))]
    if options.scratch:
        return stage(options.data, paths, options.scratch, _say)
    for path in paths:
        load_manifest(options.data / path)
    return Path(options.data)


# --- the other nodes -------------------------------------------------------------------------------


def _take_part(granted: Allocation, options: argparse.Namespace) -> int:
    """Lend this node to the job until the first node says that it is over."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # the first node decides when the job ends
    problem, data = None, options.data
    try:
        data = _prepared(options)
    except ValueError as error:
        problem = f"{granted.host}: {_one_line(error)}"
        _say(problem)
    node: RayNode | None = None
    try:
        meeting = await_meeting(meeting_file(options.folder, granted.job, granted.restarts), GATHER_S + STAGING_S)
        mine = place(meeting.host, options.interface)
        if problem is None:
            node = _start(granted, mine, meeting.ray, options)
        guest = Guest(meeting, Arrival(granted.host, str(data), problem))
        while not guest.over.wait(POLL_S):
            if node is not None and not node.alive:
                _say(f"Ray has ended on {granted.host}, starting it again: {node.last_words}")
                node.kill()
                node = _start(granted, mine, meeting.ray, options)
        if guest.lost:
            _requeue(granted)
    except (OSError, ValueError) as error:
        _say(f"{granted.host}: does not take part: {_one_line(error)}")
    finally:
        if node is not None:
            node.kill()
    return 0


def _requeue(granted: Allocation) -> None:
    """SLURM keeps a job alive whose batch host is gone (--no-kill), but nothing in it would ever end it.

    Nothing is done where the job itself is ending: `scontrol requeue` would undo the user's scancel.
    """
    if why_terminated(granted.name, granted.restarts) in ENDING:
        return
    _say(f"{granted.host}: the first node, {granted.hosts[0]}, is lost; requeueing the job")
    subprocess.run(["scontrol", "requeue", granted.name], check=False)


def _start(granted: Allocation, mine: Place, head: str | None, options: argparse.Namespace) -> RayNode:
    return ray_node.start(granted, mine, head=head, object_store_mib=options.object_store_mib)


# --- the first node --------------------------------------------------------------------------------


@dataclass
class _First:
    """Head of the job: its Ray, the other nodes' arrival, the driver, and what all that ends with."""

    granted: Allocation
    options: argparse.Namespace
    terminated: bool = False
    reason: str | None = None
    last_error: str = ""
    """The driver's last word on a wrong input."""

    @property
    def stop_file(self) -> Path:
        return Path(self.options.folder / f"stop-{self.granted.job}")

    def carry_out(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        meeting = meeting_file(self.options.folder, self.granted.job, self.granted.restarts)
        host: Host | None = None
        node: RayNode | None = None
        try:
            data = _prepared(self.options)
            peers = [name for name in self.granted.hosts if name != self.granted.host]
            toward = self.options.join.rpartition(":")[0] if self.options.join else peers[0] if peers else None
            mine = place(toward, self.options.interface)
            node = _start(self.granted, mine, self.options.join, self.options)
            address = self.options.join or node.await_address()
            host = Host(mine.address, address, meeting)
            missing = self._gather(host, str(data), len(peers))
            code = self._drive(address, data, node)
            if code == WRONG_INPUT:
                self._mark_failed(" | ".join([*missing, self.last_error]))
            return self._exit_code(code)
        except ValueError as error:
            sentence = f"{self.granted.host}: {_one_line(error)}"
            _say(sentence)
            self._mark_failed(sentence)
            return WRONG_INPUT
        except RayDown as error:
            _say(str(error))
            return INTERRUPTED
        finally:
            if host is not None:
                host.close()
            elif self.options.folder.is_dir():
                call_off(meeting)
            if node is not None:
                node.kill()

    def _gather(self, host: Host, data: str, expected: int) -> list[str]:
        """Wait for the other nodes; what is wrong with those that do not take part."""
        deadline = time.monotonic() + (STAGING_S if self.options.scratch else GATHER_S)
        while len(host.arrivals) < expected and time.monotonic() < deadline and not self._told_to_stop():
            time.sleep(POLL_S)
        wrong = [arrival.problem for arrival in host.arrivals if arrival.problem]
        for arrival in host.arrivals:
            if not arrival.problem and arrival.data != data:
                raise UserError(f"scratch: {data} here, {arrival.data} on {arrival.host}; name the same on all nodes")
        absent = set(self.granted.hosts) - {self.granted.host} - {arrival.host for arrival in host.arrivals}
        wrong += [f"{name}: has not come, see its own message above" for name in sorted(absent)]
        for sentence in wrong:
            _say(f"goes on without {sentence}")
        return wrong

    def _told_to_stop(self) -> bool:
        """Whether the job is to end; passes a signal on to the driver by the file that the batch script writes too."""
        if self.terminated and self.reason is None:
            self.reason = why_terminated(self.granted.name, self.granted.restarts)
            if not self.stop_file.exists():
                self.stop_file.write_text(self.reason, encoding="utf-8")
        return self.stop_file.exists()

    def _drive(self, address: str, data: Path, node: RayNode) -> int:
        """`deeper run` to its end; it is killed, to be requeued, where this node's Ray ends before it."""
        command = [sys.executable, "-m", "bench.cli", "run", str(self.options.experiment), "--address", address]
        command += ["--records", str(self.options.records), "--data", str(data), "--stop-file", str(self.stop_file)]
        command += ["--heartbeat-s", str(HEARTBEAT_S), *self.options.run]
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            command.append("--no-publish")  # sqlite is for one host: that of the report job or of the dashboard
        driver = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, preexec_fn=ray_node.shield, encoding="utf-8"
        )
        listener = threading.Thread(target=self._listen, args=[driver], daemon=True)
        listener.start()
        while driver.poll() is None:
            self._told_to_stop()
            if not node.alive:
                driver.kill()
                driver.wait()
                raise RayDown(f"Ray has ended on {self.granted.host}: {node.last_words}")
            time.sleep(POLL_S)
        listener.join(timeout=5)
        return driver.returncode

    def _listen(self, driver: subprocess.Popen[str]) -> None:
        assert driver.stderr is not None
        for line in driver.stderr:
            sys.stderr.write(line)
            if line.startswith("deeper: "):
                self.last_error = line.removeprefix("deeper: ").strip()

    def _exit_code(self, code: int) -> int:
        if code < 0:
            _say(f"deeper run was killed by {signal.Signals(-code).name}")
            return INTERRUPTED
        if code == INTERRUPTED and self.reason not in (None, PREEMPTED, TIME_LIMIT):
            return CANCELLED
        return code

    def _mark_failed(self, sentence: str) -> None:
        """Record why this job's runs could not even begin. One that another driver has in hand is left alone."""
        experiment = load_experiment(self.options.experiment)
        choice = argparse.ArgumentParser(add_help=False)
        add_choice(choice)
        chosen, _ = choice.parse_known_args(self.options.run)
        for entry in select(read_plan(self.options.records, experiment.name), chosen.arm, chosen.seed):
            folder = run_folder(self.options.records, entry.key)
            lease = try_acquire(folder)
            if lease is None:
                continue
            if read_state(folder).status in ("waiting", "interrupted"):
                Record(folder).abandon(sentence)
            lease.release()
        _say("the runs that were left are marked failed; once that is cured: deeper slurm submit --retry-failed")

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.terminated = True


def _one_line(error: Exception) -> str:
    return " | ".join(str(error).splitlines())


def _say(text: str) -> None:
    print(f"{time.strftime('%F %T')} {socket.gethostname()}: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
