"""`deeper bench target`: minutes and CPU-seconds until a network classifies photographs as well as asked for.

Measured: seconds and CPU-seconds, of all processes, until the validation after an epoch has the target top-1 on all
validation images, training and validation told apart; epochs; images/s; the cost of preparing FFCV files, apart.

Against: `torchvision.models.googlenet` as torchvision's reference scripts train a classification network, with
ImageFolder and DataLoader. Both train the same network, on CPUs. `IMPLEMENTATIONS` names the variants of ours that tell
the share of each part.

Interleaved: each implementation has a worker process for each seed, and they train an epoch in turns.

Not shown: GPUs, several processes that train together, and other targets, for which the ratio may be another one.

A checkpoint with the costs so far is written after each epoch, and a result after each training; the same command goes
on from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from rich.console import Console

from bench.results.store import latest_results_folder, this_machine_kind
from bench.suites.harness.cpu_time import cpu_seconds
from bench.suites.harness.reporting import ResultOutput, progress_console
from bench.suites.harness.worker_process import worker_process
from bench.suites.target.courses import SUITE, Course, CourseStore, Preparing
from bench.suites.target.implementations import (
    BASELINE,
    IMPLEMENTATIONS,
    OURS,
    Workload,
    our_recipe,
    reference_recipe,
    run_config,
)
from bench.suites.target.progress import Progress
from bench.suites.target.reporting import report
from bench.suites.target.worker import course_folder, serve
from reproduce.data import DataError, load_manifest
from reproduce.data import folder as folder_source
from reproduce.data.manifest import Split
from reproduce.data.writing import PrepareConfig, prepare
from reproduce.errors import UserError, did_you_mean
from reproduce.files.locks import try_lock
from reproduce.limits import usable_cores
from reproduce.spec import LARGEST_INPUT, SMALLEST_INPUT, Config

PREPARING = "preparing.json"
GOES_ON = "the same command goes on from the last epoch"


class TargetOptions(Config):
    """Options of `deeper bench target`: the photographs, the target, and what trains towards it how often."""

    folder: Path
    """ImageNet-style folder of photographs, with `train/<class>/*` and `val/<class>/*`."""
    side: int = Field(64, ge=SMALLEST_INPUT, le=LARGEST_INPUT)
    """Side of the images in pixels: of all validations, and of training unless resizing makes it smaller."""
    target: float = Field(80, gt=0, lt=100)
    """Top-1 in per cent, of all validation images, that ends a training."""
    epochs: int = Field(18, ge=1)
    """Epochs of our recipe, whose learning rate is 0 at the end of them."""
    longest_epochs: int = Field(90, ge=1)
    """The most epochs of torchvision's recipe."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0, 1, 2), min_length=1)
    """The seeds, each of which every implementation trains with once."""
    threads: int = Field(default_factory=usable_cores, ge=1)
    """CPU threads of torch, threads of our loaders, and worker processes of DataLoader."""
    implementations: tuple[str, ...] = (OURS, BASELINE)
    """Names of `IMPLEMENTATIONS`."""
    force: bool = False
    """Whether to repeat trainings that have results or checkpoints already."""

    @field_validator("implementations")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in IMPLEMENTATIONS:
                known = ", ".join(IMPLEMENTATIONS)
                raise ValueError(f"{name!r} is none of {known}{did_you_mean(name, IMPLEMENTATIONS)}")
        return tuple(name for name in IMPLEMENTATIONS if name in names)

    @field_validator("seeds")
    @classmethod
    def _different(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(seeds))


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read a number of seeds, `3` for 0, 1 and 2, or a list of them, such as `0,4` or `4,`.

    Raises:
        UserError: The text is neither.
    """
    try:
        seeds = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        seeds = ()
    if not seeds or ("," not in text and seeds[0] < 1):
        raise UserError(f"seeds: {text!r}; give their number, such as 3, or a list, such as 0,4")
    return seeds if "," in text else tuple(range(seeds[0]))


def main(options: TargetOptions, *, output: ResultOutput) -> int:
    """Train every chosen implementation with every seed to the target, and print and write the result.

    Args:
        options: The photographs, the target, and what trains towards it how often.
        output: Where the result goes beside the terminal. Without a file, results are kept in the user's cache.

    Returns:
        The exit code: 0 if every goal is reached, 1 otherwise. The goals are that torchvision's implementation costs at
        least 5 times the CPU-seconds of ours, and that ours reaches the target with every seed.

    Raises:
        DataError: The folder has no photographs to train and validate with, or fewer than a step needs.
        UserError: The result file holds other results, or another process works on the same trainings.
        KeyboardInterrupt: The user stopped the command; the message says how to go on.
        WorkerProcessError: The process of an implementation ended before it replied.
    """
    setting = _setting(options)
    console = progress_console()
    with _state_folder(options, setting) as state:
        store = CourseStore(output.file or state / "result.json", setting)
        if options.force:
            _forget(options, store, state)
        try:
            if any(store.find(name, seed) is None for name in options.implementations for seed in options.seeds):
                _train_all(options, store, state, console)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped; {GOES_ON}{', without --force' if options.force else ''}") from None
        return report(store, options.seeds, output)


def _setting(options: TargetOptions) -> dict[str, Any]:
    """Return the conditions that all trainings of a result share, and check that there are photographs.

    Raises:
        DataError: The folder lacks one of its two parts.
    """
    for split in ("train", "val"):
        if not (options.folder / split).is_dir():
            raise DataError(
                f"{options.folder}: no folder {split}/ in it; name an ImageNet-style folder (train/<class>/*, "
                "val/<class>/*)"
            )
    return {
        **options.model_dump(include={"side", "target", "epochs", "longest_epochs", "threads"}),
        "photographs": options.folder.resolve().name,
        "machine": this_machine_kind(),
        "recipes": {
            OURS: our_recipe(options.side, options.epochs).model_dump(mode="json"),
            BASELINE: reference_recipe(options.side, options.longest_epochs).model_dump(mode="json"),
        },
    }


@contextmanager
def _state_folder(options: TargetOptions, setting: dict[str, Any]) -> Iterator[Path]:
    """Lock and yield the folder in the user's cache for FFCV files, checkpoints and results of one setting."""
    content = json.dumps([str(options.folder.resolve()), setting], sort_keys=True)
    state = latest_results_folder() / SUITE / hashlib.sha256(content.encode()).hexdigest()[:12]
    state.mkdir(parents=True, exist_ok=True)
    lock = try_lock(state / ".lock")
    if lock is None:
        raise UserError(f"{options.folder}: another process trains with these options; wait for its end")
    try:
        yield state
    finally:
        os.close(lock)


