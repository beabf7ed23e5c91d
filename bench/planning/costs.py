"""The costs of networks, each counted once for a version of the code and then kept in the user's cache.

To count them takes torch, whose import and rules of shapes cost several seconds of a CPU, on a login node as elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from reproduce import schema
from reproduce.code import code_hash
from reproduce.files.atomic import write_atomically
from reproduce.native.caching import cache
from reproduce.spec import NetworkConfig

NAMES = (
    schema.COST_PARAMETERS,
    schema.COST_PARAMETERS_INFERENCE,
    schema.COST_MACS,
    schema.COST_MACS_TRAINING,
)


def network_costs(network: NetworkConfig) -> dict[str, float]:
    """Return the costs of a network by their `schema.COST_*` names: parameters and multiply-adds of one image.

    Raises:
        SpecError: The network cannot take images of its resolution.
    """
    file = _file(network)
    if (known := _read(file)) is not None:
        return known
    from reproduce.models.cost import cost

    inference, training = cost(network, training=False), cost(network, training=True)
    counted = (training.parameters, inference.parameters, inference.macs, training.macs)
    costs: dict[str, float] = dict(zip(NAMES, counted, strict=True))
    with contextlib.suppress(OSError):  # without a cache, they are only counted again
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(costs).encode(), durable=False)
    return costs


def _file(network: NetworkConfig) -> Path:
    content = f"{code_hash()} {network.model_dump_json()}"
    return cache() / "costs" / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"


def _read(file: Path) -> dict[str, float] | None:
    """Return the costs in a file of the cache; None if there is none, or if something else is in it."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or set(found) != set(NAMES):
        return None
    return found if all(isinstance(value, int) for value in found.values()) else None
