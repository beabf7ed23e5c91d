"""Compares trained networks on the same validation images, from the predictions that runs keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from analysis.effects import Decision
from analysis.statistics import ALPHA, NAN, holm
from analysis.tables import MINUS, Cell, Table, is_missing, number, p_value

MOST_PAIRS = 12
"""Number of pairs of arms in the table."""


def mcnemar(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[int, int, float]:
    """Test whether two networks classify the same images equally well, by McNemar's exact test.

    Given the images that one network alone classifies correctly, their number is binomial with probability 1/2
    (McNemar 1947, Psychometrika 12, 153-157).

    Args:
        a: Whether the first network is right, for each image, [n].
        b: The same of the second network.

    Returns:
        How many images the first network alone gets right, how many the second alone, and the two-sided p value, which
        is NaN if there are none of either.
    """
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    if only_a + only_b == 0:
        return 0, 0, NAN
    tail = float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5))
    return only_a, only_b, min(1.0, 2 * tail)


def compare_predictions(
    decisions: Sequence[Decision], runs: pd.DataFrame, correct: Mapping[str, pd.Series]
) -> pd.DataFrame:
    """Compare the networks of pairs of arms, seed by seed, on the images that both have predictions of.

    Args:
        decisions: The contrasts of the experiment. The pairs of arms behind its main effects and pairs are compared.
        runs: Finished runs, in the format of `analysis.frames.Recorded.finished`.
        correct: Whether each image, by its index, is classified correctly, by run_id.

    Returns:
        A frame with a row for each pair and shared seed: plus, minus, seed, images, only_plus, only_minus, p, and
        p_holm, which is corrected over all rows.
    """
    kept = runs[runs["run_id"].isin(list(correct))].drop_duplicates(["arm", "seed"], keep="last")
    of = {
        (str(arm), int(seed)): correct[str(run_id)]
        for arm, seed, run_id in zip(kept["arm"], kept["seed"], kept["run_id"], strict=True)
    }
    pairs = list(dict.fromkeys(pair for one in decisions for pair in one.pairs))[:MOST_PAIRS]
    rows = []
    for plus, minus in pairs:
        for seed in sorted(seed for arm, seed in of if arm == plus and (minus, seed) in of):
            both = pd.concat([of[plus, seed], of[minus, seed]], axis=1).dropna()
            rows.append((plus, minus, seed, len(both), *mcnemar(both.iloc[:, 0], both.iloc[:, 1])))
    found = pd.DataFrame(rows, columns=["plus", "minus", "seed", "images", "only_plus", "only_minus", "p"])
    return found.assign(p_holm=holm(found["p"].tolist()))


def predictions_table(compared: pd.DataFrame) -> Table:
    """Build the table of McNemar's tests, with a row for each pair of arms.

    Args:
        compared: A frame as `compare_predictions` returns it.
    """
    rows = []
    for (plus, minus), own in compared.groupby(["plus", "minus"], sort=False):
        tested = own["p_holm"].dropna()
        clear = int((tested < ALPHA).sum())
        name, lowest, highest = f"{plus} {MINUS} {minus}", tested.min(), tested.max()
        p = " to ".join(dict.fromkeys((p_value(lowest), p_value(highest))))
        rows.append(
            [
                Cell(name, sort=name),
                Cell(str(len(own)), sort=len(own)),
                *(
                    Cell(number(value, 0 if value >= 100 else 1), sort=value)
                    for value in (float(own["only_plus"].mean()), float(own["only_minus"].mean()))
                ),
                Cell(p, sort="" if is_missing(float(lowest)) else float(lowest)),
                Cell(f"{clear} of {len(own)}", sort=clear),
            ]
        )
    images = int(compared["images"].max()) if len(compared) else 0
    columns = ["Pair", "Seeds", "First alone right, mean over seeds"]
    columns += ["Second alone right, mean over seeds", "p, Holm", "Seeds with a clear difference"]
    caption = f"Networks of the same seed on the same {number(images)} validation images (McNemar's exact test)"
    return Table(caption, columns, rows)
