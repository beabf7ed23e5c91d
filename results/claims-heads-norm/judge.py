"""What is finished of claim-heads-norm and, once it is whole, the verdicts of its rows, as design.md has fixed them.

    python results/claims-heads-norm/judge.py [RECORDS]

Before six seeds of all arms are finished there is a table of what is, and nothing is tested.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

EXPERIMENT = "claim-heads-norm"
ARMS = ("plain-none", "plain-aux1", "plain-aux2", "plain-both", "batch-none", "batch-both")
LOOKS = {6: 0.015, 12: 0.010}  # seeds: one-sided alpha
MARGIN = 0.5
CHANCE, STARTED = 10.0, 20.0
RISE, FALL = 0.05, 10.0  # of the training loss, of top-1: a spike


@dataclass(frozen=True)
class Run:
    """A run that ended: top-1 in points, whether each validation image was right, gradient norms, what went wrong."""

    top1: float
    correct: np.ndarray | None
    norms: dict[str, float]
    curve: list[float]
    wrong: str


def read(records: Path) -> dict[tuple[str, int], Run]:
    """The runs of the recorded plan that finished or diverged, by arm and seed."""
    plan = json.loads((records / "experiments" / EXPERIMENT / "plan.json").read_text(encoding="utf-8"))
    found = {}
    for entry in plan:
        folder = records / "runs" / entry["key"]
        if (folder / "events.jsonl").is_file() and (run := _read_run(folder)) is not None:
            found[entry["arm"], entry["seed"]] = run
    return found


def _read_run(folder: Path) -> Run | None:
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    ends = [event for event in events if event["kind"] == "end"]
    epochs = {event["epoch"]: event["metrics"] for event in events if event["kind"] == "epoch"}
    metrics = [epochs[number] for number in sorted(epochs)]
    curve = [100 * of["val/top1"] for of in metrics]
    norms = {stage: float(np.mean([of[f"gradient/{stage}"] for of in metrics])) for stage in ("stem", "5") if metrics}
    if ends and ends[-1]["outcome"] == "finished":
        correct = pd.read_parquet(folder / "predictions.parquet").sort_values("index")["correct"].to_numpy(float)
        losses = [of["train/loss_main"] for of in metrics]
        return Run(100 * ends[-1]["metrics"]["final/val_top1"], correct, norms, curve, _wrong(losses, curve))
    if ends and ends[-1]["outcome"] == "failed" and "not finite" in str(ends[-1]["error"]):
        return Run(CHANCE, None, norms, curve, "diverged")
    return None


def _wrong(losses: list[float], curve: list[float]) -> str:
    if max(curve) < STARTED:
        return "not started"
    rose = any(loss > min(losses[:epoch]) + RISE for epoch, loss in enumerate(losses) if epoch)
    fell = any(top1 < max(curve[:epoch]) - FALL for epoch, top1 in enumerate(curve) if 2 * epoch >= len(curve))
    return "spiked" if rose or fell else ""


# --- tests -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """A difference of arms: a value a seed and, for accuracies, a row of images for each seed."""

    values: np.ndarray
    images: np.ndarray | None = None

    def above(self, bound: float, *, reach: bool = False) -> float:
        """p of the difference lying above a bound; `reach`: on new images as well as with new seeds."""
        mean = float(self.values.mean()) - bound
        error = float(self.values.std(ddof=1)) / math.sqrt(len(self.values))
        new_seeds = float(stats.t.sf(mean / error, len(self.values) - 1)) if error else float(mean <= 0)
        if not reach or self.images is None:
            return new_seeds
        return max(new_seeds, float(stats.norm.sf(mean / crossed_error(self.images))))

    def below(self, bound: float, *, reach: bool = False) -> float:
        flipped = None if self.images is None else -self.images
        return Difference(-self.values, flipped).above(-bound, reach=reach)


def crossed_error(images: np.ndarray) -> float:
    """Standard error of the mean of a table of seeds by images, both drawn at random."""
    seeds, count = images.shape
    by_seed, by_image = images.mean(axis=1), images.mean(axis=0)
    residual = images - by_seed[:, None] - by_image[None, :] + images.mean()
    of_seeds, of_images = by_seed.var(ddof=1) / seeds, by_image.var(ddof=1) / count
    both = (residual**2).sum() / ((seeds - 1) * (count - 1)) / (seeds * count)
    return math.sqrt(max(of_seeds + of_images - both, of_seeds, of_images))


@dataclass(frozen=True)
class Part:
    """p of a part being shown, and of its opposite."""

    name: str
    of: Difference
    shown: float
    opposite: float


@dataclass(frozen=True)
class Row:
    name: str
    parts: tuple[Part, ...]

    def verdict(self, alpha: float) -> str:
        if max(part.shown for part in self.parts) <= alpha:
            return "holds"
        # Holm: the smallest p, times the number of parts, is the first that is asked.
        if len(self.parts) * min(part.opposite for part in self.parts) <= alpha:
            return "fails"
        return "undecided"


def rows(runs: dict[tuple[str, int], Run], seeds: range, alpha: float, *, reach: bool = False) -> list[Row]:
    """Every row of the design, over the given seeds."""

    def top1(plus: str, minus: str) -> Difference:
        return Difference(
            np.array([runs[plus, seed].top1 - runs[minus, seed].top1 for seed in seeds]),
            np.array([100 * (_images(runs[plus, seed]) - _images(runs[minus, seed])) for seed in seeds]),
        )

    def ratio(plus: Callable[[int], float], minus: Callable[[int], float]) -> Difference:
        return Difference(np.array([math.log(plus(seed) / minus(seed)) for seed in seeds]))

    def above(name: str, of: Difference, bound: float) -> Part:
        return Part(name, of, of.above(bound, reach=reach), of.below(bound, reach=reach))

    def below(name: str, of: Difference, bound: float) -> Part:
        return Part(name, of, of.below(bound, reach=reach), of.above(bound, reach=reach))

    def norm(arm: str, stage: str) -> Callable[[int], float]:
        return lambda seed: runs[arm, seed].norms[stage]

    plain, batch = top1("plain-both", "plain-none"), top1("batch-both", "batch-none")
    assert plain.images is not None
    assert batch.images is not None
    one = above("1: heads help", plain, 0)
    half = Part(
        "2a: about half a point",
        plain,
        max(plain.above(0, reach=reach), plain.below(1, reach=reach)),
        min(plain.below(0, reach=reach), plain.above(1, reach=reach)),
    )
    heads = [below(f"2b: {head}", top1("plain-both", f"plain-{head}"), MARGIN) for head in ("aux1", "aux2")]
    better = min(heads, key=lambda part: part.shown)
    enough = Part(
        f"{better.name} is enough",
        better.of,
        min(1.0, 2 * better.shown) if one.shown <= alpha else 1.0,
        max(part.opposite for part in heads),
    )
    return [
        Row("S-aux-helps", (one,)),
        Row("P-aux-half-percent", (half, enough)),
        Row(
            "S-vanishing",
            (
                below("3a: the gradient fades", ratio(norm("plain-none", "stem"), norm("plain-none", "5")), 0),
                above("3b: the heads push it", ratio(norm("plain-both", "stem"), norm("plain-none", "stem")), 0),
            ),
        ),
        Row(
            "normalisation replaces the heads",
            (
                above("4a: as good alone", top1("batch-none", "plain-both"), -MARGIN),
                below("4b: little is left", batch, MARGIN),
                above("4c: interaction", Difference(plain.values - batch.values, plain.images - batch.images), 0),
            ),
        ),
    ]


def _images(run: Run) -> Any:
    """A run that diverged is right by chance."""
    return CHANCE / 100 if run.correct is None else run.correct


# --- what is printed -------------------------------------------------------------------------------


def progress(runs: dict[tuple[str, int], Run]) -> str:
    seeds = sorted({seed for _, seed in runs})
    lines = ["| arm | n |" + "".join(f" seed {seed} |" for seed in seeds), "|---|--:|" + "--:|" * len(seeds)]
    for arm in ARMS:
        own = {seed: runs[arm, seed] for seed in seeds if (arm, seed) in runs}
        cells = [
            f"{own[seed].top1:.2f}" + (f" ({own[seed].wrong})" if own[seed].wrong else "") if seed in own else ""
            for seed in seeds
        ]
        lines.append(f"| `{arm}` | {len(own)} |" + "".join(f" {cell} |" for cell in cells))
    return "\n".join(lines)


def verdicts(runs: dict[tuple[str, int], Run]) -> str:
    """Each row at the look that decided it, else at the last."""
    lines: dict[str, list[str]] = {}
    decided: dict[str, str] = {}
    for count, alpha in LOOKS.items():
        if any((arm, seed) not in runs for arm in ARMS for seed in range(count)):
            continue
        on_new = {row.name: row.verdict(alpha) for row in rows(runs, range(count), alpha, reach=True)}
        for row in rows(runs, range(count), alpha):
            if decided.get(row.name, "undecided") != "undecided":
                continue
            decided[row.name] = row.verdict(alpha)
            reach = "" if on_new[row.name] == decided[row.name] else ", on these images only"
            lines[row.name] = [f"{row.name}: {decided[row.name]}{reach} (n = {count}, α = {alpha})"]
            for part in row.parts:
                middle, error = part.of.values.mean(), part.of.values.std(ddof=1) / math.sqrt(count)
                half = error * stats.t.isf(alpha, count - 1)
                wide = "" if part.of.images is None else f", over images too ± {crossed_error(part.of.images):.2f}"
                lines[row.name].append(
                    f"  {part.name}: {middle:+.3f} [{middle - half:+.3f}, {middle + half:+.3f}], standard error "
                    f"{error:.3f}{wide}; p {part.shown:.4f}, of the opposite {part.opposite:.4f}"
                )
    return "\n".join(line for row in lines.values() for line in row)


def main() -> None:
    runs = read(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "records")
    print(progress(runs))
    told = verdicts(runs)
    print("\n" + (told or "Not whole: nothing is tested before six seeds of all six arms are finished."))


if __name__ == "__main__":
    main()
