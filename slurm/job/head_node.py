"""The head node of a job: it starts Ray, waits for the worker nodes, runs the experiment and gives the exit code."""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.console.exit_codes import CANCELLED, DONE, FAILED, INTERRUPTED, WRONG_INPUT
from bench.console.options import add_choice
from bench.planning.plan import select
from bench.records.event_log import RunBusyError
from bench.records.leases import try_acquire
from bench.records.plan import read_plan
from bench.records.record import Record
from bench.records.states import read_state, run_folder
from reproduce import schema
from reproduce.errors import UserError
from reproduce.files.disk import DiskFullError
from reproduce.limits import KillsForMemory, kills_for_memory
from reproduce.spec import load_experiment
from slurm.job.config import LauncherConfig
from slurm.job.driver import Driver, driver_command
from slurm.job.log import log, one_line
from slurm.job.node.allocation import Allocation
from slurm.job.node.network import find_address
from slurm.job.node.ray_node import RayNode, RayNodeError, RayStartError, start_ray_node
from slurm.job.node.staging import STAGING_TIMEOUT_S, prepare_data_unless, require_shared_folders
from slurm.job.rendezvous import REPORT_TIMEOUT_S, NodeReport, RendezvousServer, cancel_rendezvous, rendezvous_file
from slurm.job.start_up import StartUp
from slurm.job.termination import TO_BE_REQUEUED, StopRequest, termination_reason

POLL_S = 0.5
LISTENER_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 60.0  # at least, for the launcher of a worker node to connect once Ray runs on this one
CONNECT_FACTOR = 4.0  # times as long as this node took, since all read the same file system
SAY_AFTER_S = 15.0


class DriverKilledError(RuntimeError):
    """Raised if a signal has killed `deeper run`."""


def run_head_node(allocation: Allocation, config: LauncherConfig) -> int:
    """Run the experiment of a job on all nodes of the job, and wait until it has ended.

    This installs handlers of SIGTERM and SIGINT in this process, so it must be called in the main thread. Both signals
    then request every run to write a checkpoint and stop.

    Args:
        allocation: The resources that SLURM granted on this node.
        config: Settings of the launcher.

    Returns:
        The job's exit code; see `HeadNode.run`.
    """
    stop = StopRequest(config.stop_file(allocation.job), lambda: termination_reason(allocation))
    stop.listen()
    return HeadNode(allocation, config, stop).run()


