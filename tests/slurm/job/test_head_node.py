"""The head node of a job: what it starts, whom it waits for, and which exit code the job gets."""

from __future__ import annotations

import os
import signal
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cluster import until

from bench.console.exit_codes import CANCELLED, DONE, FAILED, INTERRUPTED, WRONG_INPUT
from bench.records.leases import try_acquire
from bench.records.plan import read_plan, read_plans, write_plan
from bench.records.record import Record
from bench.records.states import read_state, run_folder
from reproduce.grid import plan_without_data
from reproduce.limits import KillsForMemory
from reproduce.spec import load_experiment
from slurm.job import head_node
from slurm.job.config import PLAN_HASH
from slurm.job.head_node import HeadNode
from slurm.job.node import staging
from slurm.job.rendezvous import NodeReport, RendezvousClient, RendezvousError, RendezvousServer, wait_for_rendezvous
from slurm.job.termination import StopRequest

if TYPE_CHECKING:
    from conftest import DriverDouble, RayDouble, Submission


def head(
    submission: Submission,
    ray: RayDouble,
    driver: DriverDouble,
    *,
    nodes: int = 1,
    restarts: int = 0,
    reason: str = "terminated",
    **changes: Any,
) -> HeadNode:
    config = replace(submission.config, **changes)
    stop = StopRequest(config.stop_file("17"), lambda: reason)
    return HeadNode(submission.allocation(nodes=nodes, restarts=restarts), config, stop, ray.start, driver.start)  # type: ignore[arg-type]


# --- exit codes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [DONE, FAILED, WRONG_INPUT, INTERRUPTED, CANCELLED])
def test_the_exit_code_is_that_of_deeper_run(
    submission: Submission, ray: RayDouble, driver: DriverDouble, code: int
) -> None:
    driver.code = code
    assert head(submission, ray, driver).run() == code
    assert ray.killed


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("time limit", INTERRUPTED),
        ("preempted", INTERRUPTED),
        ("cancelled", CANCELLED),
        ("requeued by SLURM", CANCELLED),
        ("terminated", CANCELLED),
    ],
)
def test_an_interrupted_job_is_requeued_unless_its_signal_meant_an_end(
    submission: Submission, ray: RayDouble, driver: DriverDouble, reason: str, code: int
) -> None:
    node = head(submission, ray, driver, reason=reason)
    node.stop.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    driver.code, driver.until = INTERRUPTED, node.stop.file.exists
    assert node.run() == code
    assert node.stop.file.read_text(encoding="utf-8") == reason


