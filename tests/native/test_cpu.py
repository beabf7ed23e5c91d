"""What is read from /proc/cpuinfo."""

from __future__ import annotations

from reproduce.native.cpu import CpuInfo, parse

X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9R14
flags\t\t: fpu avx2 avx512f

processor\t: 1
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9R14
flags\t\t: fpu avx2
"""
ARM = """processor\t: 0
Features\t: fp asimd bf16
CPU implementer\t: 0x41
CPU part\t: 0xd46

processor\t: 1
Features\t: fp asimd bf16
CPU implementer\t: 0x41
CPU part\t: 0xd4d

processor\t: 2
CPU part\t: 0xd46
"""


def test_an_x86_has_the_first_processors_model_vendor_and_flags() -> None:
    assert parse(X86) == CpuInfo("AMD EPYC 9R14", "AuthenticAMD", (), ("fpu", "avx2", "avx512f"))


def test_an_arm_has_an_implementer_and_the_part_of_each_kind_of_core() -> None:
    assert parse(ARM) == CpuInfo("", "0x41", ("0xd46", "0xd4d"), ("fp", "asimd", "bf16"))


def test_a_text_that_says_nothing_gives_empty_fields() -> None:
    assert parse("processor: 0\n") == CpuInfo()
