"""A user's mistake fails the runs with one sentence; a bug is raised, and marks none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.console.exit_codes import WRONG_INPUT
from bench.records.leases import try_acquire
from bench.records.plan import read_plan, read_plans, write_plan
from bench.records.states import read_state, run_folder
from reproduce.grid import plan_without_data
from reproduce.spec import load_experiment
from slurm.job.config import PLAN_HASH
from slurm.job.rendezvous import RendezvousError, wait_for_rendezvous

if TYPE_CHECKING:
    from tests.slurm.job.conftest import DriverDouble, RayDouble, Submission
    from tests.slurm.job.head_node.conftest import MakeHead


def test_a_mistake_of_the_user_fails_the_runs_with_that_sentence(
    head: MakeHead, submission: Submission, driver: DriverDouble, tmp_path: Path
) -> None:
    assert head(data=tmp_path / "nothing").run() == WRONG_INPUT
    states = submission.states()
    assert {state.status for state in states.values()} == {"failed"}
    assert all(str(state.error).startswith("n1: ") and "nothing" in str(state.error) for state in states.values())
    assert driver.command is None


def test_a_mistake_that_deeper_run_names_fails_the_runs(
    head: MakeHead, submission: Submission, driver: DriverDouble
) -> None:
    driver.code, driver.mistake = WRONG_INPUT, "resources: 8 workers do not fit"
    assert head().run() == WRONG_INPUT
    assert {state.error for state in submission.states().values()} == {"resources: 8 workers do not fit"}


def test_without_a_named_mistake_no_run_fails(head: MakeHead, submission: Submission, driver: DriverDouble) -> None:
    driver.code = WRONG_INPUT  # for example argparse's, for an option that the launcher itself got wrong
    assert head().run() == WRONG_INPUT
    assert set(submission.statuses().values()) == {"waiting"}


def test_only_the_runs_that_were_submitted_fail(head: MakeHead, submission: Submission, driver: DriverDouble) -> None:
    driver.code, driver.mistake = WRONG_INPUT, "wrong"
    head(run_options=("--arm", "plain", "--retry-failed")).run()
    assert submission.statuses() == {"heads": "waiting", "plain": "failed"}


def test_runs_of_a_plan_that_was_submitted_later_do_not_fail(
    head: MakeHead, submission: Submission, driver: DriverDouble
) -> None:
    config = submission.config
    submitted = read_plans(config.records, "tiny")[0]
    (config.folder / PLAN_HASH).write_text(submitted.hash, encoding="utf-8")
    edited = load_experiment(config.experiment).model_copy(update={"seeds": (1,)})
    write_plan(config.records, "tiny", plan_without_data(edited), {})
    driver.code, driver.mistake = WRONG_INPUT, "wrong"
    head().run()
    assert set(submission.statuses().values()) == {"waiting"}
    states = [read_state(run_folder(config.records, entry.key)) for entry in submitted.entries]
    assert {state.status for state in states} == {"failed"}


def test_a_run_in_another_drivers_hands_does_not_fail(
    head: MakeHead, submission: Submission, driver: DriverDouble
) -> None:
    driver.code, driver.mistake = WRONG_INPUT, "wrong"
    [held, _] = read_plan(submission.config.records, "tiny")
    lease = try_acquire(run_folder(submission.config.records, held.key))
    assert lease is not None
    head().run()
    lease.release()
    assert submission.statuses() == {held.arm: "waiting", "plain" if held.arm == "heads" else "heads": "failed"}


def test_an_unreadable_experiment_is_a_mistake_like_any_other(
    head: MakeHead, submission: Submission, capsys: pytest.CaptureFixture[str]
) -> None:
    submission.config.experiment.write_text("name: [", encoding="utf-8")
    assert head().run() == WRONG_INPUT
    assert "no run is marked as failed: " in capsys.readouterr().err


@pytest.mark.parametrize("bug", [ValueError, KeyError, OSError])
def test_a_bug_is_raised_and_marks_no_run(head: MakeHead, submission: Submission, bug: type[Exception]) -> None:
    def start(*_: Any, **__: Any) -> Any:
        raise bug("of the launcher's own")

    node = replace(head(), start_ray=start)
    with pytest.raises(bug, match="of the launcher's own"):
        node.run()
    assert set(submission.statuses().values()) == {"waiting"}
    with pytest.raises(RendezvousError, match="the head node could not start"):
        wait_for_rendezvous(submission.rendezvous_file, timeout_s=60)


def test_a_bug_while_runs_train_ends_ray_the_driver_and_the_worker_nodes(
    head: MakeHead, submission: Submission, ray: RayDouble, driver: DriverDouble
) -> None:
    def poll() -> bool:
        raise ValueError("of the launcher's own")

    driver.until = poll
    with pytest.raises(ValueError, match="of the launcher's own"):
        head().run()
    assert ray.killed
    assert driver.killed
    with pytest.raises(RendezvousError, match="has ended"):
        wait_for_rendezvous(submission.rendezvous_file, timeout_s=60)
    assert set(submission.statuses().values()) == {"waiting"}
