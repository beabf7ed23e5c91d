"""Describes the machine: hardware, versions of packages, the kernels in use, and the ceilings of the device."""

from __future__ import annotations

import platform

import torch

from bench.machine.environment import environment
from bench.suites.gpu.probe import ProbeContext, Reporter, Value
from bench.suites.harness.ceilings import measured_ceiling
from reproduce.execution.precision import resolve_precision
from reproduce.limits import usable_cpus


def machine(context: ProbeContext, reporter: Reporter) -> None:
    """Report hardware and software of the machine, and the FLOP/s and memory bandwidth that the device reaches.

    The ceilings are measured in float32 and in the precision that a run uses on the device.
    """
    found = environment()
    here, packages = found["machine"], found["packages"]
    rows: dict[str, str] = {
        "CPU": f"{here['cpu']} ({', '.join(here['cpu_flags'])})",
        "cores": f"{here['cores_physical']}, {usable_cpus()} usable",
        "memory": f"{here['memory_gib']:.0f} GiB",
        "GPUs": ", ".join(gpu["name"] for gpu in found["gpus"]) or f"none ({found.get('gpu_absent', '')})",
        "driver": found.get("gpu_driver", ""),
        "Python": platform.python_version(),
        **{
            name: packages[name]
            for name in ("torch", "torchvision", "triton", "ffcv", "ray", "mlflow")
            if name in packages
        },
        "decoder": found["decoder"],
        "kernels": found["kernels"],
        "commit": str(found.get("commit", "none"))[:7] + (" with changes" if found.get("dirty") else ""),
    }
    if context.device.type == "cuda":
        rows |= _cuda_properties(context.device)
    reporter.table("what it is", {name: {"": value} for name, value in rows.items() if value})
    reporter.table(
        f"ceilings, {context.threads} threads" if context.device.type == "cpu" else "ceilings",
        {str(dtype).removeprefix("torch."): _ceiling(context.device, dtype) for dtype in _dtypes(context.device)},
    )


def _cuda_properties(device: torch.device) -> dict[str, str]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "CUDA": str(torch.version.cuda),
        "cuDNN": str(torch.backends.cudnn.version()),
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": str(properties.multi_processor_count),
        "GPU memory": f"{properties.total_memory / 2**30:.0f} GiB",
        "TF32 in convolutions": str(torch.backends.cudnn.allow_tf32),
    }


def _dtypes(device: torch.device) -> list[torch.dtype]:
    return list(dict.fromkeys([resolve_precision("auto", device).dtype, torch.float32]))


def _ceiling(device: torch.device, dtype: torch.dtype) -> dict[str, Value]:
    ceiling = measured_ceiling(device, dtype)
    return {"TFLOP/s": ceiling.flops_per_s / 1e12, "GB/s": ceiling.bytes_per_s / 1e9}
