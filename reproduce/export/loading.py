"""Reads exported networks back: files in torchvision's layout with their description, and safetensors files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reproduce.errors import UserError
from reproduce.evaluation.weights import WeightsError, read_state_dict
from reproduce.export.formats import METADATA, beside, require
from reproduce.models import GoogLeNet
from reproduce.spec import NetworkConfig, validated


class Exported(NamedTuple):
    """A network read from a file, and the description that came with it."""

    network: GoogLeNet
    """In evaluation mode, in float32 and on the CPU. Its input is normalised images."""
    description: dict[str, Any]


def load(path: Path | str) -> Exported:
    """Load a network that `deeper export` wrote as torchvision's layout or as safetensors, in whatever layout it is.

    Args:
        path: The file. The description of a file in torchvision's layout must lie beside it.

    Raises:
        UserError: The file or its description is missing or damaged, or the file is not one of these.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a file that `deeper export` wrote")
    state, description = _safetensors(path) if path.suffix == ".safetensors" else _torchvision(path)
    try:
        config = validated(NetworkConfig, description["network"], where=f"{path}: network.")
        with torch.device("meta"):
            network = GoogLeNet(config)
        network.load_state_dict(state, assign=True)
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: its weights and its description do not belong together: {error}") from error
    return Exported(network.eval().requires_grad_(False), description)


def _torchvision(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    note = beside("torchvision", path)
    assert note is not None
    try:
        description = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{note}: no such file; it describes {path.name} and must lie beside it") from None
    except ValueError as error:
        raise UserError(f"{note}: damaged, no JSON: {error}; export the network again") from error
    try:
        state = read_state_dict(path)
    except WeightsError as error:
        raise UserError(f"{path}: {error}; export the network again") from error
    return state, description


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    require("safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise UserError(f"{path}: damaged, or no safetensors file: {error}") from error
    if METADATA not in metadata:
        raise UserError(f"{path}: does not describe its network; give a file that `deeper export` wrote")
    return state, json.loads(metadata[METADATA])
