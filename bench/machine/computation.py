"""Describes how a process computes: the facts of machine and code that may change a run's numbers but not its key.

A key holds what an experiment asks for, so that runs of several machines meet under it. How each attempt was computed
is recorded instead. Machine, code and decoder can change results by more than rounding, or did so in the past; a run is
not resumed under others unasked. The remaining facts change results by rounding only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from bench.machine.cpu import this_cpu
from reproduce.code import code_hash
from reproduce.native import DECODER, KERNELS, ImplementationError, Library, levels
from reproduce.training.graphs.switch import graph_wanted

if TYPE_CHECKING:
    import torch

    from reproduce.native.backend import Backend

ESSENTIAL = {"machine": "another kind of machine", "code": "other code", "decoder": "another decoder"}
"""The facts without which a run is not resumed unasked, and what one is called that differs."""


@dataclass(frozen=True, kw_only=True)
class Computation:
    """How a run is computed. If the ranks of a run differ in a fact, its values are joined by " + "."""

    machine: str
    """The kind of machine: the GPU's name, or the CPU's vendor and best instruction set, and the set that torch uses
    (as in "amd avx512_bf16, torch AVX512"), with what the environment holds oneDNN and our C code to."""
    code: str
    """The hash of the source files that compute, see `reproduce.code`."""
    decoder: str
    """`native`, `stock`, or `unavailable`."""
    kernels: str | None
    """`native`, `torch`, or `native and torch` if some kinds of layers are left to torch. None on a CPU in
    float32, unless `DEEPER_KERNELS=native` asks for ours: torch computes these layers then."""
    threads: int | None
    """Threads of each rank. None on a GPU, where they change no number."""
    compiled: bool
    """Whether torch.compile compiles the network."""
    graphed: bool = False
    """Whether steps are to be replayed as CUDA graphs, which `DEEPER_GRAPH=on` asks for on GPUs. Whether they were is
    said by the record's `graph` events."""
    torch: str
    """The version of torch."""


def this_computation(device: torch.device, *, threads: int, compiled: bool) -> Computation:
    """Describe how this process computes on a device. The first call may compile the project's C code.

    Args:
        device: The device that trains.
        threads: Threads of this rank.
        compiled: Whether torch.compile compiles the network.
    """
    import torch

    from reproduce.native.gpu.backend import TRITON

    on_cpu = device.type == "cpu"
    return Computation(
        machine=_cpu_kind() if on_cpu else torch.cuda.get_device_name(device),
        code=code_hash(),
        decoder=_implementation(DECODER),
        kernels=_implementation(KERNELS if on_cpu else TRITON),
        threads=threads if on_cpu else None,
        compiled=compiled,
        graphed=not on_cpu and graph_wanted(),
        torch=torch.__version__,
    )


def machine_kind(gpu: bool) -> str:
    """Return the `machine` of a `Computation` on this host.

    Args:
        gpu: Whether it computes on a GPU, of which all of a host are taken to be of one kind.
    """
    import torch

    return torch.cuda.get_device_name(0) if gpu and torch.cuda.is_available() else _cpu_kind()


def merged(computations: Sequence[Computation]) -> Computation:
    """Combine the computations of all ranks of a run, of which there is at least one."""
    values: dict[str, Any] = {}
    for field in fields(Computation):
        found = list(dict.fromkeys(getattr(computation, field.name) for computation in computations))
        values[field.name] = found[0] if len(found) == 1 else " + ".join(sorted(map(str, found)))
    return Computation(**values)


def changes(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> dict[str, list[Any]]:
    """Compare how two attempts at a run were computed, as recorded.

    Args:
        before: The fields of the earlier `Computation`; None if it is not recorded.
        now: Those of the later one.

    Returns:
        The earlier and the later value of each fact that differs. Facts that only one of the two has are left out.
    """
    if before is None or now is None:
        return {}
    return {name: [before[name], now[name]] for name in before if name in now and before[name] != now[name]}


def refusal(differing: Mapping[str, Sequence[Any]]) -> str | None:
    """Return why a run with a checkpoint is not resumed here unless this is asked for.

    Args:
        differing: What `changes` returned.

    Returns:
        Part of a sentence that names what differs and which option allows it; None if nothing essential differs.
    """
    found = [
        f"{name} ({differing[fact][0]}, here {differing[fact][1]})"
        for fact, name in ESSENTIAL.items()
        if fact in differing
    ]
    if not found:
        return None
    return (
        f"its checkpoint comes from {' and '.join(found)}; resume it there, or here with `deeper run EXPERIMENT "
        "--allow-other-machine` (in a SLURM profile: allow_other_machine: true)"
    )


def _cpu_kind() -> str:
    import torch

    cpu = this_cpu()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    used = f"torch {torch.backends.cpu.get_cpu_capability()}" + (f", oneDNN at most {limit}" if limit else "")
    if level := levels.requested():
        used += f", C for {level}"
    return f"{cpu.vendor} {next(iter(cpu.flags), 'cpu')}, {used}"


def _implementation(library: Library | Backend) -> str:
    try:
        return library.implementation().name
    except ImplementationError:  # training says so, and ends
        return "unavailable"
