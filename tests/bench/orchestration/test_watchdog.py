"""The watchdog: how long ranks may make no step, told by a clock of the test."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from bench.orchestration.watchdog import Watchdog, process_state


def look(watchdog: Watchdog, begin: int, end: int, *, steps: dict[int, int] | None = None) -> float | None:
    """Look once a second from `begin` to `end`, with the same answers, and return the last result."""
    for now in range(begin, end):
        assert watchdog.look(steps or {}, now) is None
    return watchdog.look(steps or {}, end)


def test_a_rank_that_steps_is_left_alone() -> None:
    watchdog = Watchdog(1, 10.0, 0)
    assert all(watchdog.look({0: now}, now) is None for now in range(100))


def test_the_first_step_has_three_times_the_patience() -> None:
    watchdog = Watchdog(2, 10.0, 0)
    assert look(watchdog, 1, 30, steps={0: 0, 1: 0}) is None
    assert watchdog.look({0: 0, 1: 0}, 31) == 31


def test_steps_of_an_earlier_run_are_not_those_of_this_one() -> None:
    watchdog = Watchdog(1, 10.0, 0)
    assert look(watchdog, 1, 30, steps={0: 4711}) is None


def test_a_rank_that_does_not_answer_hangs_as_one_that_answers_the_same() -> None:
    for answers in ({0: 7}, {}):
        watchdog = Watchdog(2, 10.0, 0)
        assert all(watchdog.look({0: now, 1: now}, now) is None for now in range(8))
        assert look(watchdog, 8, 17, steps=answers) is None
        assert watchdog.look(answers, 18) == 11


def test_slow_steps_have_ten_times_as_long_as_the_slowest() -> None:
    watchdog = Watchdog(1, 10.0, 0)
    watchdog.look({0: 0}, 0)
    watchdog.look({0: 1}, 1)
    assert look(watchdog, 2, 6, steps={0: 1}) is None
    assert watchdog.look({0: 2}, 7) is None
    assert look(watchdog, 8, 67, steps={0: 2}) is None
    assert watchdog.look({0: 2}, 68) == 61


def test_time_in_which_the_driver_was_suspended_does_not_count() -> None:
    watchdog = Watchdog(1, 20.0, 0)
    watchdog.look({0: 0}, 0)
    watchdog.look({0: 1}, 1)
    assert watchdog.look({0: 1}, 10_000) is None


def test_the_state_of_a_process_is_told_from_outside() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        try:
            process.send_signal(signal.SIGSTOP)
            deadline = time.monotonic() + 60
            while process_state(process.pid) != "stopped":
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.kill()
    assert process_state(process.pid) == "gone"
