"""Describes how the arms of an experiment were compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analysis.effects import INTERACTION, PAIRWISE, Decision
from analysis.factors import baseline
from analysis.frames import Recorded
from analysis.tables import counted, is_missing, percent

MEASURED = (
    "Seeds vary initialisation, the order of the images and augmentation together (Bouthillier et al. 2021). An "
    "interval covers that variation; it does not cover another data set, recipe or machine. Accuracy is that of the "
    "weights after the last epoch (averaged weights, where the recipe averages) on the centre crop, and each "
    "validation image counts once; no epoch is chosen by its validation accuracy. The time to a target is that of "
    "training and validation until validation top-1 first reaches it, and runs that never do are censored (Kaplan and "
    "Meier 1958).",
    "Multiply-adds and parameters are counted on the network. Images/s is the median over epochs without the warm-up. "
    "GPU busy is NVML's share of the time in which any kernel ran; it does not measure efficiency. A dash means that a "
    "value was not measured.",
)
"""Paragraphs on what the numbers of a report are."""
REFERENCES = {
    "Bouthillier": "X. Bouthillier et al., Accounting for variance in machine learning benchmarks, MLSys 2021, "
    "arXiv:2103.03098.",
    "Hedges": "L. V. Hedges, Distribution theory for Glass's estimator of effect size and related estimators, Journal "
    "of Educational Statistics 6, 1981, 107-128.",
    "Holm": "S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, "
    "1979, 65-70.",
    "Kaplan": "E. L. Kaplan and P. Meier, Nonparametric estimation from incomplete observations, Journal of the "
    "American Statistical Association 53, 1958, 457-481.",
    "McNemar": "Q. McNemar, Note on the sampling error of the difference between correlated proportions or "
    "percentages, Psychometrika 12, 1947, 153-157.",
    "Satterthwaite": "F. E. Satterthwaite, An approximate distribution of estimates of variance components, "
    "Biometrics Bulletin 2, 1946, 110-114.",
    "Schuirmann": "D. J. Schuirmann, A comparison of the two one-sided tests procedure and the power approach for "
    "assessing the equivalence of average bioavailability, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987, "
    "657-680.",
    "Welch": "B. L. Welch, The generalization of 'Student's' problem when several different population variances are "
    "involved, Biometrika 34, 1947, 28-35.",
}
"""What a report may cite, by the name under which it does."""


def references(texts: Iterable[str]) -> str:
    """List what texts cite by name, in the order of the names."""
    cited = " ".join(texts)
    return " ".join(entry for name, entry in REFERENCES.items() if name in cited)


def describe_method(recorded: Recorded, decisions: Sequence[Decision]) -> str:
    """Write a paragraph on the tests of an experiment, with references.

    Args:
        recorded: An experiment with at least one finished run.
        decisions: The contrasts on top-1, as `analysis.effects.decide_effects` decides them.
    """
    sentences = ["Intervals are Student's t intervals of 95 % over finished runs; a single run has none."]
    if decisions:
        base = baseline(recorded.finished, recorded.settings.baseline)
        if decisions[0].kind == PAIRWISE:
            sentences.append(f"The arms are no full factorial, so each is compared with {base}.")
        elif any(one.kind == INTERACTION for one in decisions):
            sentences.append(
                "The arms are a full factorial: effects are contrasts of their means, averaged with equal weights over "
                "the levels of all other factors."
            )
        if recorded.settings.paired:
            sentences.append("As the experiment asks, each seed gives one value of a contrast (paired t test).")
        else:
            sentences.append(
                "Each arm has a variance of its own, with Satterthwaite's degrees of freedom (1946; for two arms, "
                "Welch's test). Seeds are not paired: with few of them that costs more power than it brings unless "
                "their correlation is high, and choosing by the correlation that was found would bias the test."
            )
        if len(decisions) > 1:
            sentences.append(
                f"Each contrast is decided once: {counted(len(decisions), 'contrast')} on top-1, corrected together by "
                "Holm's method (1979). Intervals are not corrected."
            )
        if not is_missing(decisions[0].margin):
            sentences.append(
                f"Within the margin of {percent(decisions[0].margin, 1)} points, which the experiment names, arms are "
                "tested for equivalence by two one-sided tests (Schuirmann 1987), corrected together as well."
            )
        sentences.append(
            "Hedges' g is a difference in standard deviations between seeds; P(A > B) is the share of pairs of runs in "
            "which the first arm is ahead."
        )
    return " ".join(sentences)
