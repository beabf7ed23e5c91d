"""Shows the epochs of trainings as they come, and the time that is left if all of them take as long as they may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console

from bench.suites.target.courses import Course
from bench.suites.target.implementations import Workload, run_config
from reproduce.training.schedules import input_side


class Progress:
    """Prints a line for each epoch, with an estimate.

    Args:
        workload: The training.
        missing: The implementations that have to train, by seed.
        console: Where lines are printed.
    """

    def __init__(self, workload: Workload, missing: Mapping[int, Sequence[str]], console: Console) -> None:
        self._workload, self._console = workload, console
        self._left = {(name, seed): 0.0 for seed, names in missing.items() for name in names}
        """Work that is left: epochs, each as the pixels of one of its images."""
        for name, seed in self._left:
            self._left[name, seed] = self._work(name, seed, 0)
        self._seconds_per_work: dict[str, float] = {}

    def started(self, course: Course) -> None:
        """Take note of a course whose process is ready, and say where it goes on."""
        self._note(course)
        if course.epochs:
            self._print(f"{_title(course)}: goes on after epoch {len(course.epochs)}")

    def trained(self, course: Course) -> None:
        """Show the last epoch of a course."""
        self._note(course)
        if course.failure is not None:
            self._print(f"{_title(course)}: failed: {course.failure}")
            return
        last = course.epochs[-1]
        self._print(
            f"{_title(course)}, epoch {len(course.epochs)} of at most {course.longest}: {last.side} px, "
            f"loss {last.loss:.3f}, top-1 {last.top1:.1%}, {last.train_s:.0f} s training, {last.val_s:.0f} s "
            f"validation{self._estimate()}"
        )
        if course.ended:
            outcome = "reached" if course.reached else "not reached"
            self._print(
                f"{_title(course)}: {100 * course.target:g} % {outcome} in {len(course.epochs)} epochs, "
                f"{course.wall_s / 60:.1f} min, {course.cpu_s / 60:.1f} CPU-min"
            )

    def _note(self, course: Course) -> None:
        name, seed = course.implementation, course.seed
        self._left[name, seed] = 0.0 if course.ended else self._work(name, seed, len(course.epochs))
        if course.epochs:
            done = sum(epoch.side**2 for epoch in course.epochs)
            self._seconds_per_work[name] = (course.training_s + course.validation_s) / done

    def _work(self, name: str, seed: int, first: int) -> float:
        recipe = run_config(name, self._workload, seed).recipe
        return float(sum(input_side(recipe, epoch) ** 2 for epoch in range(first, recipe.epochs)))

    def _estimate(self) -> str:
        left = {name for (name, _), work in self._left.items() if work}
        if not left or not left <= self._seconds_per_work.keys():
            return ""
        seconds = sum(work * self._seconds_per_work[name] for (name, _), work in self._left.items() if work)
        return f"; {seconds / 3600:.1f} h left at the longest"

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _title(course: Course) -> str:
    return f"seed {course.seed}, {course.implementation}"
