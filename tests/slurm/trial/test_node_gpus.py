"""What the check of a node finds of MIG instances, with doubles of NVML and of torch's view of CUDA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from slurm.trial.verdicts import judge

TORCH = """
import os

class cuda:
    def device_count():
        return min(1, len(os.environ["CUDA_VISIBLE_DEVICES"].split(",")))

    def get_device_name(index):
        return "FAKE " + os.environ["CUDA_VISIBLE_DEVICES"].split(",")[index]
"""
"""Its CUDA shows a process one MIG instance, as the real one does."""
MIG, UNKNOWN = "MIG-fa6e0000-0000-0000-0000-000000000000", "MIG-fa6e0000-0000-0000-0000-000000000001"
INSPECT = """
import json, os, sys
from slurm.trial.gpus import inspect_gpus
print(json.dumps(inspect_gpus(2, {**os.environ, "PYTHONPATH": sys.argv[1]})))
"""


def test_all_mig_instances_of_a_node_are_found_although_cuda_shows_a_process_only_one(
    nvml_double: Path, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text(TORCH, encoding="utf-8")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(nvml_double), "CUDA_VISIBLE_DEVICES": f"{MIG},{UNKNOWN}"}
    command = [sys.executable, "-c", INSPECT, tmp_path]
    found = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)
    assert found["gpus"] == [f"FAKE {MIG}", f"FAKE {UNKNOWN}"]
    assert found["devices"] == ["FAKE device MIG 1g.5gb"]
    node = {**found, "problems": [], "cpus": 1}
    [verdict] = judge({"hosts": ["n1"], "asked": {"cpus": 1, "gpus": 2, "object_store_mib": 80}, "nodes": {"n1": node}})
    assert verdict.problems == ()
    assert verdict.remarks == (
        f"telemetry lacks a GPU: NVML does not know MIG instance {UNKNOWN}: Not Found",
        f"1 processes already compute on {MIG}, with 2 GiB in use",
    )
