"""Kinds of machine, from what real ones say of themselves, and where results of each go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.machine.cpu import Cpu, parse
from bench.results import store as results
from bench.results.store import kind
from bench.suites import quick
from reproduce.spec import SpecError

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
def test_an_x86_is_known_by_its_vendor_and_best_instruction_set(vendor: str, flags: str, expected: str) -> None:
    cpu = parse(X86.format(vendor=vendor, model="A CPU @ 2 GHz", flags=flags))
    assert cpu.model == "A CPU @ 2 GHz"
    assert kind(machine(cpu)) == expected


def test_an_arm_is_known_by_its_implementer() -> None:
    assert kind(machine(parse(ARM))) == "arm-bf16"


def test_a_cpu_that_tells_nothing_is_known_by_its_architecture() -> None:
    assert kind(machine(Cpu("?", "riscv64", ()))) == "riscv64"


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        (["NVIDIA H200"], "nvidia-h200"),
        (["NVIDIA H100 80GB HBM3"] * 4, "4x-nvidia-h100-80gb-hbm3"),
        (["NVIDIA A100-SXM4-40GB", "NVIDIA L4"], "nvidia-a100-sxm4-40gb-and-nvidia-l4"),
    ],
)
def test_gpus_count_before_the_cpu(gpus: list[str], expected: str) -> None:
    found = machine(parse(ARM), *gpus)
    assert kind(found) == expected
    assert kind(found, gpu=False) == "arm-bf16", "torch cannot use them"


def test_a_gpu_without_nvml_stands_with_no_cpu() -> None:
    assert kind(machine(parse(ARM)), gpu=True) == "gpu"


def test_a_quick_check_without_a_reference_of_its_kind_names_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "amd-avx2").mkdir()
    (tmp_path / "amd-avx2" / "quick.json").write_text("{}", encoding="utf-8")
    (tmp_path / "intel-avx512").mkdir()
    for module in (results, quick):
        monkeypatch.setattr(module, "COMMITTED", tmp_path)
    said = quick.no_reference("nvidia-h200")
    assert said.startswith("no reference for nvidia-h200, there are those of amd-avx2: nothing is compared")


def test_a_result_says_what_it_takes_to_judge_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "step.json"
    results.write(path, "step", {"setting": {"batch": 4}})
    written = json.loads(path.read_text(encoding="utf-8"))
    assert list(written) == ["suite", "date", "command", "setting", "environment"]
    assert written["environment"]["machine"]["cpu_vendor"]


def test_json_without_a_file_means_the_folder_of_this_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from bench.cli import build_parser
    from bench.commands.benchmarks import _output

    arguments = build_parser().parse_args(["bench", "step", "--json"])
    assert _output(arguments, "step") == results.COMMITTED / results.here() / "step.json"
    assert _output(build_parser().parse_args(["bench", "step"]), "step") is None
    with pytest.raises(SpecError, match=r"--json: .* is a folder; give a file"):
        _output(build_parser().parse_args(["bench", "step", "--json", str(tmp_path)]), "step")
