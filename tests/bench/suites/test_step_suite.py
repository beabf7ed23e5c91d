"""`deeper bench step`, with a small network's step on real contestants."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.suites.harness import meter
from bench.suites.step import implementations as forms
from bench.suites.step import suite as step
from reproduce.models import GoogLeNet
from reproduce.models.roofline import Ceiling
from reproduce.spec import NetworkConfig, SpecError, validated

CEILING = Ceiling(flops_per_s=1e12, bytes_per_s=1e11)


def _port(**changes: object) -> NetworkConfig:
    return NetworkConfig.model_validate(
        {"classes": 10, "resolution": 32, "large_kernel": "3x3", "pooling": "port", **changes}
    )


def test_a_whole_run_writes_every_contestants_share_of_the_roofline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "measured_ceiling", lambda *_: CEILING)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # the latest result is kept there
    options = step.StepOptions(
        sides=(32,), batch=2, aux=("none",), reductions=("reduced", "naive"), rounds=1, threads=1
    )
    step.main(options, output=tmp_path / "step.json")
    result = json.loads((tmp_path / "step.json").read_text(encoding="utf-8"))
    names = [comparison["name"] for comparison in result["comparisons"]]
    assert names == [f"{mode}-32-{form}" for form in ("reduced", "naive") for mode in ("training", "evaluation")]
    for comparison in result["comparisons"]:
        peers = forms.PEERS if comparison["name"].endswith("reduced") else ()  # torchvision has no other form
        assert list(comparison["rounds"]) == [forms.OURS, *peers]
        bound = 1 / sum(layer["seconds"] for layer in result["setting"]["roofline"][comparison["name"]])
        for (figures,) in comparison["rounds"].values():
            assert figures[step.SHARE] == pytest.approx(figures[meter.SPEED] / bound)


def test_both_networks_have_the_same_convolutions_and_heads() -> None:
    import torchvision

    ours = GoogLeNet(_port())
    peer = torchvision.models.googlenet(num_classes=10, aux_logits=True, init_weights=False)
    shapes = [
        sorted(tuple(layer.weight.shape) for layer in network.modules() if isinstance(layer, torch.nn.Conv2d))
        for network in (ours, peer)
    ]
    assert shapes[0] == shapes[1]


def test_a_side_that_the_network_cannot_take_is_refused() -> None:
    with pytest.raises(SpecError, match=r"sides\.1: 16"):
        validated(step.StepOptions, {"sides": (224, 16)}, where="")
