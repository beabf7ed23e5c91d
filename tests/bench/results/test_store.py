"""Kinds of machine, derived from what real machines report, and where the results of each kind go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.machine.cpu import Cpu, parse
from bench.results import store as results
from bench.results.store import machine_kind
from bench.suites import quick

X86 = """processor\t: 0
vendor_id\t: {vendor}
cpu family\t: 25
model name\t: {model}
flags\t\t: fpu vme sse sse2 {flags} constant_tsc
bugs\t\t: spectre_v1

processor\t: 1
vendor_id\t: other
"""
ARM = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes sve i8mm bf16 dgh
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""


def machine(cpu: Cpu, *gpus: str) -> dict[str, Any]:
    found = {"cpu": cpu.model, "cpu_vendor": cpu.vendor, "cpu_flags": list(cpu.flags)}
    return {"machine": found, "gpus": [{"name": name, "uuid": str(index)} for index, name in enumerate(gpus)]}


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("GenuineIntel", "avx2 avx512f avx512_bf16 amx_bf16 amx_tile", "intel-amx-bf16"),
        ("AuthenticAMD", "avx2 avx512f avx512_bf16 avx512_vnni", "amd-avx512-bf16"),
        ("GenuineIntel", "avx avx2 avx512f", "intel-avx512"),
        ("AuthenticAMD", "avx avx2 fma", "amd-avx2"),
    ],
)
def test_an_x86_is_named_after_its_vendor_and_best_instruction_set(vendor: str, flags: str, expected: str) -> None:
    cpu = parse(X86.format(vendor=vendor, model="A CPU @ 2 GHz", flags=flags))
    assert cpu.model == "A CPU @ 2 GHz"
    assert machine_kind(machine(cpu)) == expected


def test_a_cpu_that_is_held_to_lower_instructions_is_a_kind_of_its_own() -> None:
    cpu = parse(X86.format(vendor="GenuineIntel", model="?", flags="avx2 avx512f amx_bf16"))
    held = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "DEEPER_CPU_LEVEL": "x86-64-v3"}
    assert machine_kind({**machine(cpu), "held_to": held}) == "intel-amx-bf16-held-to-avx2"
    partly = {**held, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
    assert machine_kind({**machine(cpu), "held_to": partly}) == "intel-amx-bf16-held-to-avx2-and-avx512-core-bf16"


def test_an_arm_is_named_after_its_implementer() -> None:
    assert machine_kind(machine(parse(ARM))) == "arm-bf16"


def test_a_cpu_that_reports_no_flags_is_named_after_its_architecture() -> None:
    assert machine_kind(machine(Cpu("?", "riscv64", ()))) == "riscv64"


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        (["NVIDIA H200"], "nvidia-h200"),
        (["NVIDIA H100 80GB HBM3"] * 4, "4x-nvidia-h100-80gb-hbm3"),
        (["NVIDIA A100-SXM4-40GB", "NVIDIA L4"], "nvidia-a100-sxm4-40gb-and-nvidia-l4"),
    ],
)
def test_gpus_come_before_the_cpu_unless_torch_cannot_use_them(gpus: list[str], expected: str) -> None:
    found = machine(parse(ARM), *gpus)
    assert machine_kind(found) == expected
    assert machine_kind(found, gpu=False) == "arm-bf16", "torch cannot use them"


def test_a_gpu_without_nvml_is_not_named_after_the_cpu() -> None:
    assert machine_kind(machine(parse(ARM)), gpu=True) == "gpu"


def test_quick_without_a_reference_names_the_kinds_that_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "amd-avx2").mkdir()
    (tmp_path / "amd-avx2" / "quick.json").write_text("{}", encoding="utf-8")
    (tmp_path / "intel-avx512").mkdir()
    for module in (results, quick):
        monkeypatch.setattr(module, "COMMITTED", tmp_path)
    message = quick.no_reference("nvidia-h200")
    assert message.startswith("no reference for nvidia-h200, only for amd-avx2: nothing is compared")


def test_a_written_result_has_date_command_and_environment(tmp_path: Path) -> None:
    path = tmp_path / "new" / "step.json"
    results.write_result(path, results.with_provenance("step", {"setting": {"batch": 4}}))
    written = json.loads(path.read_text(encoding="utf-8"))
    assert list(written) == ["suite", "date", "command", "setting", "environment"]
    assert written["environment"]["machine"]["cpu_vendor"]
