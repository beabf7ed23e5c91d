"""Compares the measured images/s of connected ranks with what the model of communication predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.planning.communication import OVERLAP, AllReduceTiming, fit_link, step_seconds
from bench.planning.rates import rate_entry
from bench.suites.harness.comparison import Comparison, Goal, Measurement
from reproduce.models.cost import Cost
from reproduce.spec import NetworkConfig

SPEED = "images/s"
PREDICTED = "predicted"
"""Names the predicted images/s among the measured ones."""
TOLERANCE = 0.15
"""The goal: measured and predicted images/s differ by no more than this fraction of the predicted."""


@dataclass(frozen=True, kw_only=True)
class RankSet:
    """The ranks of one comparison, and what each of them trains."""

    ranks: int
    """Number of ranks, at least 2."""
    machines: int = 1
    """Number of machines: 1, or one for each rank."""
    backend: str
    """Backend of torch.distributed: "gloo" on CPUs, "nccl" on GPUs."""
    batch: int
    """Images in a step of one rank."""
    side: int
    """Side of the images in pixels."""

    @property
    def unit(self) -> str:
        """What takes part: a rank of the only machine, or a node with one rank."""
        return "rank" if self.machines == 1 else "node"

    @property
    def connected(self) -> str:
        """Names the arrangement in which all ranks train and average their gradients."""
        return f"{self.ranks} {self.unit}s"

    @property
    def unconnected(self) -> str:
        """Names the arrangement in which all ranks train at the same time without communication."""
        return f"{self.connected}, not connected"

    @property
    def one(self) -> str:
        """Names the arrangement in which one rank trains while the others are idle."""
        return f"1 {self.unit}, the others idle"

    def images_per_s(self, steps: int, taking_part: int, seconds: Sequence[float | None]) -> float:
        """Return the images/s of all ranks together, where the slowest counts.

        Args:
            steps: Steps of each rank.
            taking_part: Number of ranks that took steps.
            seconds: The seconds of each rank; None for an idle one.
        """
        return taking_part * self.batch * steps / max(value for value in seconds if value is not None)


@dataclass(frozen=True)
class Prediction:
    """The measurements of one set of ranks, and the model that was fitted to its all-reduces."""

    ranks: RankSet
    """The ranks."""
    comparison: Comparison
    """The measured arrangements and the prediction, in images/s, with the goal that they agree."""
    link: Mapping[str, Any]
    """The fitted link as `setting.links` of a result holds it, from which `deeper plan` reads it; its `error` is that
    of the prediction, as a fraction."""
    images_per_s: float
    """Median images/s of one rank while all others work as well and none communicates."""


def predict(
    ranks: RankSet,
    repetitions: Mapping[str, Sequence[Measurement]],
    timings: Sequence[AllReduceTiming],
    *,
    parameters: int,
    place: str = "",
) -> Prediction:
    """Fit the model of communication to all-reduces, and predict the images/s of the connected ranks by it.

    The prediction of a repetition starts from the ranks that work at the same time without communication.

    Args:
        ranks: The ranks.
        repetitions: The images/s of each arrangement, `ranks.connected` and `ranks.unconnected` among them, by name.
        timings: All-reduces of several sizes over the ranks.
        parameters: Number of parameters of the network in training.
        place: What the ranks share, for the title, such as " on 2 cores".
    """
    link, images = fit_link(timings), ranks.ranks * ranks.batch

    def predicted(together: float) -> float:
        overlap = OVERLAP[ranks.backend]
        return images / step_seconds(
            link, alone_s=images / together, ranks=ranks.ranks, parameters=parameters, overlap=overlap
        )

    predictions = [{SPEED: predicted(measured[SPEED])} for measured in repetitions[ranks.unconnected]]
    comparison = Comparison(
        name=ranks.connected,
        title=f"The same step on {ranks.connected}{place} ({ranks.backend}), {ranks.batch} images of {ranks.side} px "
        f"a {ranks.unit}",
        repetitions={**repetitions, PREDICTED: predictions},
        goals=(
            Goal(
                metric=SPEED,
                ours=ranks.connected,
                baseline=PREDICTED,
                at_least=1 - TOLERANCE,
                at_most=1 + TOLERANCE,
            ),
        ),
    )
    measured, together = (_median(repetitions[name]) for name in (ranks.connected, ranks.unconnected))
    error = _median(predictions) / measured - 1
    entry = {"ranks": ranks.ranks, "machines": ranks.machines, "backend": ranks.backend, **asdict(link), "error": error}
    return Prediction(ranks, comparison, entry, together / ranks.ranks)


def result_setting(
    predictions: Sequence[Prediction],
    timings: Sequence[AllReduceTiming],
    *,
    network: NetworkConfig,
    costs: Cost,
    steps: int,
    threads: int,
) -> dict[str, Any]:
    """Return the setting of a result, with the links and the rate that `deeper plan` takes from it.

    Args:
        predictions: Those whose links a plan may rely on, ascending by ranks. The rate is that of the last one.
        timings: All measured all-reduces.
        network: The network that was trained.
        costs: Its costs in training.
        steps: Steps in a repetition.
        threads: CPU threads of a rank.
    """
    last = predictions[-1]
    cpus = threads if last.ranks.backend == "gloo" else None
    return {
        "side": last.ranks.side,
        "batch": last.ranks.batch,
        "steps": steps,
        "network": network.model_dump(),
        "threads a rank": threads,
        "overlap": OVERLAP[last.ranks.backend],
        "links": [prediction.link for prediction in predictions],
        "rates": [rate_entry(costs, images_per_s=last.images_per_s, cpus=cpus)],
        "all-reduce": [asdict(timing) for timing in timings],
    }


def _median(measurements: Sequence[Measurement]) -> float:
    return median(measurement[SPEED] for measurement in measurements)