@dataclass(frozen=True)
class HeadNode:
    """The head node of a job, which runs the experiment on the job's nodes."""

    allocation: Allocation
    """The resources that SLURM granted on this node."""
    config: LauncherConfig
    """Settings of the launcher."""
    stop: StopRequest
    """The request to stop the job, which this object polls."""
    start_ray: Callable[..., RayNode] = start_ray_node
    """Starts Ray on this node. Tests replace it by a double."""
    start_driver: Callable[[list[str]], Driver] = Driver
    """Starts the command of `deeper run`. Tests replace it by a double."""
    count_kills: Callable[[], KillsForMemory] = kills_for_memory
    """Counts the processes of this node that the kernel has killed for memory. Tests replace it by a double."""

    def run(self) -> int:
        """Run the experiment and wait until it has ended. Ray is then killed on this node, also after an error.

        Returns:
            `INTERRUPTED` if Ray ended on this node or did not start in a job that was requeued, or if a signal killed
            `deeper run`; `FAILED` if Ray did not start in the first start of the job; see `_code_after_mistake` for the
            case that the runs do not fit since nodes are missing; `WRONG_INPUT` after a user's mistake, in which case
            the runs of this job that have not ended are recorded as failed, and if no run can go on, for example on a
            full disk, or if Ray or `deeper run` met the job's limit of memory, which leaves them as they are;
            `CANCELLED` if `deeper run` was interrupted by a signal that was sent neither because of the time limit nor
            because of a preemption; otherwise the exit code of `deeper run`.
        """
        before = self.count_kills()
        try:
            return self._run_with_ray()
        except DiskFullError as error:  # no fault of the runs, which continue once there is room
            log(one_line(error))
            return WRONG_INPUT
        except UserError as error:
            log(one_line(error))
            mark_runs_failed(self.config, f"{self.allocation.host}: {one_line(error)}")
            return WRONG_INPUT
        except (RayNodeError, DriverKilledError) as error:
            log(str(error))
            if limit := self.count_kills().over_limit(before):
                log(f"out of memory: {limit} on this node; no run is marked as failed; ask for more and submit again")
                return WRONG_INPUT
            if isinstance(error, RayStartError) and not self.allocation.restarts:
                log("Ray never came up in this job, so it is not requeued; once that is mended, submit again")
                return FAILED
            return INTERRUPTED  # if Ray came up before, this node may be to blame

    def _run_with_ray(self) -> int:
        began, start_up = time.monotonic(), StartUp()
        start_up.ended("script and launcher")
        file = rendezvous_file(self.config.folder, self.allocation.job, self.allocation.restarts)
        server: RendezvousServer | None = None
        ray: RayNode | None = None
        try:
            if (ended := code_if_nothing_is_left(self.config)) is not None:
                log("nothing is left to do")
                return ended
            require_shared_folders(self.config)
            own = find_address(self._peer(), self.config.interface)
            if self.config.join:
                _require_listener(self.config.join)
            server = RendezvousServer(own.address, file)  # first, so that the loss of a node is noticed from now on
            data = prepare_data_unless(self.config, self.stop.is_set)
            if data is None:
                return self._exit_code(INTERRUPTED)
            start_up.ended("data")
            ray = self.start_ray(
                self.allocation,
                own,
                head_address=self.config.join,
                object_store_mib=self.config.object_store_mib,
            )
            if self.config.join:
                ray.wait_until_up()
            ray_address = self.config.join or ray.wait_for_address()
            server.announce_ray(ray_address)
            start_up.ended("Ray")
            missing = self._wait_for_workers(server, str(data), own_start_s=time.monotonic() - began)
            start_up.ended("other nodes")
            log(f"Ray is up on {len(self.allocation.hosts) - len(missing)} nodes, {start_up}; starting deeper run")
            driver = self.start_driver(driver_command(self.config, ray_address, data, self.stop.file))
            code = self._wait_for_driver(driver, ray)
            if code == INTERRUPTED and driver.mistake is not None and not self.stop.is_set():
                log("no run can go on, so the job is not requeued; once that is mended, submit again")
                return WRONG_INPUT
            if code == WRONG_INPUT and driver.mistake is not None:
                return self._code_after_mistake(driver.mistake, missing)
            return self._exit_code(code)
        finally:
            if server is not None:
                server.close()
            elif self.config.folder.is_dir():
                with contextlib.suppress(OSError):  # a folder that cannot be written is the error already
                    cancel_rendezvous(file)
            if ray is not None:
                ray.kill()

    def _peer(self) -> str | None:
        """Return a host to which this node needs a route: that of the Ray cluster to join, or another node of the job.

        Returns:
            Name or address of the host; None if the job has only this node and joins no cluster.
        """
        if self.config.join:
            return self.config.join.rpartition(":")[0]
        return next(iter(self.allocation.peers), None)

    def _wait_for_workers(self, server: RendezvousServer, data: str, own_start_s: float) -> list[NodeReport]:
        """Wait until every worker node has joined Ray or is known not to, the time is up, or the job is to stop.

        A node that has connected is given the time to start Ray, and to copy its data. One that has not has started
        with this node and is given several times as long as this one took; the log says how long it is waited for.

        Args:
            server: Receives the reports.
            data: Root folder from which this node reads the data sets.
            own_start_s: Seconds that this node took until its own Ray was up.

        Returns:
            For each node that the job continues without, why. Each is also logged.

        Raises:
            UserError: A node reads the data sets from another folder than this one.
        """
        connect_s = max(CONNECT_TIMEOUT_S, CONNECT_FACTOR * own_start_s)
        ready_s = STAGING_TIMEOUT_S if self.config.scratch else REPORT_TIMEOUT_S
        start, said = time.monotonic(), False
        peers = set(self.allocation.peers)
        while not self.stop.is_set():
            waited_s = time.monotonic() - start
            server.has_news.clear()
            silent = peers - {report.host for report in server.reports}
            absent = silent - server.connected
            if not silent or waited_s > (connect_s if silent == absent else ready_s):
                break
            if absent and not said and waited_s > SAY_AFTER_S:
                log(f"waiting for the launchers of {', '.join(sorted(absent))}, for at most {connect_s:.0f} s")
                said = True
            server.has_news.wait(POLL_S)
        reports = list(server.reports)
        for report in reports:
            if not report.problem and report.data != data:
                raise UserError(
                    f"scratch: it is {data} on {self.allocation.host} and {report.data} on {report.host}; "
                    "name a folder that is the same on all nodes"
                )
        missing = [report for report in reports if report.problem]
        for host in sorted(peers - {report.host for report in reports}):
            problem = "was not ready in time" if host in server.connected else f"did not start within {connect_s:.0f} s"
            sentence = f"{host}: its launcher {problem}; its own messages, if any, are in this log"
            missing.append(NodeReport(host, data, sentence, "lost"))
        for report in missing:
            log(f"continuing without {report.problem}")
        return missing

    def _wait_for_driver(self, driver: Driver, ray: RayNode) -> int:
        """Wait until `deeper run` has ended, and pass requests to stop on to it. It is killed if an error is raised.

        Returns:
            The exit code of `deeper run`; -N if signal N ended it.

        Raises:
            RayNodeError: Ray has ended on this node.
        """
        try:
            while (code := driver.poll()) is None:
                self.stop.pass_on()
                if not ray.is_alive:
                    raise RayNodeError(f"Ray has ended: {ray.last_words}")
                time.sleep(POLL_S)
        except BaseException:
            driver.kill()
            raise
        return code

    def _code_after_mistake(self, mistake: str, missing: list[NodeReport]) -> int:
        """Record a mistake that `deeper run` names, unless nodes are missing of which the user is innocent.

        Args:
            mistake: The mistake, such as runs that do not fit on the nodes that have joined.
            missing: Reports of the nodes that have not.

        Returns:
            `WRONG_INPUT`; or, if nodes are missing, `INTERRUPTED` where other nodes may do better: after the loss of a
            node, or if Ray came up in an earlier start of the job. Otherwise `FAILED`.
        """
        causes = {report.cause for report in missing} - {"mistake"}
        if not causes:
            mark_runs_failed(self.config, " | ".join([*(str(report.problem) for report in missing), mistake]))
            return WRONG_INPUT
        log("nodes are missing, so no run is marked as failed")
        return INTERRUPTED if "lost" in causes or self.allocation.restarts else FAILED

    def _exit_code(self, code: int) -> int:
        """Convert the exit code of `deeper run` to that of the job. Raises `DriverKilledError`."""
        if code < 0:
            raise DriverKilledError(f"deeper run was killed by {signal.Signals(-code).name}")
        if code == INTERRUPTED and self.stop.reason not in (None, *TO_BE_REQUEUED):
            return CANCELLED
        return code