def _forget(options: TargetOptions, store: CourseStore, state: Path) -> None:
    for name in options.implementations:
        store.remove(name, options.seeds)
        for seed in options.seeds:
            shutil.rmtree(course_folder(state, name, seed), ignore_errors=True)
    if store.path.is_file():
        store.write()


# --- training -----------------------------------------------------------------------------------------


def _train_all(options: TargetOptions, store: CourseStore, state: Path, console: Console) -> None:
    preparing = _prepared(options.folder, state, console)
    store.preparing = store.preparing or preparing
    manifest = load_manifest(state / "data")
    workload = Workload(
        photographs=options.folder.resolve(),
        prepared=state / "data",
        data_hash=manifest.hash,
        classes=len(manifest.classes),
        side=options.side,
        target=options.target / 100,
        epochs=options.epochs,
        longest_epochs=options.longest_epochs,
        threads=options.threads,
        state=state,
    )
    missing = {
        seed: names
        for seed in options.seeds
        if (names := [name for name in options.implementations if store.find(name, seed) is None])
    }
    _check_images(workload, options.implementations, preparing)
    progress = Progress(workload, missing, console)
    for seed, names in missing.items():
        for course in _train_seed(workload, names, seed, progress):
            store.add(course)
            shutil.rmtree(course_folder(state, course.implementation, seed), ignore_errors=True)
    (state / PREPARING).unlink()
    shutil.rmtree(state / "data")


def _check_images(workload: Workload, names: Sequence[str], preparing: Preparing) -> None:
    batch = max(run_config(name, workload, 0).recipe.batch_size for name in names)
    if preparing.train_images < batch:
        raise DataError(
            f"{workload.photographs}: {preparing.train_images} images in train/ are fewer than a step of {batch}"
        )


def _prepared(photographs: Path, state: Path, console: Console) -> Preparing:
    """Write the FFCV files unless they are there, and return what that cost, which is measured in one go."""
    note = state / PREPARING
    if note.is_file():
        prepare(folder_source(photographs), state / "data")  # which checks that they still hold these photographs
        return Preparing.model_validate_json(note.read_text(encoding="utf-8"))
    console.print("writing FFCV files ...")
    start, start_cpu = time.perf_counter(), cpu_seconds()
    manifest = prepare(folder_source(photographs), state / "data", PrepareConfig(force=True))
    images: dict[Split, int] = {split: manifest.splits[split].images for split in ("train", "val")}
    preparing = Preparing(
        seconds=time.perf_counter() - start,
        cpu_s=cpu_seconds() - start_cpu,
        data_hash=manifest.hash,
        train_images=images["train"],
        val_images=images["val"],
    )
    note.write_text(preparing.model_dump_json(), encoding="utf-8")
    return preparing


def _train_seed(workload: Workload, names: list[str], seed: int, progress: Progress) -> Iterator[Course]:
    """Let implementations train an epoch in turns, and yield the course of each when it has ended."""
    with ExitStack() as stack:
        workers = {}
        courses: dict[str, Course] = {}
        for name in names:  # one after the other, because the cost of starting counts
            workers[name] = stack.enter_context(worker_process(name, serve, name, workload, seed))
            courses[name] = workers[name].receive()
            progress.started(courses[name])
        while courses:
            for name in list(courses):
                if not courses[name].ended:
                    courses[name] = workers[name].request("the next epoch")
                    progress.trained(courses[name])
                if courses[name].ended:
                    workers[name].close()
                    yield courses.pop(name)
