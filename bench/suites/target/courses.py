"""The courses of trainings: what each epoch of an implementation with a seed gave and cost, and the file of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from bench.results.store import with_provenance, write_result
from reproduce.errors import UserError
from reproduce.spec import Config, validated

SUITE = "target"


class EpochResult(Config):
    """What one epoch and the validation after it gave and cost."""

    side: int
    """Side of the training images, in pixels."""
    images: int
    """Number of training images."""
    loss: float
    """Mean loss of the training images, with the weighted losses of the auxiliary classifiers."""
    top1: float
    """Top-1 of all validation images, 0 to 1."""
    train_s: float
    train_cpu_s: float
    """CPU-seconds of all processes of the implementation."""
    val_s: float
    val_cpu_s: float


class Course(Config):
    """The training of one implementation with one seed, as far as it has come."""

    implementation: str
    seed: int
    target: float
    """The top-1 that ends the training, 0 to 1."""
    longest: int = Field(ge=1)
    """Number of epochs after which the training ends without having reached the target."""
    start_s: float
    """Seconds from the start of the process until it is ready for the first epoch."""
    start_cpu_s: float
    """CPU-seconds of the same."""
    epochs: tuple[EpochResult, ...] = ()
    failure: str | None = None
    """Why the training could not go on, such as a loss that is not finite. None if it could."""
    commit: str | None = None
    """The commit of the code that began it; None if the code comes from no checkout."""
    date: str
    """The local date on which it began, as YYYY-MM-DD."""

    @property
    def reached(self) -> bool:
        """Whether the validation after the last epoch reached the target."""
        return bool(self.epochs) and self.epochs[-1].top1 >= self.target

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to train."""
        return self.reached or self.failure is not None or len(self.epochs) >= self.longest

    @property
    def best_top1(self) -> float:
        """The best top-1 of all validations, 0 to 1; 0 before the first one."""
        return max((epoch.top1 for epoch in self.epochs), default=0.0)

    @property
    def training_s(self) -> float:
        """Seconds of training, without start and validation."""
        return sum(epoch.train_s for epoch in self.epochs)

    @property
    def validation_s(self) -> float:
        """Seconds of validation."""
        return sum(epoch.val_s for epoch in self.epochs)

    @property
    def wall_s(self) -> float:
        """Seconds of start, training and validation, without the turns of others and without interruptions."""
        return self.start_s + self.training_s + self.validation_s

    @property
    def cpu_s(self) -> float:
        """CPU-seconds of start, training and validation, of all processes of the implementation."""
        return self.start_cpu_s + sum(epoch.train_cpu_s + epoch.val_cpu_s for epoch in self.epochs)

    @property
    def images_per_s(self) -> float:
        """Training images per second of training; 0 before the end of the first epoch."""
        return sum(epoch.images for epoch in self.epochs) / self.training_s if self.epochs else 0.0


class Preparing(Config):
    """What it cost to write the FFCV files once, and what they hold."""

    seconds: float
    cpu_s: float
    data_hash: str
    train_images: int
    val_images: int


class CourseStore:
    """Reads and writes the result file: the courses that have ended, the cost of preparing, and their setting.

    Args:
        path: The file. It is created when there is something to write.
        setting: The conditions of the measurement, serialisable as JSON. All courses of a file have the same.

    Raises:
        UserError: The file holds something else, or courses of another setting.
    """

    def __init__(self, path: Path, setting: dict[str, Any]) -> None:
        self.path, self.setting = path, json.loads(json.dumps(setting))
        self.courses: list[Course] = []
        self.preparing: Preparing | None = None
        if path.is_file():
            self._read()

    def find(self, implementation: str, seed: int) -> Course | None:
        """Return the course of an implementation and a seed; None if it has not ended."""
        return next((c for c in self.courses if (c.implementation, c.seed) == (implementation, seed)), None)

    def add(self, course: Course) -> None:
        """Write a course that has ended, which replaces an earlier one of the same implementation and seed."""
        self.remove(course.implementation, [course.seed])
        self.courses.append(course)
        self.write()

    def remove(self, implementation: str, seeds: Sequence[int]) -> None:
        """Forget the courses of an implementation, without writing the file."""
        self.courses = [c for c in self.courses if c.implementation != implementation or c.seed not in seeds]

    def write(self) -> None:
        """Write the file, without comparisons as long as courses may be missing."""
        content = {"setting": self.setting, "comparisons": [], **self.content()}
        write_result(self.path, with_provenance(SUITE, content))

    def content(self) -> dict[str, Any]:
        """Return what the file holds beside setting and comparisons."""
        return {
            "preparing": None if self.preparing is None else self.preparing.model_dump(mode="json"),
            "courses": [course.model_dump(mode="json") for course in self.courses],
        }

    def _read(self) -> None:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            setting, courses, preparing = found["setting"], found["courses"], found["preparing"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"--output: {self.path} holds no result of `deeper bench target`; move it away") from None
        if setting != self.setting:
            names = sorted(name for name in self.setting if setting.get(name) != self.setting[name])
            raise UserError(
                f"--output: {self.path} holds results with another {', '.join(names) or 'setting'}; "
                "move it away, or name another file"
            )
        self.courses = [validated(Course, course, where=f"{self.path}: ") for course in courses]
        self.preparing = None if preparing is None else validated(Preparing, preparing, where=f"{self.path}: ")
