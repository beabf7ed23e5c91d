"""Tables in documents: what the committed results give, missed goals included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.documents import RegionError, filled, main

ROUNDS = {"deeper": [{"images/s": 20.0}, {"images/s": 30.0}], "peer": [{"images/s": 10.0}, {"images/s": 10.0}]}


def goal(**fields: Any) -> dict[str, Any]:
    none = {"peer": "peer", "at_least": None, "at_most": None, "note": ""}
    return {"figure": "images/s", "ours": "deeper", **none, **fields}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    comparison = {
        "name": "224",
        "title": "Training",
        "rounds": ROUNDS,
        "once": {"deeper": {"first batch, s": 0.25}},
        "absent": {"DALI": "not installed"},
        "goals": [goal(at_least=2.0), goal(at_least=3.0, note="the disk is slow"), goal(peer=None, at_most=24.0)],
    }
    environment = {
        "commit": "c0ffee1234",
        "dirty": False,
        "gpus": [],
        "machine": {"cpu": "a CPU", "cpu_flags": ["avx2"], "cores_physical": 2},
        "packages": {"torch": "2.14.1"},
    }
    content = {"suite": "step", "date": "2026-11-24", "command": "deeper bench step", "comparisons": [comparison]}
    for kind in ("amd-avx2", "intel-amx-bf16"):
        (tmp_path / "bench" / kind).mkdir(parents=True)
        (tmp_path / "bench" / kind / "step.json").write_text(
            json.dumps({**content, "environment": environment}), encoding="utf-8"
        )
    return tmp_path


def region(kind: str, content: str = "\nold\n\n") -> str:
    return f"Before.\n\n<!-- generated: {kind} -->\n{content}<!-- end -->\n\nAfter.\n"


def test_documents_agree_with_the_committed_results(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().out


def test_a_missed_goal_is_printed_with_its_reason(results: Path) -> None:
    text = filled(region("goals"), results)
    assert "| Training: images/s, deeper / peer | 2.5 (2 to 3, n = 2) | at least 2 |" in text
    assert "| 2.5 (2 to 3, n = 2) | at least 3, **missed**: the disk is slow |" in text
    assert "| Training: images/s, deeper | 25 (20 to 30, n = 2) | at most 24, **missed** |" in text
    assert "`deeper bench step` on a CPU, avx2, 2 cores, no GPU, torch 2.14.1, 2026-11-24, commit c0ffee1" in text


def test_a_headline_is_against_the_strongest_peer(results: Path) -> None:
    path = results / "bench" / "amd-avx2" / "step.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    (comparison,) = content["comparisons"]
    comparison["rounds"]["strong"] = [{"images/s": value} for value in (15.0, 15.0)]
    comparison["goals"] = [goal(at_least=1.0), goal(at_least=1.0, peer="strong"), goal(at_least=2.0)]
    path.write_text(json.dumps(content), encoding="utf-8")
    table = filled(region("headlines"), results).split("**On intel-amx-bf16**")[0]
    assert "| Training: images/s, deeper / strong |" in table
    assert table.count("deeper / peer |") == 1
    assert "| at least 2 |" in table, "another bound, another goal"
    assert filled(region("goals"), results).count("| at least 1 |") == 2


def test_a_table_has_a_row_for_each_implementation_and_names_the_absent(results: Path) -> None:
    text = filled(region("bench"), results)
    assert "| peer | 10 | 2.50 (2.00 to 3.00) |  |" in text
    assert "| deeper | 25 |  | 0.25 |" in text
    assert "DALI did not take part: not installed" in text


@pytest.mark.parametrize("kind", ["amd-avx2", "intel-amx-bf16"])
def test_each_kind_of_machine_has_tables_of_its_own(results: Path, kind: str) -> None:
    assert f"**On {kind}**:" in filled(region("goals"), results)
    text = filled(region("bench"), results)
    assert f"### step on {kind}\n" in text
    assert f"raw: `results/bench/{kind}/step.json`" in text


def test_parts_of_the_gpu_suite_stand_with_their_kind_of_machine(results: Path) -> None:
    whole = json.loads((results / "bench" / "amd-avx2" / "step.json").read_text(encoding="utf-8"))
    content = {**{name: whole[name] for name in ("date", "command", "environment")}, "suite": "gpu"}
    check = {"what": "deterministic / free", "value": 1.4, "at_least": None, "at_most": 1.25}
    table = {"title": "batch 256", "rows": {"deeper": {"images/s": 6557.8}, "peer": {"images/s": 3704.5, "W": None}}}
    result = {"part": "step", "outcome": "done", "tables": [table], "checks": [check], "notes": ["slow"]}
    folder = results / "bench" / "nvidia-h200" / "gpu"
    folder.mkdir(parents=True)
    (folder / "step.json").write_text(json.dumps({**content, "result": result}), encoding="utf-8")
    (folder / "nccl.json").write_text(
        json.dumps({**content, "result": {**result, "outcome": "absent"}}), encoding="utf-8"
    )
    text = filled(region("bench"), results)
    assert text.count("### gpu on nvidia-h200") == text.count("raw: `results/bench/nvidia-h200/gpu`") == 1
    assert "**step: batch 256**" in text
    assert "| peer | 3704 |  |" in text
    assert "Checks **missed**: deterministic / free." in text


def test_filling_twice_changes_nothing_and_leaves_the_rest(results: Path) -> None:
    once = filled(region("goals") + region("bench", ""), results)
    assert filled(once, results) == once
    assert "old" not in once
    assert once.count("Before.") == once.count("After.") == 2


def test_a_region_of_no_known_kind_or_results_is_told(results: Path) -> None:
    with pytest.raises(RegionError, match="'goal': unknown; known kinds: headlines, goals, bench, arms"):
        filled(region("goal"), results)
    with pytest.raises(RegionError, match="'arms nothing': no results in"):
        filled(region("arms nothing"), results)