def test_a_deeper_run_that_was_killed_is_tried_again_by_a_requeue(
    submission: Submission, ray: RayDouble, driver: DriverDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    driver.code = -signal.SIGKILL
    assert head(submission, ray, driver).run() == INTERRUPTED
    assert "deeper run was killed by SIGKILL" in capsys.readouterr().err


LIMIT = KillsForMemory(machine=0, group=0, limit=3 * 2**30, peak=3 * 2**30)


@pytest.mark.parametrize(("killed", "code"), [(0, INTERRUPTED), (1, WRONG_INPUT)])
def test_a_deeper_run_that_the_kernel_killed_for_memory_is_not_requeued(
    submission: Submission,
    ray: RayDouble,
    driver: DriverDouble,
    capsys: pytest.CaptureFixture[str],
    killed: int,
    code: int,
) -> None:
    driver.code = -signal.SIGKILL
    counts = iter([LIMIT, replace(LIMIT, machine=killed, group=killed)])
    assert replace(head(submission, ray, driver), count_kills=counts.__next__).run() == code
    limit = "the processes of this job may use 3.00 GiB of memory (peak: 3.00 GiB) on this node"
    assert (limit in capsys.readouterr().err) == bool(killed)
    assert submission.statuses() == {"heads": "waiting", "plain": "waiting"}


@pytest.mark.parametrize(("restarts", "code"), [(0, FAILED), (1, INTERRUPTED)])
def test_a_job_is_requeued_for_a_ray_that_does_not_start_only_if_it_has_started_before(
    submission: Submission,
    ray: RayDouble,
    driver: DriverDouble,
    capsys: pytest.CaptureFixture[str],
    restarts: int,
    code: int,
) -> None:
    ray.listens = False
    assert head(submission, ray, driver, restarts=restarts).run() == code
    assert "Ray ended before it listened" in capsys.readouterr().err
    assert set(submission.statuses().values()) == {"waiting"}
    assert driver.command is None
    assert ray.killed


def test_a_job_whose_ray_ends_is_requeued_and_its_driver_killed(
    submission: Submission, ray: RayDouble, driver: DriverDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    ray.is_alive, driver.until = False, lambda: False
    assert head(submission, ray, driver).run() == INTERRUPTED
    assert driver.killed
    assert "Ray has ended: INFO scripts.py" in capsys.readouterr().err


# --- mistakes and bugs -----------------------------------------------------------------------------


def test_a_mistake_of_the_user_fails_the_runs_with_that_sentence(
    submission: Submission, ray: RayDouble, driver: DriverDouble, tmp_path: Path
) -> None:
    assert head(submission, ray, driver, data=tmp_path / "nothing").run() == WRONG_INPUT
    states = submission.states()
    assert {state.status for state in states.values()} == {"failed"}
    assert all(str(state.error).startswith("n1: ") and "nothing" in str(state.error) for state in states.values())
    assert driver.command is None


def test_a_mistake_that_deeper_run_names_fails_the_runs(
    submission: Submission, ray: RayDouble, driver: DriverDouble
) -> None:
    driver.code, driver.mistake = WRONG_INPUT, "resources: 8 workers do not fit"
    assert head(submission, ray, driver).run() == WRONG_INPUT
    assert {state.error for state in submission.states().values()} == {"resources: 8 workers do not fit"}


def test_without_a_named_mistake_no_run_fails(submission: Submission, ray: RayDouble, driver: DriverDouble) -> None:
    driver.code = WRONG_INPUT  # for example argparse's, for an option that the launcher itself got wrong
    assert head(submission, ray, driver).run() == WRONG_INPUT
    assert set(submission.statuses().values()) == {"waiting"}


def test_only_the_runs_that_were_submitted_fail(submission: Submission, ray: RayDouble, driver: DriverDouble) -> None:
    driver.code, driver.mistake = WRONG_INPUT, "wrong"
    head(submission, ray, driver, run_options=("--arm", "plain", "--retry-failed")).run()
    assert submission.statuses() == {"heads": "waiting", "plain": "failed"}


def test_runs_of_a_plan_that_was_submitted_later_do_not_fail(
    submission: Submission, ray: RayDouble, driver: DriverDouble
) -> None:
    config = submission.config
    submitted = read_plans(config.records, "tiny")[0]
    (config.folder / PLAN_HASH).write_text(submitted.hash, encoding="utf-8")
    edited = load_experiment(config.experiment).model_copy(update={"seeds": (1,)})
    write_plan(config.records, "tiny", plan_without_data(edited), {})
    driver.code, driver.mistake = WRONG_INPUT, "wrong"
    head(submission, ray, driver).run()
    assert set(submission.statuses().values()) == {"waiting"}
    states = [read_state(run_folder(config.records, entry.key)) for entry in submitted.entries]
    assert {state.status for state in states} == {"failed"}


def test_a_run_in_another_drivers_hands_does_not_fail(
    submission: Submission, ray: RayDouble, driver: DriverDouble
) -> None:
    driver.code, driver.mistake = WRONG_INPUT, "wrong"
    [held, _] = read_plan(submission.config.records, "tiny")
    lease = try_acquire(run_folder(submission.config.records, held.key))
    assert lease is not None
    head(submission, ray, driver).run()
    lease.release()
    assert submission.statuses() == {held.arm: "waiting", "plain" if held.arm == "heads" else "heads": "failed"}


def test_an_unreadable_experiment_is_a_mistake_like_any_other(
    submission: Submission, ray: RayDouble, driver: DriverDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    submission.config.experiment.write_text("name: [", encoding="utf-8")
    assert head(submission, ray, driver).run() == WRONG_INPUT
    assert "no run is marked as failed: " in capsys.readouterr().err


@pytest.mark.parametrize("bug", [ValueError, KeyError, OSError])
def test_a_bug_is_raised_and_marks_no_run(
    submission: Submission, ray: RayDouble, driver: DriverDouble, bug: type[Exception]
) -> None:
    def start(*_: Any, **__: Any) -> Any:
        raise bug("of the launcher's own")

    node = replace(head(submission, ray, driver), start_ray=start)
    with pytest.raises(bug, match="of the launcher's own"):
        node.run()
    assert set(submission.statuses().values()) == {"waiting"}
    with pytest.raises(RendezvousError, match="the head node could not start"):
        wait_for_rendezvous(submission.rendezvous_file, timeout_s=60)


def test_a_bug_while_runs_train_ends_ray_the_driver_and_the_worker_nodes(
    submission: Submission, ray: RayDouble, driver: DriverDouble
) -> None:
    def poll() -> bool:
        raise ValueError("of the launcher's own")

    driver.until = poll
    with pytest.raises(ValueError, match="of the launcher's own"):
        head(submission, ray, driver).run()
    assert ray.killed
    assert driver.killed
    with pytest.raises(RendezvousError, match="has ended"):
        wait_for_rendezvous(submission.rendezvous_file, timeout_s=60)
    assert set(submission.statuses().values()) == {"waiting"}


# --- the worker nodes ------------------------------------------------------------------------------


def join(submission: Submission, *reports: NodeReport) -> list[RendezvousClient]:
    """Connect as worker nodes; those with a cause of `lost` then end without a report."""
    [file] = submission.config.folder.glob("rendezvous-17-*.json")
    rendezvous = wait_for_rendezvous(file, timeout_s=120)
    clients = [RendezvousClient(rendezvous, report.host) for report in reports]
    for client, report in zip(clients, reports, strict=True):
        if report.cause == "lost":
            client._connection.shutdown(socket.SHUT_RDWR)
        else:
            client.report(report)
    return clients


@pytest.fixture
def worker_reports(monkeypatch: pytest.MonkeyPatch, submission: Submission) -> Any:
    """Lets worker nodes report as soon as the head node's server is up."""
    clients: list[RendezvousClient] = []

    def let_report(*reports: NodeReport) -> list[RendezvousClient]:
        real = head_node.RendezvousServer

        def serve(*arguments: Any) -> Any:
            server = real(*arguments)
            clients.extend(join(submission, *reports))
            return server

        monkeypatch.setattr(head_node, "RendezvousServer", serve)
        return clients

    return let_report


def test_deeper_run_starts_when_all_worker_nodes_have_reported(
    submission: Submission, ray: RayDouble, driver: DriverDouble, worker_reports: Any
) -> None:
    data = str(submission.config.data)
    clients = worker_reports(NodeReport("n2", data), NodeReport("n3", data))
    assert head(submission, ray, driver, nodes=3).run() == DONE
    assert driver.command is not None
    assert driver.command[driver.command.index("--address") + 1] == "127.0.0.1:33775"
    for client in clients:
        assert client.over.wait(30)
        assert not client.head_lost


def test_the_job_continues_without_a_node_that_has_a_problem(
    submission: Submission,
    ray: RayDouble,
    driver: DriverDouble,
    worker_reports: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    worker_reports(NodeReport("n2", "/data", "n2: no data", "mistake"))
    assert head(submission, ray, driver, nodes=2).run() == DONE
    assert "continuing without n2: no data" in capsys.readouterr().err


def test_the_job_continues_without_a_node_that_does_not_report(
    submission: Submission,
    ray: RayDouble,
    driver: DriverDouble,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its launcher never starts: another one, which has connected, is given longer to report."""
    monkeypatch.setattr(head_node, "CONNECT_TIMEOUT_S", 0.5)
    monkeypatch.setattr(head_node, "CONNECT_FACTOR", 0)
    monkeypatch.setattr(head_node, "SAY_AFTER_S", 0)
    assert head(submission, ray, driver, nodes=2).run() == DONE
    said = capsys.readouterr().err
    assert "waiting for the launchers of n2, for at most 0 s" in said
    assert "continuing without n2: its launcher did not start within 0 s" in said


def test_a_node_whose_launcher_has_started_is_given_longer(
    submission: Submission,
    ray: RayDouble,
    driver: DriverDouble,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(head_node, "CONNECT_TIMEOUT_S", 0)
    monkeypatch.setattr(head_node, "CONNECT_FACTOR", 0)
    monkeypatch.setattr(head_node, "REPORT_TIMEOUT_S", 1.0)
    clients: list[RendezvousClient] = []
    real = head_node.RendezvousServer

    def serve(address: str, file: Path) -> RendezvousServer:
        server = real(address, file)
        clients.append(RendezvousClient(wait_for_rendezvous(file, timeout_s=120), "n2"))
        until(lambda: server.connected, "the connection", seconds=60)
        return server

    monkeypatch.setattr(head_node, "RendezvousServer", serve)
    assert head(submission, ray, driver, nodes=2).run() == DONE
    assert "continuing without n2: its launcher was not ready in time" in capsys.readouterr().err


def test_a_head_node_that_copies_data_stops_when_the_job_does(
    submission: Submission, ray: RayDouble, driver: DriverDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "prepare_data", lambda config: threading.Event().wait(60))
    node = head(submission, ray, driver)
    node.stop.file.write_text("time limit", encoding="utf-8")
    assert node.run() == INTERRUPTED
    assert driver.command is None


def test_a_mistake_names_the_nodes_that_are_missing_for_it(
    submission: Submission, ray: RayDouble, driver: DriverDouble, worker_reports: Any
) -> None:
    worker_reports(NodeReport("n2", "/data", "n2: no data", "mistake"))
    driver.code, driver.mistake = WRONG_INPUT, "resources: 2 workers do not fit"
    head(submission, ray, driver, nodes=2).run()
    assert {state.error for state in submission.states().values()} == {"n2: no data | resources: 2 workers do not fit"}


@pytest.mark.parametrize(
    ("cause", "restarts", "code"), [("lost", 0, INTERRUPTED), ("ray", 0, FAILED), ("ray", 1, INTERRUPTED)]
)
@pytest.mark.parametrize("scratch", [None, "/tmp"])
def test_runs_that_do_not_fit_for_want_of_a_lost_node_do_not_fail(
    submission: Submission,
    ray: RayDouble,
    driver: DriverDouble,
    worker_reports: Any,
    monkeypatch: pytest.MonkeyPatch,
    cause: Any,
    restarts: int,
    code: int,
    scratch: str | None,
) -> None:
    """Nor is it waited for: not for the 300 s of a report, nor for the hours of a copy."""
    monkeypatch.setattr(staging, "prepare_data", lambda config: config.data)
    worker_reports(NodeReport("n2", "/data", "n2: Ray does not come up", cause))
    driver.code, driver.mistake = WRONG_INPUT, "resources.workers: 2 workers do not fit"
    assert head(submission, ray, driver, nodes=2, restarts=restarts, scratch=scratch).run() == code
    assert set(submission.statuses().values()) == {"waiting"}


def test_nodes_that_read_different_folders_are_a_mistake(
    submission: Submission, ray: RayDouble, driver: DriverDouble, worker_reports: Any
) -> None:
    worker_reports(NodeReport("n2", "/elsewhere"))
    assert head(submission, ray, driver, nodes=2).run() == WRONG_INPUT
    assert all("/elsewhere on n2; name a folder" in str(state.error) for state in submission.states().values())
    assert driver.command is None


def test_a_request_to_stop_ends_the_wait_for_worker_nodes(
    submission: Submission, ray: RayDouble, driver: DriverDouble
) -> None:
    node = head(submission, ray, driver, nodes=2)
    node.stop.file.write_text("time limit", encoding="utf-8")
    driver.code = INTERRUPTED
    assert node.run() == INTERRUPTED  # without waiting for n2, which takes 300 s


def test_a_cluster_that_is_joined_is_not_asked_for_its_address(
    submission: Submission, ray: RayDouble, driver: DriverDouble
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert head(submission, ray, driver, join=address).run() == DONE
    assert ray.arguments["head_address"] == address
    assert driver.command is not None
    assert address in driver.command


def test_a_cluster_that_cannot_be_joined_ends_the_job_at_once(
    submission: Submission, ray: RayDouble, driver: DriverDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    assert head(submission, ray, driver, join=address).run() == FAILED
    assert f"no Ray cluster can be joined at {address}: Connection refused" in capsys.readouterr().err
    assert ray.arguments == {}


# --- what is left to do ----------------------------------------------------------------------------


def test_a_job_whose_runs_have_all_ended_starts_no_ray(
    submission: Submission, ray: RayDouble, driver: DriverDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    config = submission.config
    [plan] = read_plans(config.records, "tiny")
    (config.folder / PLAN_HASH).write_text(plan.hash, encoding="utf-8")
    for entry in plan.entries:
        Record(run_folder(config.records, entry.key)).abandon("wrong")
    assert head(submission, ray, driver).run() == FAILED
    assert "nothing is left to do" in capsys.readouterr().err
    assert ray.arguments == {}
    assert head(submission, ray, driver, run_options=("--retry-failed",)).run() == DONE
    assert ray.killed


def test_a_full_disk_fails_no_run_and_requeues_nothing(
    submission: Submission, ray: RayDouble, driver: DriverDouble
) -> None:
    driver.code, driver.mistake = INTERRUPTED, "checkpoint.pt cannot be written: the disk /project is full"
    assert head(submission, ray, driver).run() == WRONG_INPUT
    assert set(submission.statuses().values()) == {"waiting"}


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's id needs root")
def test_records_that_this_node_may_not_write_are_one_sentence(
    submission: Submission, ray: RayDouble, driver: DriverDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (submission.config.folder, *submission.config.folder.parents):
        if folder.is_relative_to("/tmp/pytest-of-root"):
            folder.chmod(0o755)
    os.seteuid(65534)
    try:
        assert head(submission, ray, driver).run() == WRONG_INPUT
    finally:
        os.seteuid(0)
    assert f"--records: {submission.config.folder} cannot be written on this node" in capsys.readouterr().err
