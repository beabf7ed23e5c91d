"""How a run is computed: what is described, what is compared, and what forbids to resume."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest
import torch

from bench.machine.computation import Computation, changes, merged, refusal, this_computation
from reproduce.native import DECODER, KERNELS, levels

HERE = Computation(
    machine="amd avx2, torch AVX2", code="c0de", decoder="native", kernels="torch", threads=1, compiled=False, torch="2"
)
PRINT = (
    "import torch; from bench.machine.computation import this_computation; "
    "print(this_computation(torch.device('cpu'), threads=1, compiled=False).machine)"
)


def test_this_process_is_described_with_the_implementations_that_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DECODER.variable, "stock")
    monkeypatch.setenv(KERNELS.variable, "torch")
    found = this_computation(torch.device("cpu"), threads=2, compiled=True)
    assert (found.decoder, found.kernels, found.threads, found.compiled) == ("stock", "torch", 2, True)
    assert found.torch == torch.__version__
    assert torch.backends.cpu.get_cpu_capability() in found.machine


def test_gpus_have_kernels_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")

    def kernels() -> str | None:
        return this_computation(torch.device("cuda", 0), threads=2, compiled=False).kernels

    monkeypatch.delenv(KERNELS.variable, raising=False)
    assert kernels() == "torch"
    monkeypatch.setenv(KERNELS.variable, "native")
    assert kernels() == "native"


def test_graphs_are_a_fact_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")

    def graphed(device: str) -> bool:
        return this_computation(torch.device(device), threads=2, compiled=False).graphed

    monkeypatch.delenv("DEEPER_GRAPH", raising=False)
    assert not graphed("cuda:0")
    monkeypatch.setenv("DEEPER_GRAPH", "on")
    assert graphed("cuda:0")
    assert not graphed("cpu")


def test_instructions_that_torch_is_forbidden_make_another_kind_of_machine() -> None:
    def machine(**variables: str) -> str:

        done = subprocess.run(
            [sys.executable, "-c", PRINT],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=True,
            encoding="utf-8",
        )
        return done.stdout.strip()

    assert machine(ATEN_CPU_CAPABILITY="default").endswith("torch DEFAULT")
    assert machine(ONEDNN_MAX_CPU_ISA="AVX2").endswith("oneDNN at most AVX2")
    for level in levels.supported():
        assert machine(DEEPER_CPU_LEVEL=level).endswith(f", C for {level}")


def test_ranks_that_differ_are_named_together() -> None:
    other = dataclasses.replace(HERE, machine="amd avx512_bf16, torch AVX512")
    assert merged([HERE, HERE]) == HERE
    assert merged([other, HERE]).machine == "amd avx2, torch AVX2 + amd avx512_bf16, torch AVX512"
    assert merged([other, HERE]) == merged([HERE, other]), "the order of the ranks does not matter"


@pytest.mark.parametrize(
    ("fact", "value", "words"),
    [
        ("machine", "NVIDIA H200", "another kind of machine (amd avx2, torch AVX2, here NVIDIA H200)"),
        ("code", "beef", "other code (c0de, here beef)"),
        ("decoder", "stock", "another decoder (native, here stock)"),
        ("kernels", "native", None),
        ("threads", 2, None),
        ("torch", "3", None),
    ],
)
def test_what_may_change_more_than_rounding_forbids_to_resume(fact: str, value: object, words: str | None) -> None:
    differing = changes(vars(HERE), vars(dataclasses.replace(HERE, **{fact: value})))
    assert list(differing) == [fact]
    found = refusal(differing)
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert words in found
        assert "--allow-other-machine" in found
        assert "allow_other_machine: true" in found


def test_what_was_not_recorded_is_not_compared() -> None:
    assert changes(None, vars(HERE)) == {}
    assert changes({"code": "c0de"}, vars(HERE)) == {}
    assert refusal({}) is None


def test_the_code_is_described_by_a_hash() -> None:
    assert len(this_computation(torch.device("cpu"), threads=1, compiled=False).code) == 12
