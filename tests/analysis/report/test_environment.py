"""What a report says of the machines of the runs."""

from __future__ import annotations

import pandas as pd

from analysis.report.environment import gpus_of
from analysis.tables import DASH
from reproduce import schema


def test_a_machine_without_gpus_has_none_whatever_the_reason() -> None:
    reasons = ["no NVML: NVML Shared Library Not Found", "NVML lists no device"]
    assert gpus_of(pd.DataFrame({schema.TAG_GPU: reasons})) == "none"
    assert gpus_of(pd.DataFrame({schema.TAG_GPU: ["NVIDIA H200", reasons[0]]})) == "NVIDIA H200 (1 run), none (1 run)"
    assert gpus_of(pd.DataFrame({"key": ["a"]})) == DASH
