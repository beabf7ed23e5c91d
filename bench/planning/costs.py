"""The costs of networks, each counted once for a version of the code and then kept in the user's cache.

To count them takes torch, whose import and rules of shapes cost several seconds of a CPU, on a login node as elsewhere.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from reproduce import schema
from reproduce.code import code_hash
from reproduce.files.atomic import write_atomically
from reproduce.native.caching import cache
from reproduce.spec import NetworkConfig

COSTS = (
    schema.COST_PARAMETERS,
    schema.COST_PARAMETERS_INFERENCE,
    schema.COST_MACS,
    schema.COST_MACS_TRAINING,
)


class Stored(NamedTuple):
    """What tensors take in a file, beside the headers of the file."""

    tensors: int
    """Number of tensors."""
    bytes: int
    """Bytes of their numbers."""


PARAMETERS, STATE = "parameters", "state"
SIZES = tuple(f"{part}/{field}" for part in (PARAMETERS, STATE) for field in Stored._fields)


def network_costs(network: NetworkConfig) -> dict[str, float]:
    """Return the costs of a network by their `schema.COST_*` names: parameters and multiply-adds of one image.

    Raises:
        SpecError: The network cannot take images of its resolution.
    """
    counted = _counted(network)
    return {name: counted[name] for name in COSTS}


def parameter_size(network: NetworkConfig) -> Stored:
    """Return the size of a network's parameters."""
    return _size(network, PARAMETERS)


def state_size(network: NetworkConfig) -> Stored:
    """Return the size of a network's state dict: its parameters, and the statistics of normalisation."""
    return _size(network, STATE)


def are_counted(networks: Iterable[NetworkConfig]) -> bool:
    """Return whether the cache holds the costs of all these networks, so that they are there at once."""
    return all(_read(_file(network)) is not None for network in networks)


def _size(network: NetworkConfig, part: str) -> Stored:
    counted = _counted(network)
    return Stored(*(counted[f"{part}/{field}"] for field in Stored._fields))


def _counted(network: NetworkConfig) -> dict[str, int]:
    file = _file(network)
    if (known := _read(file)) is not None:
        return known
    counted = _count(network)
    with contextlib.suppress(OSError):  # without a cache, they are only counted again
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(counted).encode(), durable=False)
    return counted


@functools.cache
def _count(network: NetworkConfig) -> dict[str, int]:
    import torch

    from reproduce.models import GoogLeNet
    from reproduce.models.cost import cost

    inference, training = cost(network, training=False), cost(network, training=True)
    with torch.device("meta"):
        built = GoogLeNet(network)
    sizes = (
        value
        for tensors in (list(built.parameters()), list(built.state_dict().values()))
        for value in (len(tensors), sum(tensor.numel() * tensor.element_size() for tensor in tensors))
    )
    costs = (training.parameters, inference.parameters, inference.macs, training.macs)
    return dict(zip((*COSTS, *SIZES), (*costs, *sizes), strict=True))


def _file(network: NetworkConfig) -> Path:
    content = f"{code_hash()} {network.model_dump_json()}"
    return cache() / "costs" / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"


def _read(file: Path) -> dict[str, int] | None:
    """Return the costs in a file of the cache; None if there is none, or if something else is in it."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or set(found) != {*COSTS, *SIZES}:
        return None
    return found if all(isinstance(value, int) for value in found.values()) else None
