"""What `deeper bench --quick` calls a regression."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.results.store import COMMITTED
from bench.suites import quick
from bench.suites.harness.comparison import Comparison, Goal
from bench.suites.harness.reporting import ResultOutput
from bench.suites.quick import ratio_changes
from reproduce.errors import UserError

SPEED, MEMORY = "images/s", "peak memory, GiB"
GOALS = (
    Goal(metric=SPEED, ours="ours", baseline="baseline", at_least=1.5),
    Goal(metric=MEMORY, ours="ours", baseline="baseline", at_most=1.0),
    Goal(metric=SPEED, ours="ours", at_least=100),  # has no baseline, and means nothing on another machine
)


def comparison(speed: float, memory: float, name: str = "224") -> Comparison:
    repetitions = {"ours": [{SPEED: speed, MEMORY: memory}], "baseline": [{SPEED: 10.0, MEMORY: 1.0}]}
    return Comparison(name=name, title="Ours and a baseline", repetitions=repetitions, goals=GOALS)


def regressions(speed: float, memory: float) -> list[bool]:
    changes = ratio_changes([comparison(speed, memory)], {"224": comparison(20.0, 0.5)})
    return [change.is_regression for change in changes]


def test_a_ratio_may_get_a_little_worse_and_any_amount_better() -> None:
    assert regressions(18.0, 0.55) == [False, False]
    assert regressions(40.0, 0.1) == [False, False]


def test_less_speed_and_more_memory_are_regressions() -> None:
    assert regressions(16.0, 0.5) == [True, False]
    assert regressions(20.0, 0.6) == [False, True]


def test_a_comparison_that_the_reference_lacks_is_left_out() -> None:
    assert ratio_changes([comparison(1.0, 9.0, name="new")], {"224": comparison(20.0, 0.5)}) == []


def test_committed_references_are_readable() -> None:
    for path in COMMITTED.glob("*/quick.json"):
        reference = quick._read_reference(path)
        assert "deeper" in reference["training-224"].repetitions


@pytest.mark.parametrize(("speed", "code", "verdict"), [(20.0, 0, "ok"), (10.0, 1, "worse by more than 15%")])
def test_the_exit_code_is_1_if_a_ratio_got_worse(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    speed: float,
    code: int,
    verdict: str,
) -> None:
    (tmp_path / "a-kind").mkdir()
    content = {"comparisons": [comparison(20.0, 0.5).to_record()]}
    (tmp_path / "a-kind" / "quick.json").write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setattr(quick, "COMMITTED", tmp_path)
    monkeypatch.setattr(quick, "this_machine_kind", lambda: "a-kind")
    monkeypatch.setattr(quick, "_quick_suites", lambda: [lambda _: [comparison(speed, 0.5)]])
    assert quick.main(output=ResultOutput()) == code
    assert verdict in capsys.readouterr().out


def test_a_reference_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "quick.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"quick\.json: not what `deeper bench quick --output` writes"):
        quick._read_reference(tmp_path / "quick.json")
