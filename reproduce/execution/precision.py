"""The precision of a network's arithmetic: decided here, from a recipe and a device, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Instructions = Literal["cuda", "amx_bf16", "avx512_bf16", "none"]

CPU_INSTRUCTIONS: tuple[Instructions, ...] = ("amx_bf16", "avx512_bf16")
"""CPU instruction sets with bf16 arithmetic. Where a CPU has both, oneDNN prefers the first."""


@dataclass(frozen=True)
class Precision:
    """The arithmetic in which a network runs on one device."""

    dtype: torch.dtype
    """`torch.bfloat16` (by autocast in training) or `torch.float32`."""
    instructions: Instructions
    """What computes in bf16; "none" for float32, and for bf16 that the device only emulates."""

    def describe(self) -> dict[str, str]:
        """What a run records about its precision."""
        name = "bf16" if self.dtype is torch.bfloat16 else "float32"
        return {"precision": name, "bf16_instructions": self.instructions}


def resolve_precision(requested: str, device: torch.device) -> Precision:
    """Decide in which precision a network runs on a device.

    Args:
        requested: `RecipeConfig.precision`. "auto" means bf16 where the device has bf16 arithmetic and float32
            elsewhere, because a CPU that only emulates bf16 is slower with it.
        device: The device that computes.
    """
    instructions = _bf16_instructions(device)
    if requested == "bf16" or (requested == "auto" and instructions != "none"):
        return Precision(torch.bfloat16, instructions)
    return Precision(torch.float32, "none")


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The autocast context in which a forward pass computes in `dtype`; disabled for float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)


def _bf16_instructions(device: torch.device) -> Instructions:
    if device.type == "cuda":
        return "cuda" if torch.cuda.is_bf16_supported(including_emulation=False) else "none"
    capabilities = torch.cpu.get_capabilities()
    return next((name for name in CPU_INSTRUCTIONS if capabilities.get(name)), "none")
