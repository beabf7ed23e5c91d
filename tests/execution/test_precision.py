"""The precision of a network's arithmetic follows from the recipe and the device, and says what computes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from reproduce.execution.precision import autocast, resolve_precision

CPU = torch.device("cpu")


@pytest.fixture
def capabilities(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What torch says about the CPU; empty at first."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    return found


def test_a_recipe_may_request_a_precision_whatever_the_device(capabilities: dict[str, Any]) -> None:
    assert resolve_precision("bf16", CPU).dtype is torch.bfloat16
    assert resolve_precision("bf16", CPU).instructions == "none", "bf16 that the device only emulates"
    capabilities["avx512_bf16"] = True
    assert resolve_precision("float32", CPU).describe() == {"precision": "float32", "bf16_instructions": "none"}


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ({}, {"precision": "float32", "bf16_instructions": "none"}),
        ({"avx512_bf16": False, "amx_bf16": False}, {"precision": "float32", "bf16_instructions": "none"}),
        ({"avx512_bf16": True, "amx_bf16": False}, {"precision": "bf16", "bf16_instructions": "avx512_bf16"}),
        ({"avx512_bf16": True, "amx_bf16": True}, {"precision": "bf16", "bf16_instructions": "amx_bf16"}),
    ],
)
def test_auto_is_bf16_on_cpus_that_have_instructions_for_it(
    capabilities: dict[str, Any], instructions: dict[str, bool], expected: dict[str, str]
) -> None:
    capabilities.update(instructions)
    assert resolve_precision("auto", CPU).describe() == expected


@pytest.mark.parametrize(("supported", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_bf16_on_gpus_that_do_not_emulate_it(
    monkeypatch: pytest.MonkeyPatch, supported: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    precision = resolve_precision("auto", torch.device("cuda"))
    assert precision.dtype is dtype
    assert precision.instructions == ("cuda" if supported else "none")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_computes_in_the_given_precision(dtype: torch.dtype) -> None:
    with autocast(CPU, dtype):
        assert torch.nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2)).dtype is dtype
