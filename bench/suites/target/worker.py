"""Trains an implementation with a seed in a worker process, one epoch at each of its turns."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from bench.machine.revision import revision
from bench.suites.harness.cpu_time import cpu_seconds
from bench.suites.harness.worker_process import received_requests
from bench.suites.target.courses import Course, EpochResult
from bench.suites.target.implementations import Workload
from bench.suites.target.trainings import Training, build_training
from reproduce.training import checkpoint
from reproduce.training.interface import NonFiniteLossError
from reproduce.training.schedules import input_side


def serve(pipe: Connection, name: str, workload: Workload, seed: int) -> None:
    """Build an implementation, go on from its checkpoint, and train an epoch at each request, in the worker process.

    Sends the course so far when the process is ready, and after each epoch once its checkpoint is durable: a process
    that is killed loses the epoch that it is at. Costs are in the checkpoint, too; those of starting again are left
    out.

    Args:
        pipe: The connection to the benchmark.
        name: Name of the implementation in `IMPLEMENTATIONS`.
        workload: The training.
        seed: The seed.
    """
    training = build_training(name, workload, seed)
    folder = course_folder(workload.state, name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    saved = checkpoint.load(folder, folder.name)
    if saved is None:
        course = Course(
            implementation=name,
            seed=seed,
            target=workload.target,
            longest=training.run.recipe.epochs,
            start_s=time.time() - psutil.Process().create_time(),
            start_cpu_s=cpu_seconds(),
            commit=revision().get("commit"),
            date=time.strftime("%Y-%m-%d"),
        )
    else:
        course = Course.model_validate(saved["course"])
        training.restore(saved)
    pipe.send(course)
    for _ in received_requests(pipe):
        course = _with_next_epoch(course, training)
        checkpoint.save(folder, {"key": folder.name, **training.state(), "course": course.model_dump()})
        pipe.send(course)


def course_folder(state: Path, name: str, seed: int) -> Path:
    """Return the folder of the checkpoints of an implementation and a seed, whether or not it exists."""
    return state / f"{name}-{seed}"


def _with_next_epoch(course: Course, training: Training) -> Course:
    """Train the next epoch of a course, validate, and return the course with it."""
    epoch, recipe = len(course.epochs), training.run.recipe
    start, start_cpu = time.perf_counter(), cpu_seconds()
    try:
        loss = training.train_epoch(epoch)
    except NonFiniteLossError as error:
        return course.model_copy(update={"failure": str(error)})
    trained, trained_cpu = time.perf_counter(), cpu_seconds()
    top1 = training.validate()
    validated, validated_cpu = time.perf_counter(), cpu_seconds()
    result = EpochResult(
        side=input_side(recipe, epoch),
        images=training.steps * recipe.batch_size,
        loss=loss,
        top1=top1,
        train_s=trained - start,
        train_cpu_s=trained_cpu - start_cpu,
        val_s=validated - trained,
        val_cpu_s=validated_cpu - trained_cpu,
    )
    return course.model_copy(update={"epochs": (*course.epochs, result)})
