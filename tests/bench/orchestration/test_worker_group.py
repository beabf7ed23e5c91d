"""Worker groups against a double of Ray, which answers and raises as Ray 2.60 was seen to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RaySystemError, RayTaskError

from bench.machine.computation import Computation
from bench.orchestration import worker_group as module
from bench.orchestration.worker import Attempt, Outcome, RankPlacement
from bench.orchestration.worker_group import StartCancelledError, StartFailedError, WorkerGroup
from reproduce import schema
from reproduce.limits import KillsForMemory
from reproduce.spec import ResourcesConfig
from tests.bench.orchestration.ray_double import PENDING, Handle, PlacementGroup, Ray, Reference

FINISHED, INTERRUPTED = Outcome(schema.FINISHED), Outcome(schema.INTERRUPTED)
DIED = ActorDiedError()
DIED.error_msg += "\n\tclass_name: Worker\n\tpid: 4711\nThe actor is dead because it was killed by `ray.kill`."
KILLED = ActorDiedError()
KILLED.error_msg += (
    "\n\tpid: 4711\nThe actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR "
    "Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of file. "
    "Some common causes include: (1) the process was killed by the OOM killer due to high memory usage, (2) ray stop "
    "--force was called, or (3) the worker crashed unexpectedly due to SIGSEGV or another unexpected error."
)
"""What Ray says of a worker that SIGKILL, SIGSEGV or the kernel's OOM killer has ended."""
SHORT_OF_MEMORY = ActorDiedError()
SHORT_OF_MEMORY.error_msg += (
    "\n\tpid: 4711\nThe actor is dead because its worker process has died. Worker exit type: NODE_OUT_OF_MEMORY "
    "Worker exit detail: Task was killed due to the node running low on memory.\n"
    "Memory on the node (IP: 192.0.2.1) was 30.4GB."
)
RAISED = RayTaskError(
    "Worker.join", "\x1b[36mray::Worker.join()\x1b[39m (pid=4711)\n  ...", ValueError("not 2 ranks\nbut 1")
).as_instanceof_cause()
COMPUTATION = Computation(
    machine="amd avx2", code="c0de", decoder="native", kernels="torch", threads=3, compiled=False, torch="2.14"
)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    double = Ray()
    monkeypatch.setattr(module, "ray", double)
    monkeypatch.setattr(module, "placement_group", double.placement_group)
    monkeypatch.setattr(module, "remove_placement_group", double.remove_placement_group)
    return double


def starting(rank: int, **answers: Any) -> Handle:
    """A worker that starts as it should, but for the given answers."""
    return Handle(
        **{
            "placement": RankPlacement("192.0.2.1", (str(rank),), 4710 + rank),
            "create_store": 4711,
            "computation": COMPUTATION,
            **answers,
        }
    )


# --- start -----------------------------------------------------------------------------------------


def test_workers_are_placed_together_and_joined_with_what_each_needs_to_know(ray: Ray) -> None:
    ray.handles = [starting(0), starting(1)]
    group = WorkerGroup.start(ResourcesConfig(workers=2, cpus_per_worker=3, gpus_per_worker=1))
    assert ray.bundles == [{"CPU": 3.0, "GPU": 1.0}] * 2
    assert [(given["num_cpus"], given["num_gpus"]) for given in ray.options] == [(3, 1)] * 2
    assert [given["scheduling_strategy"].placement_group_bundle_index for given in ray.options] == [0, 1]
    placements = [RankPlacement("192.0.2.1", ("0",), 4710), RankPlacement("192.0.2.1", ("1",), 4711)]
    assert [worker.calls["join"] for worker in group.workers] == [(placements, 4711)] * 2
    assert not ray.killed


def test_a_group_of_several_kinds_of_machine_says_so(ray: Ray) -> None:
    other = dataclasses.replace(COMPUTATION, machine="amd avx512_bf16")
    ray.handles = [starting(0, computation=other), starting(1), starting(2)]
    group = WorkerGroup.start(ResourcesConfig(workers=3))
    assert group.computation == dataclasses.replace(COMPUTATION, machine="amd avx2 + amd avx512_bf16")


def test_a_single_worker_needs_no_store(ray: Ray) -> None:
    ray.handles = [starting(0)]
    WorkerGroup.start(ResourcesConfig())
    assert ray.bundles == [{"CPU": 1.0}]
    assert "create_store" not in ray.handles[0].calls


def test_room_is_waited_for_and_the_caller_is_asked_each_time(ray: Ray) -> None:
    ray.handles, ray.placed = [starting(0)], PlacementGroup(rounds=3)
    asked: list[float] = []

    def keep_waiting(waited_s: float) -> bool:
        asked.append(waited_s)
        return True

    WorkerGroup.start(ResourcesConfig(), keep_waiting)
    assert len(asked) >= 3
    assert asked == sorted(asked)


