"""Claims about crops and published weights, decided from evaluations."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from analysis.claims.evaluations import multicrop, published_weights
from bench.records.evaluations import TABLE
from reproduce.claims.verdicts import NotMeasured
from reproduce.evaluation.protocols import PAPER


def table(*rows: dict[str, Any], **same: Any) -> pd.DataFrame:
    common = {
        **{"experiment": "paper-2014", "arm": "both", "protocol": "single", "models": 1, "crops": 1, "top1": 0.7},
        **{"top5": 0.9, "images": 50_000, "classes": 1000, "data": "folder", "data_hash": "ab", "imagenet": True},
        **{"published": False, "date": "2026-11-24T12:00:00Z", "evaluation": "cd"},
    }
    return pd.DataFrame([common | same | row for row in rows], columns=list(TABLE))


TABLE_3 = [{"models": row.models, "crops": row.crops, "top5": 1 - row.top5_error / 100} for row in PAPER]


def test_errors_are_those_of_the_combinations_in_the_papers_table() -> None:
    values = multicrop(table(*TABLE_3)).values
    assert list(values.values()) == pytest.approx([10.07, 9.15, 7.89, 8.09, 7.62, 6.67])
    assert list(values)[::5] == ["1 model × 1 crop", "7 models × 144 crops"]


def test_arms_are_not_mixed_and_single_models_of_an_arm_are_averaged() -> None:
    others = table(*TABLE_3[:4], arm="none")
    with pytest.raises(NotMeasured, match="still to evaluate: 7 models × 10 crops, 7 models × 144 crops"):
        multicrop(pd.concat([others, table(*TABLE_3[4:])]))
    twice = table(*TABLE_3, {"top5": 0.91})
    assert multicrop(twice).values["1 model × 1 crop"] == pytest.approx((10.07 + 9) / 2)


def test_other_images_decide_nothing_but_are_described() -> None:
    imagenette = {"images": 3925, "classes": 10, "data": "imagenette", "imagenet": False}
    with pytest.raises(NotMeasured) as reason:
        multicrop(table({}, {"crops": 144, "top5": 0.96}, **imagenette))
    assert str(reason.value) == (
        "nothing evaluated on ImageNet; paper-2014:both on imagenette (3925 images, 10 classes): "
        "top-5 error 1 model × 1 crop 10.00 %, 1 model × 144 crops 4.00 %"
    )
    with pytest.raises(NotMeasured, match=r"not evaluated on ImageNet; top-1 70\.00 % on imagenette"):
        published_weights(table({}, published=True, **imagenette))


def test_published_weights_are_distinguished_from_others() -> None:
    measured = published_weights(table({"top1": 0.69778, "top5": 0.8953, "published": True}, {"top1": 0.1}))
    assert dict(measured.values) == pytest.approx({"top-1": 69.778, "top-5": 89.53})


def test_nothing_evaluated_is_not_measured() -> None:
    for measurement in (multicrop, published_weights):
        with pytest.raises(NotMeasured):
            measurement(table())
