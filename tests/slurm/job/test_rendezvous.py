"""Nodes find each other by one file, and learn of the end by the connection."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cluster import until

from slurm.job.rendezvous import Arrival, Guest, Host, await_meeting, call_off

ARRIVAL = Arrival("n2", "/data", "n2: no data")


def test_a_guest_arrives_with_its_problem_and_hears_of_the_end(tmp_path: Path) -> None:
    host = Host("127.0.0.1", "127.0.0.1:6379", tmp_path / "meeting.json")
    meeting = await_meeting(tmp_path / "meeting.json", patience_s=5)
    assert meeting.ray == "127.0.0.1:6379"
    guest = Guest(meeting, ARRIVAL)
    until(lambda: host.arrivals, "the guest", seconds=5)
    assert host.arrivals == [ARRIVAL]
    assert not guest.over.is_set()
    host.close()
    assert guest.over.wait(5)
    assert not guest.lost
    assert not (tmp_path / "meeting.json").exists()


def test_a_first_node_that_goes_without_a_word_is_lost(tmp_path: Path) -> None:
    host = Host("127.0.0.1", "127.0.0.1:6379", tmp_path / "meeting.json")
    guest = Guest(await_meeting(tmp_path / "meeting.json", patience_s=5), ARRIVAL)
    until(lambda: host.arrivals, "the guest", seconds=5)
    for connection in host._connections:
        connection.shutdown(2)
    assert guest.over.wait(5)
    assert guest.lost


def test_who_does_not_know_the_token_is_not_counted(tmp_path: Path) -> None:
    host = Host("127.0.0.1", "127.0.0.1:6379", tmp_path / "meeting.json")
    content = json.loads((tmp_path / "meeting.json").read_text(encoding="utf-8"))
    (tmp_path / "forged.json").write_text(json.dumps({**content, "token": "guessed"}), encoding="utf-8")
    Guest(await_meeting(tmp_path / "forged.json", patience_s=5), Arrival("stranger", "/data"))
    Guest(await_meeting(tmp_path / "meeting.json", patience_s=5), ARRIVAL)
    until(lambda: host.arrivals, "the guest", seconds=5)
    assert [arrival.host for arrival in host.arrivals] == ["n2"]
    host.close()


def test_nobody_waits_for_a_meeting_that_is_called_off(tmp_path: Path) -> None:
    call_off(tmp_path / "meeting.json")
    with pytest.raises(ValueError, match="could not begin"):
        await_meeting(tmp_path / "meeting.json", patience_s=5)
    with pytest.raises(TimeoutError, match=r"not there after 0 s: no .*other\.json"):
        await_meeting(tmp_path / "other.json", patience_s=0.1)