def test_a_start_is_cancelled_while_it_waits_for_room(ray: Ray) -> None:
    ray.placed = PlacementGroup(rounds=1000)
    with pytest.raises(StartCancelledError):
        WorkerGroup.start(ResourcesConfig(), lambda _: False)
    assert ray.placed.removed
    assert not ray.options


def test_without_a_caller_that_decides_room_is_not_waited_for_forever(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START_TIMEOUT_S", -1.0)
    ray.placed = PlacementGroup(rounds=1000)
    with pytest.raises(StartCancelledError):
        WorkerGroup.start(ResourcesConfig())


def test_a_start_is_cancelled_while_workers_join_and_they_are_killed(ray: Ray) -> None:
    ray.handles = [starting(0, join=PENDING), starting(1, join=PENDING)]
    polls: list[float] = []
    ray.on_poll = lambda: polls.append(0.0)
    with pytest.raises(StartCancelledError):
        WorkerGroup.start(ResourcesConfig(workers=2), lambda _: not polls)
    assert ray.killed == ray.handles
    assert ray.placed.removed


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DIED, "the workers did not start: The actor died unexpectedly before finishing this task."),
        (RAISED, "the workers did not start: ValueError: not 2 ranks"),
    ],
)
def test_a_worker_that_fails_to_join_ends_the_start_with_one_line(ray: Ray, error: Exception, message: str) -> None:
    ray.handles = [starting(0, join=PENDING), starting(1, join=error)]
    with pytest.raises(StartFailedError) as raised:
        WorkerGroup.start(ResourcesConfig(workers=2), lambda _: True)
    assert str(raised.value) == message
    assert ray.killed == ray.handles
    assert ray.placed.removed


def test_workers_that_do_not_answer_end_the_start(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_TIMEOUT_S", -1.0)
    ray.handles = [starting(0, placement=PENDING)]
    with pytest.raises(StartFailedError, match="the workers did not answer within"):
        WorkerGroup.start(ResourcesConfig(), lambda _: True)
    assert ray.killed == ray.handles


# --- train -----------------------------------------------------------------------------------------


def train(group: WorkerGroup, give_up: Callable[[], bool] = lambda: False) -> Outcome:
    config: Any = None
    return group.train(Attempt(config, Path("run"), Path("data")), give_up)


def trained_by(ray: Ray, *answers: Any, **others: Any) -> WorkerGroup:
    """A group whose workers answer a call of `train` with these, by rank."""
    return WorkerGroup(ray.placed, [Handle(train=answer, **others) for answer in answers])


def test_a_run_is_finished_once_every_worker_is(ray: Ray) -> None:
    assert train(trained_by(ray, FINISHED, FINISHED)) == FINISHED


def test_the_first_failure_is_the_outcome_and_the_others_are_not_waited_for(ray: Ray) -> None:
    failed = Outcome(schema.FAILED, "NotFiniteLoss: epoch 1, step 2 (on node1)")
    assert train(trained_by(ray, PENDING, failed)) == failed


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DIED, "a worker died: The actor died unexpectedly before finishing this task."),
        (
            KILLED,
            "a worker died: its process ended without a word: it was killed, by hand or for want of memory, or it "
            "crashed",
        ),
        (SHORT_OF_MEMORY, "a worker died: Task was killed due to the node running low on memory."),
        (RAISED, "Ray: ValueError: not 2 ranks"),
        (RaySystemError("the control plane is gone"), "Ray: System error: the control plane is gone"),
    ],
)
def test_a_failure_of_ray_is_worth_another_attempt(ray: Ray, error: Exception, message: str) -> None:
    assert train(trained_by(ray, PENDING, error)) == Outcome(schema.FAILED, message, retry=True)


def killed_on(ray: Ray, monkeypatch: pytest.MonkeyPatch, now: KillsForMemory | None) -> Outcome:
    """The outcome of a run whose rank dies on the node n7, where `now` is found afterwards; before, nobody was."""
    monkeypatch.setattr(module, "_kills_on", {"id of n7": now}.__getitem__)
    group = trained_by(ray, KILLED)
    group._placements = [RankPlacement("192.0.2.7", (), name="n7", node="id of n7")]
    return train(group)


