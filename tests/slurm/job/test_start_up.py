"""The parts of a job's start add up from the beginning of the job's script."""

from __future__ import annotations

import pytest

from slurm.job.start_up import JOB_BEGAN, StartUp


@pytest.mark.parametrize(("began", "first"), [("1000.5", 1.5), (None, 0.0), ("no number", 0.0)])
def test_parts_begin_where_the_one_before_has_ended(began: str | None, first: float) -> None:
    times = iter([1002.0, 1002.0, 1009.0])
    start_up = StartUp({JOB_BEGAN: began} if began else {}, times.__next__)
    start_up.ended("launcher")
    start_up.ended("Ray")
    assert start_up.seconds == {"launcher": first, "Ray": 7.0}
    assert str(start_up) == f"{first + 7:.1f} s after the job began (launcher {first:.1f} s, Ray 7.0 s)"
