"""The formats of exported networks: each makes the bytes of a file from a network and its description."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from reproduce.errors import UserError
from reproduce.export.layouts import differences, loads_in
from reproduce.export.onnx_graph import onnx_bytes
from reproduce.models import GoogLeNet

METADATA = "deeper"
"""The entry of a safetensors or ONNX file's metadata that holds the description, as JSON."""
NEEDED: Mapping[str, tuple[str, ...]] = {
    "torchvision": (),
    "onnx": ("onnx", "onnxscript"),
    "safetensors": ("safetensors",),
}
"""The formats, and the packages that each needs beside torch."""


def require(format: str) -> None:
    """Check that a format is known and that the packages which write it are installed.

    Raises:
        UserError: The format is unknown, or a package is missing.
    """
    if format not in NEEDED:
        raise UserError(f"--format: {format!r} is unknown; use one of {', '.join(NEEDED)}")
    for package in NEEDED[format]:
        if find_spec(package) is None:
            raise UserError(
                f"--format: {format} needs the package {package}, which is not installed; "
                "install it with: pip install 'deeper[export]'"
            )


def encode(format: str, network: GoogLeNet, description: Mapping[str, Any]) -> bytes:
    """Make the bytes of a file.

    Args:
        format: A format that `require` accepts.
        network: The network, in evaluation mode, in float32 and on the CPU.
        description: What the file says about the network. Torchvision's layout has no place for it in the file;
            `beside` makes a file for it.
    """
    return _ENCODERS[format](network, description)


def beside(format: str, path: Path) -> Path | None:
    """Return the path of the description in JSON that accompanies a file; None if the file itself holds it."""
    return path.with_name(f"{path.name}.json") if format == "torchvision" else None


def described(format: str, network: GoogLeNet, description: Mapping[str, Any]) -> dict[str, Any]:
    """Add to a description what it says about the format: how the file is loaded, and what differs from torchvision."""
    if format == "onnx":
        return {"format": format, **description}
    return {
        "format": format,
        "loads_in": loads_in(network) if format == "torchvision" else "reproduce.export.loading.load(FILE)",
        "differs_from_torchvision": differences(network),
        **description,
    }


def _state(network: GoogLeNet) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


def _torchvision(network: GoogLeNet, _: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(_state(network), file)
    return file.getvalue()


def _safetensors(network: GoogLeNet, description: Mapping[str, Any]) -> bytes:
    from safetensors.torch import save

    return save(_state(network), {"format": "pt", METADATA: json.dumps(description, ensure_ascii=False)})


def _onnx(network: GoogLeNet, description: Mapping[str, Any]) -> bytes:
    return onnx_bytes(network, {METADATA: json.dumps(description, ensure_ascii=False)})


_ENCODERS: Mapping[str, Callable[[GoogLeNet, Mapping[str, Any]], bytes]] = {
    "torchvision": _torchvision,
    "onnx": _onnx,
    "safetensors": _safetensors,
}