def test_a_rank_that_the_kernel_killed_for_want_of_memory_is_recorded_so(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = killed_on(ray, monkeypatch, KillsForMemory(machine=1, group=1))
    assert outcome.error.endswith("; the kernel has meanwhile killed a process of n7 because memory was short")
    assert outcome.retry


def test_a_run_that_exceeds_the_memory_of_its_job_says_the_limit_and_is_not_tried_again(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 3 * 2**30
    outcome = killed_on(ray, monkeypatch, KillsForMemory(machine=1, group=1, limit=limit, peak=limit))
    assert outcome == Outcome(
        schema.FAILED,
        "out of memory: the kernel has killed a process on n7, where the processes of this job may use 3.00 GiB of "
        "memory (peak: 3.00 GiB); ask for more, or for fewer workers on a node",
    )


@pytest.mark.parametrize("now", [None, KillsForMemory(0, 0, limit=2**30)])
def test_a_rank_that_dies_where_nobody_was_killed_for_memory_is_tried_again(
    ray: Ray, monkeypatch: pytest.MonkeyPatch, now: KillsForMemory | None
) -> None:
    outcome = killed_on(ray, monkeypatch, now)
    assert outcome.retry
    assert outcome.error.endswith("by hand or for want of memory, or it crashed")


@pytest.mark.parametrize("cause", [Outcome(schema.FAILED, "DataError: torn file (on node1)"), KILLED])
def test_the_rank_that_failed_is_the_outcome_and_not_the_one_that_missed_it(ray: Ray, cause: Any) -> None:
    missed = Outcome(schema.FAILED, "RuntimeError: gloo: Connection closed by peer", retry=True, elsewhere=True)
    outcome = train(trained_by(ray, missed, cause))
    assert outcome.status == schema.FAILED
    assert "gloo" not in outcome.error


def test_if_every_rank_only_misses_another_one_says_so(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CAUSE_PATIENCE_S", 0.0)
    missed = Outcome(schema.FAILED, "RuntimeError: gloo: Connection closed by peer", retry=True, elsewhere=True)
    assert train(trained_by(ray, missed, PENDING)) == missed


def test_a_rank_that_makes_no_step_fails_the_attempt_with_the_stacks_of_those_that_answer(
    ray: Ray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "STACKS_TIMEOUT_S", 0.0)
    ray.handles = [starting(0, train=PENDING), starting(1, train=PENDING, steps_so_far=PENDING, stacks=PENDING)]
    group = WorkerGroup.start(ResourcesConfig(workers=2))
    config: Any = None
    outcome = group.train(Attempt(config, tmp_path, Path("data")), step_patience_s=-1.0)
    assert (outcome.status, outcome.retry) == (schema.FAILED, True)
    assert "rank 1 (process 4711 on 192.0.2.1) does not answer; the stacks are in log.txt" in outcome.error
    assert "rank 0, as it says itself:\nin all_reduce" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_a_run_that_does_not_end_after_a_stop_is_given_up(ray: Ray) -> None:
    polls: list[int] = []
    ray.on_poll = lambda: polls.append(1)
    assert train(trained_by(ray, FINISHED, PENDING), lambda: len(polls) > 2) == INTERRUPTED


def test_a_run_that_is_stopped_before_its_first_step_is_not_waited_for(ray: Ray) -> None:
    group = trained_by(ray, PENDING, PENDING, stop=False)
    ray.on_poll = lambda: group.stop("terminated")
    assert train(group) == INTERRUPTED
    assert group.workers[0].calls["stop"] == ("terminated",)
    assert "stop" not in group.workers[1].calls, "the ranks agree by themselves"


@pytest.mark.parametrize("answer", [True, PENDING, DIED], ids=["in its steps", "no answer yet", "dead"])
def test_a_stopped_run_is_waited_for_until_it_has_written_its_checkpoint(ray: Ray, answer: Any) -> None:
    group = WorkerGroup(ray.placed, [Handle(train=PENDING, stop=answer)])
    references: list[Reference] = []
    polls: list[int] = []

    def wait(pending: list[Reference], **given: Any) -> Any:
        references[:] = pending if given["timeout"] else references
        return Ray.wait(ray, pending, **given)

    def poll() -> None:
        polls.append(1)
        if len(polls) == 1:
            group.stop("terminated")
        if len(polls) == 4:
            references[0].answer = INTERRUPTED

    ray.wait, ray.on_poll = wait, poll  # type: ignore[method-assign]
    assert train(group) == INTERRUPTED
    assert len(polls) == 4


# --- kill ------------------------------------------------------------------------------------------


def test_every_worker_is_killed_and_its_place_freed_even_if_ray_fails(
    ray: Ray, caplog: pytest.LogCaptureFixture
) -> None:
    group = trained_by(ray, FINISHED, FINISHED)

    def kill(handle: Handle) -> None:
        ray.killed.append(handle)
        raise RaySystemError("Ray has not been started yet.")

    ray.kill = kill  # type: ignore[method-assign]
    group.kill()
    assert ray.killed == group.workers
    assert ray.placed.removed
    assert "could not be ended: System error: Ray has not been started yet." in caplog.text
