"""Reports courses that have ended: the comparison with its goals, each seed on its own, and the shares of our parts."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.console import Console

from bench.suites.harness.comparison import Comparison, Goal
from bench.suites.harness.printing import print_table
from bench.suites.harness.reporting import ResultOutput, report_comparisons
from bench.suites.target.courses import SUITE, Course, CourseStore, Preparing
from bench.suites.target.implementations import BASELINE, IMPLEMENTATIONS, OURS

CPU_GOAL = 5.0
CPU, WALL = "CPU-seconds to the target", "seconds to the target"
PREPARED_CPU, PREPARED_WALL = "CPU-seconds with preparing the data", "seconds with preparing the data"
TRAINING, VALIDATION = "seconds of training", "seconds of validation"
SPEED, EPOCHS, TOP1 = "training images/s", "epochs", "best top-1, %"
WORST = "best top-1 of the worst seed, %"


def report(store: CourseStore, seeds: Sequence[int], output: ResultOutput) -> int:
    """Print the courses of some seeds, and print or write the result as `output` selects.

    All implementations take part that have ended with each of the seeds. A training that has not reached the target
    takes part with the cost of all its epochs, and is named: its ratio is a bound.

    Args:
        store: The courses. Its file receives the comparison, too.
        seeds: The seeds.
        output: Where the result goes beside the terminal.

    Returns:
        The exit code, see `report_comparisons`.
    """
    found = {name: [store.find(name, seed) for seed in seeds] for name in IMPLEMENTATIONS}
    courses = {name: [c for c in of_name if c is not None] for name, of_name in found.items() if None not in of_name}
    console = output.table_console()
    _print_courses(courses, console)
    comparison = compare(courses, store.preparing)
    code = report_comparisons(
        SUITE,
        [comparison],
        setting=store.setting,
        content=store.content(),
        output=ResultOutput(json=output.json, file=store.path),
    )
    _print_shares(courses, console)
    return code


def compare(courses: dict[str, list[Course]], preparing: Preparing | None) -> Comparison:
    """Compare the costs of implementations, seed by seed.

    Args:
        courses: The courses of each implementation, one for each seed, in the same order.
        preparing: What the FFCV files cost, which is added for the implementations that read them.
    """
    goals: list[Goal] = []
    if OURS in courses:
        reached = all(course.reached for course in courses[OURS])
        if BASELINE in courses and reached:  # otherwise the ratio is an upper bound, which decides nothing
            is_bound = not all(course.reached for course in courses[BASELINE])
            note = f"a lower bound, as {BASELINE} does not reach the target with every seed" if is_bound else ""
            goals.append(Goal(metric=CPU, ours=BASELINE, baseline=OURS, at_least=CPU_GOAL, note=note))
        note = "the target is not reached with every seed, and ratios to its costs are upper bounds"
        goals.append(Goal(metric=WORST, ours=OURS, at_least=100 * courses[OURS][0].target, note=note))
    once = {}
    if preparing is not None:
        written = {"preparing, s": preparing.seconds, "preparing, CPU-s": preparing.cpu_s}
        once = {name: written for name in courses if IMPLEMENTATIONS[name].loader}
    return Comparison(
        name=SUITE,
        title="Training to the target",
        repetitions={name: _measurements(name, of_name, preparing) for name, of_name in courses.items()},
        goals=tuple(goals),
        once=once,
    )


def _measurements(name: str, courses: Sequence[Course], preparing: Preparing | None) -> list[dict[str, float]]:
    worst = 100 * min(course.best_top1 for course in courses)
    reads_ours = preparing is not None and IMPLEMENTATIONS[name].loader
    wall, cpu = (preparing.seconds, preparing.cpu_s) if preparing is not None and reads_ours else (0.0, 0.0)
    return [
        {
            CPU: course.cpu_s,
            PREPARED_CPU: course.cpu_s + cpu,
            WALL: course.wall_s,
            PREPARED_WALL: course.wall_s + wall,
            TRAINING: course.training_s,
            VALIDATION: course.validation_s,
            SPEED: course.images_per_s,
            EPOCHS: float(len(course.epochs)),
            TOP1: 100 * course.best_top1,
            WORST: worst,
        }
        for course in courses
    ]


# --- tables -------------------------------------------------------------------------------------------


def _print_courses(courses: dict[str, list[Course]], console: Console) -> None:
    columns = ("seed, implementation", "epochs", "min", "CPU-min", "top-1, %", "CPU-s, × ours", "s, × ours")
    rows = []
    for index in range(len(next(iter(courses.values()), []))):
        for name, of_name in courses.items():
            course = of_name[index]
            ours = courses[OURS][index] if OURS in courses and name != OURS else None
            rows.append(
                [
                    f"{course.seed}, {name}",
                    f"{'' if course.reached else '> '}{len(course.epochs)}",
                    f"{course.wall_s / 60:.1f}",
                    f"{course.cpu_s / 60:.1f}",
                    f"{100 * course.best_top1:.1f}",
                    "" if ours is None else f"{bound(course, ours)}{course.cpu_s / ours.cpu_s:.2f}",
                    "" if ours is None else f"{bound(course, ours)}{course.wall_s / ours.wall_s:.2f}",
                ]
            )
    print_table(console, columns, rows)
    for course in (course for of_name in courses.values() for course in of_name if not course.reached):
        reason = f": {course.failure}" if course.failure is not None else ""
        console.print(
            f"{course.implementation}, seed {course.seed}: {100 * course.target:g} % not reached in "
            f"{len(course.epochs)} epochs{reason}; the best was {100 * course.best_top1:.1f} %; its costs are bounds",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def bound(course: Course, ours: Course) -> str:
    """Return the sign before the ratio of a course's cost to that of ours: a bound if either missed the target."""
    if not course.reached and not ours.reached:
        return "? "
    if not course.reached:
        return "≥ "
    return "" if ours.reached else "≤ "


def _print_shares(courses: dict[str, list[Course]], console: Console) -> None:
    """Print the cost without each part of ours, as a multiple of that with it."""
    parts = [name for name in courses if name not in (OURS, BASELINE)]
    if OURS not in courses or not parts:
        return
    rows = []
    for name in parts:
        pairs = list(zip(courses[name], courses[OURS], strict=True))
        ratios = [[a.cpu_s / b.cpu_s for a, b in pairs], [a.wall_s / b.wall_s for a, b in pairs]]
        unreached = {bound(*pair) for pair in pairs} - {""}
        sign = next(iter(unreached)) if len(unreached) == 1 else "? " if unreached else ""
        rows.append([name, *(f"{sign}{median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in ratios)])
    print_table(console, ("what it costs without a part, × ours", "CPU-seconds", "seconds"), rows)