def mark_runs_failed(config: LauncherConfig, sentence: str) -> None:
    """Record the runs of this job that wait or were interrupted as failed because of a user's mistake.

    Runs that have finished or failed are not changed, nor are those whose lease another driver holds. If the runs
    cannot be determined, for example because the experiment's file is invalid, this is logged and nothing is recorded.

    Args:
        config: Settings of the launcher, which name the experiment and select its runs.
        sentence: The mistake, which becomes the error of each run.
    """
    try:
        keys = _selected_runs(config)
    except UserError as error:  # for example, the experiment's file itself is the mistake
        log(f"no run is marked as failed: {one_line(error)}")
        return
    for key in keys:
        folder = run_folder(config.records, key)
        try:
            lease = try_acquire(folder)
        except OSError as error:
            log(f"no run is marked as failed: {folder}: {error.strerror}")
            return
        if lease is None:
            continue
        try:
            if read_state(folder).status in ("waiting", "interrupted"):
                Record(folder).abandon(sentence)
        except RunBusyError as error:  # a worker has begun it since; it records the end itself
            log(str(error))
        finally:
            lease.release()
    log("the remaining runs are marked as failed; once that is mended: deeper slurm submit EXPERIMENT --retry-failed")


def code_if_nothing_is_left(config: LauncherConfig) -> int | None:
    """Find out, before Ray is started on all nodes, whether the job's runs have all ended.

    Returns:
        The exit code that `deeper run` would have; None if a run is left, or if the runs of the submission are not
        known, as for scripts that were submitted by hand.
    """
    if config.plan() is None:
        return None
    settled = {schema.FINISHED, *({schema.FAILED} if "--retry-failed" not in config.run_options else ())}
    statuses = {read_state(run_folder(config.records, key)).status for key in _selected_runs(config)}
    if not statuses <= settled:
        return None
    return FAILED if schema.FAILED in statuses else DONE


def _require_listener(address: str) -> None:
    """Raise `RayStartError` unless something accepts connections at HOST:PORT: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=LISTENER_TIMEOUT_S).close()
    except OSError as error:
        raise RayStartError(f"no Ray cluster can be joined at {address}: {error.strerror or error}") from error


def _selected_runs(config: LauncherConfig) -> list[str]:
    """Return the keys of the planned runs that the job's --arm and --seed select.

    Raises:
        UserError: The experiment is invalid or was never planned, or there is no such arm or seed.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_choice(parser)
    chosen, _ = parser.parse_known_args(config.run_options)
    planned = read_plan(config.records, load_experiment(config.experiment).name, config.plan())
    return [entry.key for entry in select(planned, chosen.arm, chosen.seed)]
