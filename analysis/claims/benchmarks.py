"""Measurements on results of benchmarks (`deeper bench layers`), whose implementations take turns on one machine.

Speeds of runs decide no claim: runs share a machine with other work, and not all with the same. A ratio here is that of
CPU-seconds within one repetition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from analysis.claims.pairs import ratio_text
from analysis.statistics import Estimate, Ratio, ratio
from analysis.tables import counted, number, percent
from reproduce.claims.verdicts import Measured, NotMeasured

Result = Mapping[str, Any]
"""A result of a benchmark as its file holds it, with the key `kind`: the kind of machine."""
SUITE = "layers"
CPU_SPEED = "images per CPU-second"
MEMORY, PARAMETERS, MACS = "peak memory, GiB", "parameters, M", "multiply-adds an image, M"


def scope(results: Sequence[Result]) -> str:
    """Format where the speeds were measured, for example "on amd-avx512-bf16"."""
    return f"on {_latest(results)['kind']}"


def reduction_cost(results: Sequence[Result]) -> Measured[float | Estimate | Ratio]:
    """Measure what the 1x1 reductions save in a training step, as ratios of the reduced to the unreduced network.

    Returns:
        The measured values by name:

        - `parameters`, `multiply-adds`: ratios of the numbers of parameters and of multiply-adds.
        - `images per CPU-second`: ratio of the speeds of a training step.

        The evidence also reports the ratio of peak memory, each network in a process of its own.

    Raises:
        NotMeasured: The benchmark was not made.
    """
    result = _latest(results)
    comparison = _comparison(result, "reductions")
    speed = _ratio(comparison, "reduced", "unreduced")
    reduced, unreduced = (comparison["once"][name] for name in ("reduced", "unreduced"))
    parameters, macs, memory = (reduced[name] / unreduced[name] for name in (PARAMETERS, MACS, MEMORY))
    return Measured(
        values={"parameters": parameters, "multiply-adds": macs, CPU_SPEED: speed},
        summary=f"{percent(parameters, 0)} % of the parameters, {percent(macs, 0)} % of the multiply-adds, images per "
        f"CPU-second {ratio_text(speed)}",
        evidence=f"{_source(result, comparison)}; peak memory {number(memory, 2)} times, each in a process of its own",
    )


def sparse_layer(results: Sequence[Result]) -> Measured[float | Estimate | Ratio]:
    """Measure the speed of sparse layers over that of dense ones.

    Returns:
        The measured values by name, as ratios of images per CPU-second:

        - `sparse over dense`: that of a sparse layer over a dense layer with as many multiply-adds.
        - `a hundredth over all`: that of a sparse layer with a hundredth of the weights over the dense layer with all.

    Raises:
        NotMeasured: The benchmark was not made.
    """
    result = _latest(results)
    comparison = _comparison(result, "sparse")
    speed = _ratio(comparison, "sparse", "dense")
    whole = _ratio(comparison, "sparse", "dense, all weights")
    fewest = _ratio(comparison, "sparse, 1 %", "dense, all weights")
    macs = comparison["once"]
    share = macs["sparse"][MACS] / macs["dense, all weights"][MACS]
    return Measured(
        values={"sparse over dense": speed, "a hundredth over all": fewest},
        summary=f"speed of the sparse layer over a dense one of equal multiply-adds {ratio_text(speed)}; with a "
        f"hundredth of the weights over the dense layer with all {ratio_text(fewest)}",
        evidence=f"{_source(result, comparison)}; weights kept at random; with {percent(share, 0)} % of them over the "
        f"dense layer with all {ratio_text(whole)}",
    )


def _latest(results: Sequence[Result]) -> Result:
    """Return the last result of the suite, by its date."""
    found = sorted((result for result in results if result["suite"] == SUITE), key=lambda result: str(result["date"]))
    if not found:
        raise NotMeasured(f"no result of `deeper bench {SUITE}` was found")
    return found[-1]


def _comparison(result: Result, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(one for one in result["comparisons"] if one["name"] == name)
    return found


def _ratio(comparison: Mapping[str, Any], plus: str, minus: str) -> Ratio:
    """Estimate the ratio of the speeds of two implementations over interleaved repetitions."""
    rounds = zip(comparison["rounds"][plus], comparison["rounds"][minus], strict=True)
    return ratio([math.log(a[CPU_SPEED] / b[CPU_SPEED]) for a, b in rounds])


def _source(result: Result, comparison: Mapping[str, Any]) -> str:
    repetitions = len(next(iter(comparison["rounds"].values())))
    return (
        f"{comparison['title']}; n = {counted(repetitions, 'interleaved repetition')} on {result['kind']}, "
        f"{result['environment']['machine']['cpu']}, {result['date']}"
    )


MEASUREMENTS: dict[str, Callable[[Sequence[Result]], Measured[float | Estimate | Ratio]]] = {
    "reduction-cost": reduction_cost,
    "sparse-layer": sparse_layer,
}
"""The measurements on results of benchmarks, by the name that the ledger uses."""
