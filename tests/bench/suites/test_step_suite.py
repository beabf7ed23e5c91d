"""`deeper bench step`, with real implementations of the step of a small network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.suites.harness import meter
from bench.suites.harness.reporting import ResultOutput
from bench.suites.step import suite as step
from bench.suites.step.implementations import ENGINES, FLOAT32_COMPILED, OURS, STEPS, step_names
from bench.suites.step.inputs import step_inputs
from reproduce.errors import UserError
from reproduce.models import GoogLeNet
from reproduce.models.roofline import Ceiling
from reproduce.spec import NetworkConfig, validated

CEILING = Ceiling(flops_per_s=1e12, bytes_per_s=1e11)


def _port_network(**changes: object) -> NetworkConfig:
    return NetworkConfig.model_validate(
        {"classes": 10, "resolution": 32, "large_kernel": "3x3", "pooling": "port", **changes}
    )


def test_a_result_holds_the_share_of_the_roofline_of_every_implementation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "measured_ceiling", lambda *_: CEILING)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # for the latest result
    options = step.StepOptions(
        sides=(32,), batch=2, aux=("none",), reductions=("reduced", "naive"), repetitions=1, threads=1
    )
    step.main(options, output=ResultOutput(file=tmp_path / "step.json"))
    result = json.loads((tmp_path / "step.json").read_text(encoding="utf-8"))
    assert result["setting"]["rounds"] == 1
    baselines = [name for name, one in STEPS.items() if one.makers == "torchvision" and not one.compiled]
    names = [comparison["name"] for comparison in result["comparisons"]]
    assert names == [
        f"{mode}-32-{reduction}" for reduction in ("reduced", "naive") for mode in ("training", "evaluation")
    ]
    for comparison in result["comparisons"]:
        expected = baselines if comparison["name"].endswith("reduced") else []  # torchvision has no other network
        assert list(comparison["rounds"]) == [OURS, *expected]
        bound = 1 / sum(layer["seconds"] for layer in result["setting"]["roofline"][comparison["name"]])
        for (measurement,) in comparison["rounds"].values():
            assert measurement[step.SHARE] == pytest.approx(measurement[meter.SPEED] / bound)


def test_ours_in_float32_is_compared_with_float32_alone_and_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "measured_ceiling", lambda *_: CEILING)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = step.StepOptions(sides=(32,), batch=2, aux=("none",), repetitions=1, threads=1, precision="float32")
    step.main(options, output=ResultOutput(file=tmp_path / "step.json"))
    result = json.loads((tmp_path / "step.json").read_text(encoding="utf-8"))
    assert (result["suite"], result["setting"]["precision"]) == ("step-float32", "float32")
    assert list(result["comparisons"][0]["rounds"]) == [OURS, "torchvision", "torchvision, channels_last"]
    assert not (tmp_path / "deeper" / "bench").exists(), "deeper plan takes rates in the precision of runs"
    assert FLOAT32_COMPILED in step_names(compiled=True, precision="float32")
    assert FLOAT32_COMPILED not in step_names(compiled=True)


def test_engines_evaluate_the_network_where_they_are_installed_and_say_how_to_install_them_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "measured_ceiling", lambda *_: CEILING)
    monkeypatch.setattr(step, "step_names", lambda **_: (OURS, *ENGINES))
    options = step.StepOptions(sides=(32,), batch=2, repetitions=1, threads=1, precision="float32", engines=True)
    step.main(options, output=ResultOutput(file=tmp_path / "step.json"))
    training, evaluation = json.loads((tmp_path / "step.json").read_text(encoding="utf-8"))["comparisons"]
    assert list(training["rounds"]) == [OURS]
    assert set(evaluation["rounds"]) | set(evaluation["absent"]) == {OURS, *ENGINES}
    assert "onnxruntime" in evaluation["rounds"]
    assert all("pip install" in reason for reason in evaluation["absent"].values())


def test_onnxruntime_gets_the_whole_network_and_its_batch() -> None:
    inputs = step_inputs(_port_network(), 3, torch.device("cpu"), training=False)
    (logits,) = STEPS["onnxruntime"].build(inputs)()
    assert logits.shape == (3, 10)


def test_ours_and_torchvisions_network_have_the_same_convolutions() -> None:
    import torchvision

    ours = GoogLeNet(_port_network())
    theirs = torchvision.models.googlenet(num_classes=10, aux_logits=True, init_weights=False)
    shapes = [
        sorted(tuple(layer.weight.shape) for layer in network.modules() if isinstance(layer, torch.nn.Conv2d))
        for network in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]


def test_images_that_are_too_small_for_the_network_are_refused() -> None:
    with pytest.raises(UserError, match=r"sides\.1: 16"):
        validated(step.StepOptions, {"sides": (224, 16)}, where="")
