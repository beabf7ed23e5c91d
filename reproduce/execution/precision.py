"""Decide the precision of a network's arithmetic from a recipe and a device. No other module decides it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Instructions = Literal["cuda", "amx_bf16", "avx512_bf16", "none"]

CPU_INSTRUCTIONS: tuple[Instructions, ...] = ("amx_bf16", "avx512_bf16")
"""CPU instruction sets with bf16 arithmetic. Where a CPU has both, oneDNN prefers the first."""


@dataclass(frozen=True)
class Precision:
    """The arithmetic of a network on one device."""

    dtype: torch.dtype
    """`torch.bfloat16` or `torch.float32`. In training, bfloat16 means autocast: weights stay in float32."""
    instructions: Instructions
    """The device's instructions that compute in bf16; "none" for float32 and for bf16 that is only emulated."""

    def describe(self) -> dict[str, str]:
        """Return the entries of a run's record: `precision` ("bf16" or "float32") and `bf16_instructions`."""
        name = "bf16" if self.dtype is torch.bfloat16 else "float32"
        return {"precision": name, "bf16_instructions": self.instructions}


def resolve_precision(requested: str, device: torch.device) -> Precision:
    """Decide in which precision a network runs on a device.

    Args:
        requested: `RecipeConfig.precision`. "auto" chooses bf16 on devices with bf16 arithmetic, otherwise float32,
            because emulated bf16 is slower than float32. "bf16" is granted even if the device only emulates it.
        device: The device that computes.
    """
    instructions = _bf16_instructions(device)
    if requested == "bf16" or (requested == "auto" and instructions != "none"):
        return Precision(torch.bfloat16, instructions)
    return Precision(torch.float32, "none")


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Make the autocast context in which a forward pass computes in `dtype`. It has no effect if that is float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)


def _bf16_instructions(device: torch.device) -> Instructions:
    if device.type == "cuda":
        return "cuda" if torch.cuda.is_bf16_supported(including_emulation=False) else "none"
    capabilities = torch.cpu.get_capabilities()
    return next((name for name in CPU_INSTRUCTIONS if capabilities.get(name)), "none")
