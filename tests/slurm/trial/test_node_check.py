"""`deeper slurm check` on a real SLURM of two hosts, one of which is spoilt."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import until

from bench.cli import main
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[3]
CHANGED = ROOT / "reproduce" / "training" / "schedules.py"
EXPERIMENT = {
    "name": "tiny",
    "data": {"path": "images"},
    "recipe": {"epochs": 1, "batch_size": 16, "resolution": 32, "learning_rate": 0.01},
    "arms": {"heads": {"network": {"aux": "both"}}},
    "seeds": [0],
}


def test_without_a_profile_the_message_names_those_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DEEPER_PROFILE", raising=False)
    assert main(["slurm", "check"]) == 2
    assert "--profile: not given; name one of cpu, " in capsys.readouterr().err


def test_one_spoilt_host_of_a_real_cluster_is_named_with_what_is_wrong(cluster: Any, synthetic_data: Path) -> None:
    """It has other code, and cannot write the records; the other host is ok."""
    place = cluster.shared / "check"
    records = place / "records"
    records.mkdir(parents=True)
    shutil.copytree(synthetic_data, place / "data" / "images")
    (place / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT), encoding="utf-8")
    profile = {"time": "1:00:00", "nodes": 2, "cpus_per_node": 2, "scratch": "/tmp"}
    (place / "lab.yaml").write_text(yaml.safe_dump(profile), encoding="utf-8")
    other = place / "other.py"
    other.write_text(CHANGED.read_text(encoding="utf-8") + "\n# as an older checkout\n", encoding="utf-8")
    command = [sys.executable, "-m", "bench.cli", "slurm", "check", "tiny.yaml", "--profile", "lab.yaml", "--json"]
    command += ["--seconds", "1", "--records", records, "--data", place / "data"]
    cluster.on("n2", "mount", "--bind", other, CHANGED)
    cluster.on("n2", "mount", "--bind", records, records)
    cluster.on("n2", "mount", "-o", "remount,bind,ro", records)
    try:
        environment = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(place / "cache")}
        answer = cluster.login(*command, cwd=place, env=environment, timeout=420, check=False)
    finally:
        cluster.on("n2", "umount", "--lazy", records)
        cluster.on("n2", "umount", "--lazy", CHANGED)
    assert answer.returncode == 1, answer.stderr
    sound, spoilt = json.loads(answer.stdout)
    assert (sound["host"], sound["problems"]) == ("n1", [])
    assert (spoilt["host"], spoilt["verdict"]) == ("n2", "unfit")
    said = " | ".join(spoilt["problems"])
    assert "Read-only file system" in said
    assert "code is " in said
    for found in (sound["found"], spoilt["found"]):
        assert found["images_s"] > 0
        assert found["all_reduce_mib_s"] > 0
        assert abs(found["clock_s"]) < 2
        assert found["scratch_mib_s"] > 0
        assert found["training_images_s"] > 0
        assert found["predicted_images_s"] > 0
    assert sound["found"]["locks"] is True
    [kept] = (place / "cache" / "deeper" / "bench").glob("*/scaling-nodes.json")
    result = json.loads(kept.read_text(encoding="utf-8"))
    [link] = result["setting"]["links"]
    assert (link["ranks"], link["machines"], link["backend"]) == (2, 2, "gloo")
    assert result["setting"]["network"]["aux"] == "both", "the first arm of the experiment"
    assert (result["setting"]["batch"], result["setting"]["side"]) == (16, 32)
    [log] = records.glob("checks/*/check-*.log")
    assert "n1: verdict of n2: unfit; " in log.read_text(encoding="utf-8")


@pytest.mark.long
def test_a_node_whose_process_is_killed_while_it_trains_is_named(cluster: Any, synthetic_data: Path) -> None:
    place = cluster.shared / "killed"
    shutil.copytree(synthetic_data, place / "data" / "images")
    (place / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT), encoding="utf-8")
    (place / "lab.yaml").write_text(yaml.safe_dump({"time": "10:00", "nodes": 2, "cpus_per_node": 1}), encoding="utf-8")
    command = [sys.executable, "-m", "bench.cli", "slurm", "check", "tiny.yaml", "--profile", "lab.yaml", "--json"]
    environment = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(place / "cache")}
    check = cluster.popen(*command, "--seconds", "60", cwd=place, env=environment)

    def trains() -> bool:
        return any("steps in each of" in log.read_text("utf-8") for log in place.glob("records/checks/*/check-*.log"))

    until(trains, "the training of the nodes", seconds=PATIENCE_S)
    cluster.on("n2", "pkill", "-KILL", "-f", "slurm.trial.node")  # which sees this host's processes alone
    out, err = check.communicate(timeout=PATIENCE_S)
    assert check.returncode == 1, err
    left, killed = json.loads(out)
    assert [problem.partition(" or ")[0] for problem in killed["problems"]] == ["it ended in the step 'training'"]
    assert left["problems"] == []
    assert left["found"]["lost"].startswith("training: ")
